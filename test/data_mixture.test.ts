import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { loadConfig } from '../src/config/load.ts'
import { openCorpus } from '../src/data/corpus.ts'
import { type Mixture, mixtureOf, phasesOf, proportions } from '../src/data/mixture.ts'
import { planData } from '../src/data/plan.ts'
import { Sampler, windowsOf } from '../src/data/sampler.ts'
import { MemoryStream } from '../src/data/stream.ts'
import { tokenizers } from '../src/data/tokenizer.ts'
import { runCli } from './cli.ts'
import { scratchFolder } from './scratch.ts'
import { openTrainer, small, smallConfig, testFolder, wordText } from './training.ts'

const { file } = scratchFolder()

const phases = [
  { share: 0.7, weights: [0.5, 0.3, 0.2] },
  { share: 0.2, weights: [1, 1, 0] },
  { share: 0.1, weights: [0.1, 0.15, 0.75] },
]
const blend = [{ weight: 1 }, { weight: 1 }, { weight: 1 }]
const order = (mixture: Mixture, count: number) => Array.from({ length: count }, (_, g) => mixture.at(g))

describe('mixture', () => {
  it('takes weights as exact proportions', () => {
    assert.deepEqual(proportions([0.7, 0.2, 0.1]), [7, 2, 1])
    assert.deepEqual(proportions([70, 20, 10]), [7, 2, 1])
    assert.deepEqual(proportions([3, 0, 3]), [1, 0, 1])
    assert.deepEqual(proportions([0.125, 1e-3]), [125, 1])
    const third = proportions([1 / 3, 2 / 3])
    assert.ok(Math.abs(third[0]! / (third[0]! + third[1]!) - 1 / 3) < 1e-6)
    // 349,525.3 and 699,050.7: the one that is missing goes to the larger remainder.
    assert.deepEqual(third, [349_525, 699_051])
  })

  it('takes the first of several sources that want a sequence alike', () => {
    const equal = mixtureOf({ blend: [{ weight: 1 }, { weight: 1 }, { weight: 2 }] }, 4, 2)
    assert.deepEqual(
      order(equal, 8).map(({ source }) => source),
      [2, 0, 1, 2, 2, 0, 1, 2],
    )
  })

  it('keeps every source within one sequence of its share, at every moment', () => {
    for (const weights of [[7, 2, 1], [0.33, 0.33, 0.34], [1, 1e-3, 5], [1]]) {
      const mixture = mixtureOf({ blend: weights.map(weight => ({ weight })) }, 1000, 4)
      const total = weights.reduce((sum, weight) => sum + weight)
      const taken = weights.map(() => 0)
      for (let g = 0; g < 4000; g++) {
        const { source, index } = mixture.at(g)
        assert.equal(index, taken[source]!++)
        for (const [i, weight] of weights.entries()) {
          const away = Math.abs(taken[i]! - ((g + 1) * weight) / total)
          assert.ok(away < 1, `${away} sequences of source ${i} after ${g + 1}`)
        }
      }
      assert.deepEqual(mixture.counts(), [taken])
    }
  })

  it('has phases of whole steps by their shares, in which a source goes on where it stopped', () => {
    assert.deepEqual(
      phasesOf(phases, 25, 4).map(({ until }) => until),
      [72, 88, 100],
    )
    const steps = 100
    const batch = 20
    const mixture = mixtureOf({ blend, phases }, steps, batch)
    const all = order(mixture, steps * batch)
    const next = [0, 0, 0]
    for (const { source, index } of all) assert.equal(index, next[source]!++)
    const counted = (from: number, to: number) =>
      [0, 1, 2].map(source => all.slice(from, to).filter(sequence => sequence.source === source).length)
    const wanted = [
      [700, 420, 280],
      [200, 200, 0],
      [20, 30, 150],
    ]
    assert.deepEqual(mixture.counts(), wanted)
    assert.deepEqual([counted(0, 1400), counted(1400, 1800), counted(1800, 2000)], wanted)
  })

  it('is a function of the sequence alone, beyond the last phase too', () => {
    const mixture = mixtureOf({ blend, phases }, 50, 8)
    const all = order(mixture, 500)
    const again = mixtureOf({ blend, phases }, 50, 8)
    for (const g of [499, 3, 400, 399, 17]) assert.deepEqual(again.at(g), all[g])
  })
})

