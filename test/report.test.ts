import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { parseHTML } from 'linkedom'
import { presets } from '../presets/index.ts'
import { packageRoot } from '../src/backends/open.ts'
import type { Comparison } from '../src/compare/comparison.ts'
import type { ComparedRun } from '../src/compare/runs.ts'
import { UserError } from '../src/config/errors.ts'
import { readAssets } from '../src/report/assets.ts'
import { curvesOf } from '../src/report/curves.ts'
import { measures, numericsOf } from '../src/report/numerics.ts'
import { renderReport } from '../src/report/page.ts'
import { type ReportedArm, readReport } from '../src/report/read.ts'
import { runCli } from './cli.ts'
import { type Made, makeComparison } from './made_runs.ts'
import { testFolder } from './training.ts'

const folder = testFolder()
const assets = readAssets(packageRoot())

const render = (directory: string): string => renderReport(readReport(directory), presets, assets)
const parse = (page: string) => parseHTML(page).document
type Page = ReturnType<typeof parse>

const falling = (offset: number) => (step: number) => 2 + offset + 3 * Math.exp(-step / 10)
/** Two recipes and a baseline with three seeds: nvfp4 about 1 % worse, mxfp4 about 4 %. */
const runs = [1, 2, 3].flatMap((seed): Made[] => [
  { recipe: 'bf16', seed, loss: falling(0), numericsEvery: 10, steps: 60 },
  {
    recipe: 'nvfp4',
    seed,
    loss: falling(0.016 + 0.002 * seed),
    numericsEvery: 10,
    steps: 60,
    speed: 800,
    spikes: [30],
  },
  { recipe: 'mxfp4', seed, loss: falling(0.08 + 0.001 * seed), numericsEvery: 10, steps: 60 },
])
const whole = makeComparison(folder, 'whole', runs)
const page = render(whole)

const textsOf = (document: Page, selector: string): string[] =>
  [...document.querySelectorAll(selector)].map(node => (node.textContent ?? '').trim())
const valuesOf = (document: Page) => JSON.parse(document.querySelector('#values')!.textContent!)

