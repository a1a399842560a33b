import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { parseHTML } from 'linkedom'
import { presets } from '../presets/index.ts'
import { purposes } from '../presets/purposes.ts'
import { type Curve, differences, renderLossChart, thin } from '../src/cli/chart.ts'
import { presetRows } from '../src/cli/presets.ts'
import { loadConfig } from '../src/config/load.ts'
import { configText } from '../src/run/read.ts'
import { runCli } from './cli.ts'

const folder = mkdtempSync(join(tmpdir(), 'halfbyte-plot-'))
after(() => rmSync(folder, { recursive: true }))

const curve = (label: string, offset: number, steps = 1000): Curve => ({
  label,
  training: Array.from({ length: steps }, (_, i) => ({ step: i + 1, loss: 2 + offset + 3 * Math.exp(-i / 100) })),
  validation: [{ step: steps, loss: 2.25 + offset }],
})

/** The parsed picture. */
const parse = (svg: string) => parseHTML(`<html><body>${svg}</body></html>`).document.querySelector('svg')!

const textsOf = (svg: string): string[] => [...parse(svg).querySelectorAll('text')].map(node => node.textContent ?? '')

describe('loss chart', () => {
  it('has labelled axes, a legend with last validation losses, and a background of its own', () => {
    const svg = renderLossChart([curve('a', 0), curve('b <1> & 2', 1)])
    assert.match(svg, /^<svg [^>]*xmlns="http:\/\/www\.w3\.org\/2000\/svg"/)
    const texts = textsOf(svg)
    for (const text of ['loss (nats per token)', 'step →', 'a, validation 2.250', 'b <1> & 2, validation 3.250'])
      assert.ok(texts.includes(text), text)
    assert.equal(parse(svg).querySelector('rect')?.getAttribute('fill'), '#ffffff')
    assert.ok(!/<script|url\(|undefined|NaN/.test(svg))
  })

  it('draws lower losses lower: the ends of two curves are as far apart as their losses', () => {
    const paths = [
      ...parse(renderLossChart([curve('a', 0), curve('b', 1)])).querySelectorAll('[aria-label="line"] path'),
    ]
    assert.equal(paths.length, 4)
    const ends = paths.map(path => Number(/,([\d.]+)$/.exec(path.getAttribute('d')!)![1]))
    const [a, b] = [ends[1]!, ends[3]!]
    assert.ok(a > b + 20, `the lower loss ends at ${a}, the higher at ${b}`)
  })

  it('draws how far others are from the first, where both have a step', () => {
    const first = curve('a', 0, 400)
    const twice = (points: Curve['training']) => points.map(({ step, loss }) => ({ step, loss: 1.01 * loss }))
    const other = { label: 'b', training: twice(curve('', 0).training), validation: twice(first.validation) }
    const { curves, text } = differences([first, other])
    assert.deepEqual(
      curves.map(({ label, training, validation }) => [label, training.length, validation.length]),
      [['b', 400, 1]],
    )
    for (const { loss } of curves[0]!.training) assert.ok(Math.abs(loss + 1) < 1e-9)
    const texts = textsOf(renderLossChart(curves, text))
    for (const part of ['loss against a, difference in %', 'b, validation -1.00 %'])
      assert.ok(texts.includes(part), part)
  })

  it('leaves out what is not finite', () => {
    const broken = { ...curve('a', 0), validation: [{ step: 1, loss: Number.NaN }] }
    assert.ok(textsOf(renderLossChart([broken])).includes('a'))
  })

  it('stays small, however long the run is', () => {
    assert.ok(renderLossChart([curve('a', 0, 50_000)]).length < 40_000)
  })

  it('thins curves to means of neighbours', () => {
    const points = Array.from({ length: 10 }, (_, i) => ({ step: i, loss: 2 * i }))
    assert.deepEqual(thin(points, 5)[1], { step: 2.5, loss: 5 })
    assert.equal(thin(points, 4).length, 4)
    assert.deepEqual(thin(points, 10), points)
  })
})

describe('halfbyte plot', () => {
  const run = join(folder, 'tiny-001')
  mkdirSync(run)
  const origin = { halfbyte: '0.1.0', device: {}, corpus: '' }
  writeFileSync(join(run, 'config.json'), configText({ config: loadConfig('tiny', [], presets), origin }))
  const metrics = join(run, 'metrics.jsonl')

  it('says that a run without steps has nothing to plot', () => {
    const { status, stderr } = runCli(['plot', run])
    assert.deepEqual([status, stderr], [1, `halfbyte: ${run} has no training steps yet: there is nothing to plot\n`])
  })

  it('writes the picture of a run directory to a file, or to stdout', () => {
    writeFileSync(metrics, '{"step":1,"loss":5}\n{"step":2,"loss":4}\n{"step":2,"validation_loss":4.5}\n{"step":3,"lo')
    const out = join(folder, 'out.svg')
    const { status, stdout, stderr } = runCli(['plot', run, '--out', out])
    assert.deepEqual([status, stdout, stderr], [0, `wrote ${out}\n`, ''])
    const svg = readFileSync(out, 'utf8')
    assert.ok(textsOf(svg).includes('tiny-001 (nvfp4), validation 4.500'))
    assert.equal(runCli(['plot', run, '--out', '-']).stdout, svg)
  })

  it('draws differences of at least two runs', () => {
    const single = runCli(['plot', run, '--difference'])
    assert.deepEqual(
      [single.status, single.stderr],
      [2, 'halfbyte: --difference is from the first of at least two runs, found 1\n'],
    )
    const svg = runCli(['plot', run, run, '--difference', '--out', '-']).stdout
    assert.ok(textsOf(svg).includes('tiny-001 (nvfp4), validation 0.00 %'))
  })

  it('names a directory that is no run, and a file that cannot be written', () => {
    const wrong = runCli(['plot', folder])
    assert.equal(wrong.status, 1)
    assert.match(wrong.stderr, /^halfbyte: .* is not a run directory: it has no config\.json\n$/)
    const { status, stderr } = runCli(['plot', run, '--out', join(folder, 'absent', 'a.svg')])
    assert.equal(status, 1)
    assert.match(stderr, /^halfbyte: .*a\.svg cannot be written: .+\n$/)
  })
})

describe('halfbyte presets', () => {
  it('lists every preset with its size and its purpose', () => {
    assert.deepEqual(Object.keys(purposes), Object.keys(presets))
    const { stdout } = runCli(['presets', '--json'])
    assert.deepEqual(JSON.parse(stdout), presetRows())
    const twelve = presetRows().find(({ name }) => name === 'nemotron-nano-12b')!
    assert.deepEqual([twelve.parameters, twelve.blocks], [12_310_001_152, '28M 28- 6*'])
    assert.equal(runCli(['presets']).stdout.trimEnd().split('\n').length, Object.keys(presets).length + 1)
  })
})