it('a stream has as many windows as it has whole sequences with a target for each token', () => {
  const windows = [0, 1, 16, 17, 32, 33].map(size => windowsOf(new MemoryStream(new Uint16Array(size), 1), 16))
  assert.deepEqual(windows, [0, 0, 0, 1, 1, 2])
})

describe('a sampler of several sources', () => {
  const tokenizer = tokenizers.bytes!
  /** Windows of 16 tokens whose first says the source and whose second the window. */
  const source = (id: number, windows: number) => {
    const tokens = Uint16Array.from({ length: windows * 16 + 1 }, (_, i) =>
      i % 16 === 0 ? id : i % 16 === 1 ? Math.floor(i / 16) : 0,
    )
    return { name: `source ${id}`, stream: new MemoryStream(tokens, 1) }
  }
  const sources = [source(0, 90), source(1, 25), source(2, 90)]
  const drawn = (microBatch: number, steps: number[]) => {
    const order = { mixture: mixtureOf({ blend, phases }, 40, 8), seed: 3, batch: 8 }
    const sampler = new Sampler(sources, tokenizer, order, { sequence: 16, microBatch, boundaries: 'cross' })
    return steps.flatMap(step =>
      Array.from({ length: 8 / microBatch }, (_, i) => {
        const { tokens } = sampler.batch(step, i)
        return Array.from({ length: microBatch }, (_, row) => [tokens[row * 16]!, tokens[row * 16 + 1]!] as const)
      }).flat(),
    )
  }
  const steps = Array.from({ length: 40 }, (_, i) => i)
  const all = drawn(8, steps)

  it('repeats nothing of a source before its epoch ends', () => {
    for (const [id, { stream }] of sources.entries()) {
      const windows = windowsOf(stream, 16)
      const mine = all.filter(([from]) => from === id).map(([, window]) => window)
      assert.ok(mine.length > 30)
      for (let epoch = 0; epoch * windows < mine.length; epoch++) {
        const seen = mine.slice(epoch * windows, (epoch + 1) * windows)
        assert.equal(new Set(seen).size, seen.length)
      }
    }
    const first = (id: number) =>
      all
        .filter(([from]) => from === id)
        .map(([, window]) => window)
        .slice(0, 20)
    assert.notDeepEqual(first(0), first(2))
  })

  it('draws the same for any number of ranks and after any interruption', () => {
    for (const ranks of [1, 2, 4]) assert.deepEqual(drawn(8 / ranks, steps), all)
    assert.deepEqual(drawn(4, [29, 30, 31]), all.slice(29 * 8, 32 * 8))
  })

  it('says what each source gives to each phase, and how often it is seen', () => {
    const plan = planData({ blend, phases, sequence: 16, batch: 8 }, 40, {
      sources,
      validation: new MemoryStream(new Uint16Array(100), 1),
    })
    assert.deepEqual(plan.phases, [0.7, 0.2, 0.1])
    assert.equal(plan.heldOut, 100)
    assert.throws(
      () => planData({ blend, phases, sequence: 512, batch: 8 }, 40, { sources, validation: sources[0]!.stream }),
      {
        name: 'CorpusError',
        message:
          'the training text of source 1 has 401 tokens, fewer than the 513 of one sequence; give more text in data.files or a smaller data.sequence',
      },
    )
    for (const [id, { phases, trained, epochs, tokens }] of plan.sources.entries()) {
      const count = all.filter(([from]) => from === id).length
      assert.equal(trained, 16 * count)
      assert.equal(
        phases.reduce((sum, part) => sum + part),
        trained,
      )
      assert.equal(epochs, count / windowsOf(sources[id]!.stream, 16))
      assert.equal(tokens, sources[id]!.stream.length)
    }
  })
})

