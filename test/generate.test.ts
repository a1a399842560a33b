import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { openBackend } from '../src/backends/open.ts'
import { printable } from '../src/cli/text.ts'
import { roundBf16 } from '../src/formats/bf16.ts'
import { Stream } from '../src/formats/philox.ts'
import { kernels } from '../src/kernels/index.ts'
import { Decoder } from '../src/model/decoder.ts'
import { drawToken, generate } from '../src/model/generate.ts'
import { Model } from '../src/model/model.ts'
import { useWeights } from '../src/model/weights.ts'
import { findRecipe } from '../src/recipes/recipes.ts'
import type { Backend } from '../src/tensor/backend.ts'
import { runCli } from './cli.ts'
import { makeBatch } from './models.ts'
import { configFile, smallConfig, testFolder } from './training.ts'

/** Scores of every token: those of one forward pass over the sequence, and those of a decoder that reads it piece by piece. */

const fp32 = findRecipe('fp32')
const tokens = Int32Array.from({ length: 96 }, (_, i) => (i * i * 7 + 3 * i) % 61)

const makeModel = (backend: Backend, pattern: string, more = {}): Model =>
  new Model({
    config: { ...smallConfig('').model, pattern, ...more },
    backend,
    recipe: findRecipe('nvfp4'),
    seed: 5,
    steps: 10,
    sequence: tokens.length,
    tokens: tokens.length,
  })

function largestDifference(a: Float32Array, b: Float32Array): number {
  const scale = Math.max(...a.map(Math.abs))
  return Math.max(...a.map((x, i) => Math.abs(x - b[i]!))) / scale
}

for (const name of ['reference', 'cpu'])
  describe(`a decoder on ${name}`, () => {
    for (const [what, pattern, more] of [
      ['a hybrid', 'M-*M', {}],
      ['a dense model with rotary positions', '*-*-', { rope: 10000 }],
      ['Mamba-2 with one tap', 'M', { conv: 1 }],
    ] as const)
      it(`reads ${what} to the scores of the whole forward pass`, async () => {
        const backend = await openBackend(name, kernels, { threads: 2 })
        try {
          const model = makeModel(backend, pattern, more)
          const batch = makeBatch(backend, tokens, tokens.length)
          const whole = model.logits(batch.tokens, batch.starts, tokens.length, fp32)
          const vocab = model.config.vocab
          const decoder = new Decoder(model, { capacity: tokens.length, recipe: fp32 })
          for (let round = 0; round < 2; round++) {
            decoder.reset()
            for (const [begin, end] of [
              [0, 37],
              [37, 38],
              [38, 40],
              [40, 96],
            ] as const) {
              const scores = decoder.read([...tokens.slice(begin, end)])
              const expected = whole.subarray((end - 1) * vocab, end * vocab)
              assert.ok(
                largestDifference(expected, scores) < 1e-5,
                `after ${end} tokens: ${largestDifference(expected, scores)}`,
              )
            }
            assert.equal(decoder.seen, tokens.length)
          }
          decoder.close()
        } finally {
          backend.close()
        }
      })
  })

describe('weights of a deployed model', () => {
  it('are the codes of training where it has them, and BF16 elsewhere', async () => {
    const backend = await openBackend('cpu', kernels, { threads: 1 })
    try {
      const [model, other, master] = [0, 1, 2].map(() => makeModel(backend, 'M-*M')) as [Model, Model, Model]
      assert.equal(useWeights(model, 'codes'), 6)
      assert.equal(useWeights(other, 'bf16'), 0)
      for (const [i, linear] of model.linears.entries()) {
        const [values, halves] = [linear.weight, other.linears[i]!.weight].map(({ value }) => value.floats())
        const first = master.linears[i]!
        const exact = first.weight.value.floats()
        assert.deepEqual(halves, exact.map(roundBf16), linear.name)
        if (i === 6 || i === 7) assert.deepEqual(values, halves, linear.name)
        else
          master.tape.scope(() => {
            const expected = first.forwardValues(master.tape).floats().subarray(0, values!.length)
            assert.deepEqual(values, expected, linear.name)
            assert.notDeepEqual(values, halves, linear.name)
          })
      }
    } finally {
      backend.close()
    }
  })
})