describe('the page of a comparison', () => {
  const document = parse(page)

  it('answers in its headline, and says how it knows', () => {
    assert.equal(
      document.querySelector('h1')!.textContent,
      '4-bit training holds here, at a small price: nvfp4 ends 1.0\u00a0% above bf16.',
    )
    const [nvfp4, mxfp4] = textsOf(document, 'header .lead')
    assert.match(
      nvfp4!,
      /^nvfp4 ends \d\.\d\d\s% above bf16 in loss \(95\s% interval: \d\.\d\d to \d\.\d\d\s%; 3 seeds\): resolved\./,
    )
    assert.match(mxfp4!, /^mxfp4 ends \d\.\d\d\s% above bf16/)
    assert.match(textsOf(document, '.facts')[0]!, /36,\d{3} parameters|37,\d{3} parameters/)
  })

  it('has the figures of comparison.json in its table', () => {
    const { arms }: Comparison = JSON.parse(readFileSync(join(whole, 'comparison.json'), 'utf8'))
    const [bf16] = [...document.querySelectorAll('#part-1 tbody tr')]
    assert.ok(bf16!.textContent!.includes(arms[0]!.loss!.toFixed(4)))
    assert.deepEqual(textsOf(document, '#part-1 tbody th'), ['bf16', 'nvfp4', 'mxfp4'])
    assert.ok(textsOf(document, '#part-1 thead th').includes('against bf16'))
  })

  it('draws a curve for each seed and recipe, a band for each recipe, in three widths with labelled axes', () => {
    const lines = (selector: string) => document.querySelectorAll(`${selector} [aria-label="line"] path`).length
    assert.equal(lines('#part-1-loss [data-view="0"] svg.wide'), 3 * 3 + 3)
    assert.equal(lines('#part-1-difference svg.narrow'), 2)
    assert.equal(document.querySelectorAll('#part-1-difference svg.middle .band path').length, 2)
    for (const width of ['wide', 'middle', 'narrow']) {
      const texts = textsOf(document, `#part-1-loss svg.${width} text`)
      assert.ok(texts.includes('loss (nats per token)') && texts.includes('step →'), texts.join())
    }
    assert.ok(textsOf(document, '#part-1-difference text').includes('relative difference of the loss (%)'))
    assert.equal(document.querySelectorAll('#part-1-loss svg.wide .marker.spike').length, 3 + 3)
    assert.ok(!/NaN|undefined|Infinity/.test(page.replace(/<script>[\s\S]*<\/script>/, '')))
  })

  it('puts a curve where its loss is', () => {
    const svg = document.querySelector('#part-1-loss svg.wide')!
    const [low, high, bottom, top] = JSON.parse(svg.getAttribute('data-y')!)
    const line = svg.querySelectorAll('.series-0 path')
    // M and the first place, then the way from each place to the next.
    const path: string = [...line].at(-1)!.getAttribute('d')!
    const places = path.match(/-?\d*\.?\d+/g)!.map(Number)
    const end = places.reduce((sum, place, i) => (i % 2 === 1 ? sum + place : sum), 0)
    const loss = low + ((end - bottom) / (top - bottom)) * (high - low)
    const last = valuesOf(document).charts['part-1-loss'].series[0].y.at(-1)
    assert.ok(Math.abs(loss - last) < 0.01, `drawn at ${loss}, is ${last}`)
  })

  it('draws the interval at the end around the mean', () => {
    const figure = [...document.querySelectorAll('figure')].find(each =>
      /^Difference at the end/.test(each.textContent!),
    )!
    const svg = figure.querySelector('svg')!
    const bars = [...svg.querySelectorAll('[aria-label="link"] path')].map(path =>
      path
        .getAttribute('d')!
        .match(/-?\d*\.?\d+/g)!
        .map(Number),
    )
    const means = [...svg.querySelectorAll('circle')].filter(dot => dot.getAttribute('r') === '5.5')
    assert.deepEqual([bars.length, means.length], [2, 3])
    for (const [i, [from, , width]] of bars.entries()) {
      const mean = Number(means[i + 1]!.getAttribute('cx'))
      assert.ok(from! < mean && mean < from! + width!, `${from} and ${width} around ${mean}`)
    }
  })

  it('says where things lie to a tenth of a pixel, and draws the seeds of a recipe as one group', () => {
    const attributes = [...document.querySelectorAll('svg line, svg circle, svg rect')].flatMap(node =>
      [...node.attributes].map(({ value }) => value),
    )
    assert.ok(attributes.length > 100)
    assert.deepEqual(
      attributes.filter(value => /\d\.\d{2,}/.test(value)),
      [],
    )
    const groups = document.querySelectorAll('#part-1-loss [data-view="0"] svg.wide [aria-label="line"]')
    assert.deepEqual(
      [...groups].map(group => group.querySelectorAll('path').length),
      [3, 1, 3, 1, 3, 1],
    )
  })

  it('has values for read-outs, and of the heat maps what the runs recorded', () => {
    const { charts, numerics } = valuesOf(document)
    assert.deepEqual(
      charts['part-1-difference'].series.map(({ name }: { name: string }) => name),
      ['nvfp4', 'mxfp4'],
    )
    assert.equal(charts['part-1-loss'].steps.length, charts['part-1-loss'].series[0].y.length)
    assert.deepEqual(numerics.steps, [1, 10, 20, 30, 40, 50, 60])
    assert.equal(numerics.runs.length, 9)
    assert.deepEqual(textsOf(document, '.map h3').length, measures.length)
  })

  it('lists events, what differs, and the commands with every override', () => {
    assert.ok(textsOf(document, '#events tbody tr').some(text => /nvfp4, seed 2.*30.*loss spike.*lm_head/s.test(text)))
    const [command] = textsOf(document, '#commands pre')
    assert.match(command!, /^halfbyte compare tiny --recipes bf16,nvfp4,mxfp4 --seeds 3 --out whole .*steps=60/)
    assert.ok(command!.includes("'model.pattern=M-*-'"), command)
    assert.equal(document.querySelectorAll('#commands details .command').length, 9)
  })

  it('is one file that asks nothing of a network, and the same every time', () => {
    const addresses = [...page.matchAll(/\b(?:src|href)="([^"]*)"/g)].map(match => match[1]!)
    assert.deepEqual(
      addresses.filter(address => !address.startsWith('#') && !address.startsWith('data:')),
      [],
    )
    assert.ok(addresses.length > 4)
    assert.ok(!/@import|url\((?!#)/.test(page))
    assert.match(page, /Content-Security-Policy" content="default-src 'none'/)
    assert.ok(render(whole) === page, 'the same directory gave two different pages')
  })
})

describe('other directories', () => {
  it('names of recipes, titles and paths are text, never markup', () => {
    const evil = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    const directory = makeComparison(folder, 'evil', runs.slice(0, 3), {
      title: evil,
      command: `halfbyte ${evil}`,
      note: evil,
    })
    const file = join(directory, 'comparison.json')
    writeFileSync(file, readFileSync(file, 'utf8').replaceAll('"nvfp4"', JSON.stringify(evil)))
    const document = parse(render(directory))
    assert.equal(document.querySelectorAll('script').length, 2)
    assert.equal(document.querySelectorAll('img').length, 0)
    assert.ok(document.querySelector('title')!.textContent!.includes('alert'))
    assert.ok(textsOf(document, '#part-1 tbody th').includes(evil))
    assert.ok(textsOf(document, '#part-1 .legend button').includes(evil))
  })

  it('runs without numerics, with one seed, give a page that says so', () => {
    const plain = runs.slice(0, 2).map(({ numericsEvery, ...made }) => made)
    const document = parse(render(makeComparison(folder, 'plain', plain)))
    assert.match(
      document.querySelector('h1')!.textContent!,
      /^One seed gives no verdict: nvfp4 ends 0\.9\s% above bf16\.$/,
    )
    assert.match(document.querySelector('#numerics')!.textContent!, /no measurements of quantisation/)
    assert.equal(document.querySelectorAll('.band').length, 0)
    assert.match(document.querySelector('#part-1-difference figcaption')!.textContent!, /nothing is resolved/)
    assert.equal(valuesOf(document).numerics, undefined)
  })

  it('a diverged arm is marked where it diverged and said in words', () => {
    const lost: Made = { recipe: 'nvfp4', loss: step => (step > 20 ? 50 : 3), steps: 60, until: 25, diverges: true }
    const document = parse(render(makeComparison(folder, 'lost', [runs[0]!, lost, runs[2]!])))
    assert.equal(document.querySelectorAll('svg.wide .marker.diverged').length, 1)
    const leads = textsOf(document, 'header .lead')
    assert.ok(
      leads.some(text => text === 'nvfp4 diverged at step 26.'),
      leads.join('\n'),
    )
    assert.match(
      textsOf(document, '#events tbody tr')[0]!,
      /nvfp4, seed 1.*26.*diverged.*the loss is NaN \(layers\.1\.mixer\.up_proj, xRows\)/s,
    )
    const [, high] = JSON.parse(document.querySelector('#part-1-loss svg.wide')!.getAttribute('data-y')!)
    assert.ok(high < 10, `the axis goes up to ${high}, where only the diverged run is`)
    const only = parse(render(makeComparison(folder, 'only', [runs[0]!, lost])))
    assert.equal(only.querySelector('h1')!.textContent, '4-bit training does not hold here: nvfp4 diverged at step 26.')
  })

  it('a comparison that has hardly begun, and one whose runs are gone', () => {
    const begun: Made[] = [
      { ...runs[0]!, until: 3 },
      { ...runs[1]!, until: 0, numericsEvery: 70 },
    ]
    const document = parse(render(makeComparison(folder, 'begun', begun)))
    assert.match(document.querySelector('h1')!.textContent!, /^Not answered yet/)
    const directory = makeComparison(folder, 'gone', runs.slice(0, 2))
    const file = join(directory, 'comparison.json')
    writeFileSync(file, readFileSync(file, 'utf8').replaceAll('runs/', 'moved/'))
    assert.match(parse(render(directory)).querySelector('h1')!.textContent!, /^One seed gives no verdict/)
  })

  it('a run, and a folder of several comparisons', () => {
    const run = parse(render(join(whole, 'runs', 'nvfp4-seed-1')))
    assert.match(run.querySelector('h1')!.textContent!, /^Training in nvfp4 ran to its end: 60 steps/)
    assert.equal(run.querySelector('#part-1-difference'), null)
    assert.ok(run.querySelector('#numerics select'))
    for (const name of ['fig10', 'fig6', 'mine']) makeComparison(folder, join('suites', name), runs.slice(0, 3))
    const suites = parse(render(join(folder, 'suites')))
    assert.deepEqual(textsOf(suites, 'nav a').slice(0, 3), ['fig6', 'fig10', 'mine'])
    assert.equal(suites.querySelectorAll('section.comparison').length, 3)
  })

  it('anything else is refused in one sentence', () => {
    const wrong = (directory: string, sentence: RegExp) =>
      assert.throws(
        () => readReport(directory),
        (error: Error) => error instanceof UserError && sentence.test(error.message),
      )
    mkdirSync(join(folder, 'empty'))
    wrong(join(folder, 'empty'), /empty is empty; wanted a run directory/)
    wrong(join(folder, 'absent'), /absent does not exist; wanted/)
    wrong(join(folder, 'text.txt'), /text\.txt is a file; wanted/)
    wrong(join(whole, 'runs'), /holds runs but no comparison; .*halfbyte compare .*bf16-seed-1/)
    mkdirSync(join(folder, 'other', 'things'), { recursive: true })
    wrong(join(folder, 'other'), /other holds neither runs nor comparisons; wanted/)
    writeFileSync(join(folder, 'other', 'comparison.json'), '{"format":1}')
    wrong(join(folder, 'other'), /comparison\.json: found a comparison without arms or pairs/)
  })
})

describe('halfbyte report', () => {
  it('writes the page beside the comparison and prints the table', () => {
    const { status, stdout, stderr } = runCli(['report', whole])
    assert.equal(status, 0, stderr)
    assert.match(stdout, /^nvfp4 {3}3 /m)
    assert.match(stdout, /^4-bit training holds here, at a small price: nvfp4 ends 1\.0 % above bf16\.$/m)
    assert.match(stdout, /^wrote .*report\.html \(\d+ kB\)$/m)
    assert.ok(readFileSync(join(whole, 'report.html'), 'utf8') === page)
  })

  it('prints JSON, writes elsewhere, and names what cannot be written', () => {
    const out = join(folder, 'elsewhere.html')
    const { status, stdout } = runCli(['report', whole, '--json', '--out', out])
    assert.equal(status, 0)
    const { report, comparisons } = JSON.parse(stdout)
    assert.deepEqual([report, comparisons[0].pairs.length], [out, 2])
    assert.match(comparisons[0].verdict.headline, /^4-bit/)
    const lost = runCli(['report', whole, '--out', join(folder, 'none', 'x.html')])
    assert.equal(lost.status, 1)
    assert.match(lost.stderr, /^halfbyte: .*x\.html cannot be written: [^\n]+\n$/)
  })
})

describe('what the page is made of', () => {
  it('averages finished seeds alone, and thins curves to 400 points', () => {
    const long = (seed: number, until: number): Made => {
      return { recipe: 'bf16', seed, loss: () => seed, steps: 1000, until, diverges: until < 1000 }
    }
    const [reported] = readReport(
      makeComparison(folder, 'long', [long(1, 1000), long(2, 1000), long(7, 500)]),
    ).comparisons
    const { steps, recipes } = curvesOf(reported!)
    assert.ok(steps.length <= 400 && steps.length > 300, String(steps.length))
    assert.deepEqual([...new Set(recipes[0]!.loss)], [1.5])
    assert.equal(recipes[0]!.seeds.length, 3)
  })

  it('packs numerics so that they come back', () => {
    const [reported] = readReport(whole).comparisons
    const numerics = numericsOf(reported!.arms)!
    const words = new Uint16Array(new Uint8Array(Buffer.from(numerics.values, 'base64')).buffer)
    const { steps, linears, operands } = numerics
    assert.deepEqual(operands, ['xRows', 'wRows', 'dyColumns'])
    const at = (run: number, measure: number, operand: number, linear: number, step: number) => {
      const place =
        (((run * measures.length + measure) * operands.length + operand) * linears.length + linear) * steps.length
      const [low, high] = numerics.ranges[measure]!
      return words[place + step] === 65535 ? undefined : low + (words[place + step]! / 65534) * (high - low)
    }
    assert.deepEqual(numerics.ranges[1], [0, 5], 'shares begin at 0')
    assert.equal(at(0, 0, 0, 0, 0), undefined, 'bf16 quantises nothing')
    assert.ok(Math.abs(at(1, 0, 2, 1, 3)! - 17) < 1e-3)
    assert.ok(Math.abs(at(1, 1, 1, 2, 6)! - 4) < 1e-3)
    assert.ok(Math.abs(at(0, 4, 0, 2, 6)! - 2) < 1e-3, 'weight gradients are of the layer, whatever is quantised')
  })

  it('keeps to the first seeds and fewer points where runs and comparisons are many', () => {
    const [reported] = readReport(whole).comparisons
    const quantised = reported!.arms.find(({ arm }) => arm.recipe !== 'bf16')!
    const record = quantised.numerics.find(({ operand }) => operand !== undefined)!
    const records = Array.from({ length: 20 }, (_, i) => i + 1).flatMap(step =>
      Array.from({ length: 60 }, (_, l) =>
        ['xRows', 'wRows', 'dyRows'].map(operand => ({ ...record, step, linear: `layers.${l}`, operand })),
      ).flat(),
    )
    const arms = [3, 1, 2].flatMap(seed =>
      Array.from({ length: 30 }, (_, i) => ({
        ...quantised,
        arm: { ...quantised.arm, recipe: `recipe-${i}`, seed },
        numerics: records,
      })),
    )
    const packed = numericsOf([...arms, ...arms], 10)!
    assert.equal(packed.runs.length + packed.leftOut, 90, 'each name and seed once')
    assert.ok(packed.steps.length >= 8 && packed.values.length < 700_000, `${packed.steps.length} columns`)
    assert.deepEqual([...new Set(packed.runs.map(({ seed }) => seed))], [1, 2])
    assert.equal(packed.runs.filter(({ seed }) => seed === 1).length, 30)
    const [alone, several] = [curvesOf(reported!), curvesOf(reported!, 10)]
    assert.deepEqual(several, alone, 'twenty steps have no points to spare')
    const long = { ...reported!, arms: reported!.arms.map(each => ({ ...each, arm: { ...each.arm, steps: 4000 } })) }
    assert.deepEqual([curvesOf(long).steps.length, curvesOf(long, 10).steps.length], [400, 118])
  })

  it('keeps twelve runs of 10,000 steps and their numerics below 3 MB', () => {
    const input = readReport(whole)
    const [reported] = input.comparisons
    const losses = Array.from({ length: 10_000 }, (_, i) => 2 + 3 * Math.exp(-i / 500) + 0.05 * Math.sin(i * i))
    const records = Array.from({ length: 50 }, (_, i) => i).flatMap(i =>
      Array.from({ length: 60 }, (_, l) =>
        ['xRows', 'wRows', 'dyRows', 'dyColumns', 'xColumns'].map(operand => {
          const shares = { flushed: 0.1, saturated: 0.01 * Math.abs(Math.sin(i * l)), zero_scales: 0, zero_wgrad: 0 }
          return {
            step: 200 * (i + 1),
            linear: `layers.${l}.mixer.in_proj`,
            operand,
            snr_db: 20 + Math.sin(i + l),
            ...shares,
          }
        }),
      ).flat(),
    )
    const names = ['bf16', 'nvfp4', 'mxfp4', 'fp8']
    const arms = names.flatMap(recipe =>
      [1, 2, 3].map((seed): ReportedArm => {
        const { arm, run, ...rest } = reported!.arms.find(({ arm }) => arm.seed === seed)!
        const config = { ...run!.config, recipe, steps: 10_000 }
        const long: ComparedRun = { ...run!, config, losses, smoothed: losses }
        return {
          ...rest,
          directory: `${recipe}-${seed}`,
          arm: { ...arm, recipe, steps: 10_000 },
          run: long,
          numerics: records,
        }
      }),
    )
    const comparison = { ...reported!.comparison, recipes: names }
    const text = renderReport({ ...input, comparisons: [{ ...reported!, comparison, arms }] }, presets, assets)
    assert.ok(text.length < 3e6, `${text.length} bytes`)
    assert.ok(text.length > 5e5)
  })
})