describe('the config of a blend', () => {
  const [a, b] = [file('a.txt', wordText(30_000)), file('b.txt', wordText(20_000, 2))]
  const blends = `data.blend=[{files: ${a}, weight: 3}, {files: ${b}, weight: 1, name: other}]`
  const { files: _, ...data } = small('').data
  const load = (...overrides: string[]) => loadConfig('blended', overrides, { blended: { ...small(''), data } })
  const refuses = (message: string, ...overrides: string[]) =>
    assert.throws(() => load(...overrides), { name: 'UserError', message })

  it('opens each source, holding out a part of each or files of their own', () => {
    const config = load(blends)
    const corpus = openCorpus(config.data.files, config.data.tokenizer, config.data)
    assert.deepEqual(
      corpus.sources.map(({ name }) => name),
      [a, 'other'],
    )
    assert.deepEqual(corpus.titles, [a, 'other'])
    assert.ok(Math.abs(corpus.validation.length - 2500) < 50)
    const apart = openCorpus('embedded', 'bytes', { ...config.data, validation: b })
    assert.equal(apart.validation.length, apart.sources[1]!.stream.length)
    assert.notEqual(apart.fingerprint, corpus.fingerprint)
  })

  it('is refused where its parts do not go together', () => {
    const shares = (value: string) => `data.phases=${value}`
    refuses('data.blend: found it together with data.files, wanted one of them', blends, `data.files=${a}`)
    refuses(
      'data.phases: found it without data.blend, wanted the sources that its weights are for',
      shares('[{share: 1, weights: [1]}]'),
    )
    refuses(
      'data.phases.1.weights: found [1], wanted one for each of the 2 sources of data.blend, not all 0',
      blends,
      shares('[{share: 0.5, weights: [1, 1]}, {share: 0.5, weights: [1]}]'),
    )
    refuses(
      'data.phases: found shares that add up to 0.9, wanted shares of the steps that add up to 1',
      blends,
      shares('[{share: 0.9, weights: [1, 1]}]'),
    )
    refuses('data.blend: found "a.txt", wanted a list of sources', 'data.blend=a.txt')
    refuses(
      'data.blend: found no weight above 0, wanted at least one',
      blends.replace('weight: 3', 'weight: 0').replace('weight: 1', 'weight: 0'),
    )
  })

  it('is shown by train --dry-run: tokens and epochs of each source', () => {
    const path = file('blend.json', JSON.stringify({ extends: 'tiny', steps: 100 }))
    const halves = 'data.phases=[{share: 0.5, weights: [1, 0]}, {share: 0.5, weights: [1, 3]}]'
    const run = (...args: string[]) => runCli(['train', path, blends, halves, '--dry-run', ...args])
    const { status, stdout, stderr } = run()
    assert.deepEqual([status, stderr], [0, ''])
    assert.match(stdout, /^source +tokens +phase 1 \(50 %\) +phase 2 \(50 %\) +trained on +epochs$/m)
    assert.match(stdout, /^other +19\.0k +0 +76\.8k +76\.8k +4\.05$/m)
    assert.match(stdout, /^2\.50k tokens are held out for validation$/m)
    const { data } = JSON.parse(run('--json').stdout)
    assert.deepEqual(
      data.sources.map(({ trained }: { trained: number }) => trained),
      [128_000, 76_800],
    )
  })

  it('trains', async () => {
    const directory = testFolder()
    const config = smallConfig(directory)
    const mixed = {
      ...config,
      data: {
        ...config.data,
        ...load(blends, 'data.phases=[{share: 0.5, weights: [1, 0]}, {share: 0.5, weights: [1, 3]}]').data,
      },
    }
    const corpus = openCorpus(mixed.data.files, mixed.data.tokenizer, mixed.data)
    const trainer = await openTrainer(mixed, corpus)
    const first = trainer.step(0).loss
    let last = first
    for (let step = 1; step < 10; step++) last = trainer.step(step).loss
    trainer.model.backend.close()
    assert.ok(last < first)
  })
})