describe('halfbyte generate', () => {
  it('prints a text and how fast, the same for a seed, from codes as well', () => {
    const folder = testFolder()
    const run = (...args: string[]) => runCli(args, { cwd: folder })
    assert.equal(run('train', configFile(folder, 'steps=4'), '--run', 'r').status, 0)
    const args = ['generate', 'r', '--prompt', 'the ', '--length', '30', '--seed', '3']
    const [first, second] = [run(...args), run(...args, '--json')]
    assert.equal(first.status, 0, first.stderr)
    const result = JSON.parse(second.stdout)
    assert.equal(first.stdout, `the ${printable(result.text)}\n`)
    assert.match(first.stderr, /^30 tokens: the first after \d\.\d\d s, then \d+\.\d tokens\/s; weights bf16$/m)
    assert.ok(result.tokens_per_second > 0)
    const codes = JSON.parse(run(...args, '--weights', 'codes', '--json').stdout)
    assert.ok(codes.coded_linears > 0)
    for (const [extra, sentence] of [
      [['--top-p', '2'], '--top-p: found 2, wanted a number, 0 to 1'],
      [['--weights', 'fp5'], 'fp5'],
      [['--context', '0'], 'found 0'],
    ] as const) {
      const { status, stderr } = run(...args, ...extra)
      assert.equal(status, 2)
      assert.ok(stderr.includes(sentence), stderr)
    }
  })
})

describe('generation', () => {
  it('goes on beyond what attention may look back on, and repeats itself for a seed', async () => {
    const backend = await openBackend('cpu', kernels, { threads: 1 })
    try {
      const model = makeModel(backend, 'M-*-')
      const options = { length: 40, temperature: 1, topK: 0, topP: 0.9, tokens: 61, capacity: 16, recipe: fp32 }
      const text = (seed: number) => [...generate(model, [1, 2, 3], { ...options, seed })]
      assert.equal(text(1).length, 40)
      assert.ok(text(1).every(token => token < 61))
      assert.deepEqual(text(1), text(1))
      assert.notDeepEqual(text(1), text(2))
    } finally {
      backend.close()
    }
  })

  it('draws from the best, from those that hold a share of the probability, or the very best', () => {
    const scores = Float32Array.from([0, 5, 4, 1, 4.5])
    const draws = (options: Parameters<typeof drawToken>[1]) => {
      const random = new Stream(1, 0)
      return new Set(Array.from({ length: 400 }, () => drawToken(scores, options, random)))
    }
    assert.deepEqual(draws({ temperature: 0, topK: 0, topP: 1 }), new Set([1]))
    assert.deepEqual(draws({ temperature: 1, topK: 1, topP: 1 }), new Set([1]))
    assert.deepEqual([...draws({ temperature: 1, topK: 3, topP: 1 })].sort(), [1, 2, 4])
    assert.deepEqual([...draws({ temperature: 1, topK: 0, topP: 0.6 })].sort(), [1, 4])
    assert.deepEqual([...draws({ temperature: 1, topK: 0, topP: 1e-9 })], [1])
    const equal = Float32Array.of(2, 2)
    const half = { temperature: 1, topK: 0, topP: 0.5 }
    for (let seed = 0; seed < 10; seed++) assert.equal(drawToken(equal, half, new Stream(seed, 0)), 0)
    assert.equal(draws({ temperature: 5, topK: 0, topP: 1 }).size, 5)
    const many = Float32Array.from({ length: 1000 }, (_, i) => ((i * 37) % 250) / 10)
    const likely = [...many.keys()].sort((a, b) => many[b]! - many[a]! || a - b)
    for (const topK of [1, 5, 40, 999]) {
      const random = new Stream(2, 0)
      const drawn = Array.from({ length: 300 }, () => drawToken(many, { temperature: 3, topK, topP: 1 }, random))
      assert.ok(
        drawn.every(token => likely.slice(0, topK).includes(token)),
        `${topK}`,
      )
    }
    assert.equal(drawToken(many, { temperature: 0, topK: 0, topP: 1 }, new Stream(1, 0)), likely[0])
  })
})
