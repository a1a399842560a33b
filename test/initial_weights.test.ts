import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { referenceBackend } from '../src/backends/reference.ts'
import { showWork } from '../src/cli/progress.ts'
import { philox, Stream } from '../src/formats/philox.ts'
import type { ParameterSpec } from '../src/model/blocks/block.ts'
import type { ModelConfig } from '../src/model/config.ts'
import { drawWeights } from '../src/model/draw.ts'
import { drawPiece, logDecay, normal, ones, piecesOf, timeStepBias, uniform } from '../src/model/initialise.ts'
import { Parameters, parameterSpecs } from '../src/model/parameters.ts'

/** Initial weights are the same bits however they are drawn: one by one, many at once, in ranges, by threads. */

const bits = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length)

describe('a random stream', () => {
  it('gives many numbers at once as it gives them one by one, wherever it is read from', () => {
    for (const before of [0, 1, 2, 3, 4, 5])
      for (const size of [0, 1, 2, 3, 4, 7, 64, 4095, 4098, 8195]) {
        const [one, many] = [new Stream(9, 8, 7), new Stream(9, 8, 7)]
        for (let i = 0; i < before; i++) assert.equal(one.normal(), many.normal())
        const values = new Float32Array(size)
        many.normals(values, 0.02)
        assert.deepEqual(bits(values), bits(Float32Array.from(values, () => one.normal() * 0.02)))
        assert.equal(many.normal(), one.normal(), `after ${before} and ${size}`)
        const words = new Uint32Array(size)
        many.words(words)
        assert.deepEqual(
          words,
          Uint32Array.from(words, () => one.word()),
        )
      }
  })

  it('counts blocks beyond 2^32', () => {
    const words = new Uint32Array(12)
    const random = new Stream(2 ** 40 + 5, 6, 7, 2 ** 32 - 1)
    random.words(words)
    const block = (low: number, high: number) => [...philox([low, high, 6, 7], [5, 2 ** 8], new Uint32Array(4))]
    assert.deepEqual([...words], [...block(0xffffffff, 0), ...block(0, 1), ...block(1, 1)])
    assert.equal(random.word(), block(2, 1)[0])
    const later = new Stream(2 ** 40 + 5, 6, 7, 2 ** 32 + 1)
    assert.deepEqual(
      Array.from({ length: 4 }, () => later.word()),
      block(1, 1),
    )
  })
})

describe('a whole number below n', () => {
  it('is as likely as any other, because words beyond the last multiple of n are passed over', () => {
    const [random, words] = [new Stream(5, 6), new Stream(5, 6)]
    const n = 2 ** 31 + 1
    let taken = 0
    for (let i = 0; i < 20; i++) {
      let word: number
      do {
        word = words.word()
        taken++
      } while (word >= n)
      assert.equal(random.below(n), word)
    }
    assert.ok(taken > 20)
  })
})

describe('initial weights', () => {
  const initialisers = { ones, normal: normal(0.02), uniform: uniform(-0.5, 0.5), logDecay, timeStepBias }

  it('are the same in ranges as in one', () => {
    for (const [name, initialise] of Object.entries(initialisers)) {
      const spec: ParameterSpec = { name, shape: [1001], initialise, decay: false }
      const [whole, ranges] = [new Float32Array(1001), new Float32Array(1001)]
      const draw = (start: number, into: Float32Array) =>
        drawPiece([spec], 3, { index: 0, start, size: into.length }, into)
      draw(0, whole)
      for (const start of [996, 0, 500, 4]) draw(start, ranges.subarray(start, start === 4 ? 500 : 1001))
      ranges.set(whole.subarray(0, 4))
      assert.deepEqual(bits(ranges), bits(whole), name)
      assert.ok(whole.every(Number.isFinite) && whole.some(value => value !== 0), name)
    }
  })

  it('are cut into pieces that leave nothing out', () => {
    const pieces = [...piecesOf([{ shape: [3] }, { shape: [2 ** 10, 2 ** 11 + 1] }, { shape: [1] }])]
    assert.deepEqual(pieces, [
      { index: 0, start: 0, size: 3 },
      { index: 1, start: 0, size: 2 ** 20 },
      { index: 1, start: 2 ** 20, size: 2 ** 20 },
      { index: 1, start: 2 ** 21, size: 2 ** 10 },
      { index: 2, start: 0, size: 1 },
    ])
  })

  const config: ModelConfig = {
    pattern: 'M*-',
    hidden: 256,
    ffn: 512,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    mamba_heads: 8,
    mamba_head_dim: 64,
    groups: 2,
    state: 16,
    conv: 4,
    chunk: 16,
    vocab: 2 ** 14,
    rope: false,
    activations: 'f32',
    eps: 1e-5,
    init_std: 0.02,
  }
  const specs = parameterSpecs(config).all
  const backend = referenceBackend()
  const empty = () => new Parameters(backend, specs, undefined)
  const whole = new Parameters(backend, specs, 5)

  it('are the same by threads as without, with all told', async () => {
    assert.ok(whole.count > 2 * 2 ** 22, 'enough for two threads')
    for (const threads of [1, 2]) {
      const drawn = empty()
      const told: number[] = []
      const progress = (done: number, total: number) => {
        assert.equal(total, whole.count)
        told.push(done)
      }
      await drawWeights(drawn, config, 5, { threads, progress })
      assert.ok(Buffer.from(drawn.value.floats().buffer).equals(Buffer.from(whole.value.floats().buffer)))
      assert.equal(told.at(-1), whole.count)
      assert.deepEqual(
        told,
        [...told].sort((a, b) => a - b),
      )
    }
  })

  it('have the distributions of Megatron', () => {
    const std = 0.02
    const residual = std / Math.sqrt(3)
    const step = (bias: number) => Math.log1p(Math.exp(bias))
    /** How many standard errors a sample may be off. */
    const errors = 5
    const rows: [
      name: string,
      value: (stored: number) => number,
      least: number,
      most: number,
      mean: number,
      sd: number,
    ][] = [
      ['backbone.embeddings.weight', w => w, -1, 1, 0, std],
      ['backbone.layers.0.mixer.in_proj.weight', w => w, -1, 1, 0, std],
      ['backbone.layers.0.mixer.out_proj.weight', w => w, -1, 1, 0, residual],
      ['backbone.layers.1.mixer.qkv_proj.weight', w => w, -1, 1, 0, std],
      ['backbone.layers.1.mixer.o_proj.weight', w => w, -1, 1, 0, residual],
      ['backbone.layers.2.mixer.up_proj.weight', w => w, -1, 1, 0, std],
      ['backbone.layers.2.mixer.down_proj.weight', w => w, -1, 1, 0, residual],
      ['lm_head.weight', w => w, -1, 1, 0, std],
      ['backbone.layers.0.mixer.conv1d.weight', w => w, -0.5, 0.5, 0, 1 / Math.sqrt(12)],
      ['backbone.layers.0.mixer.conv1d.bias', w => w, -0.5, 0.5, 0, 1 / Math.sqrt(12)],
      // A uniform in 1 .. 16, time steps log-uniform in 0.001 .. 0.1.
      ['backbone.layers.0.mixer.A_log', Math.exp, 1, 16, 8.5, 15 / Math.sqrt(12)],
      ['backbone.layers.0.mixer.dt_bias', b => Math.log10(step(b)), -3, -1, -2, 2 / Math.sqrt(12)],
      ['backbone.layers.0.mixer.D', w => w, 1, 1, 1, 0],
      ['backbone.layers.0.mixer.norm.weight', w => w, 1, 1, 1, 0],
      ['backbone.layers.0.norm.weight', w => w, 1, 1, 1, 0],
      ['backbone.norm_f.weight', w => w, 1, 1, 1, 0],
    ]
    const wide = parameterSpecs({ ...config, mamba_heads: 4096, mamba_head_dim: 1, groups: 1, hidden: 64 }).all
    for (const [name, value, least, most, mean, sd] of rows) {
      const { initialise } = wide.find(spec => spec.name === name)!
      const drawn = new Float32Array(4096)
      drawPiece([{ name, shape: [4096], initialise, decay: false }], 9, { index: 0, start: 0, size: 4096 }, drawn)
      const values = Array.from(drawn, value)
      const average = values.reduce((sum, v) => sum + v, 0) / 4096
      const spread = Math.sqrt(values.reduce((sum, v) => sum + (v - average) ** 2, 0) / 4096)
      assert.ok(
        values.every(v => v > least - 1e-5 && v < most + 1e-5),
        `${name}: ${Math.min(...values)} to ${Math.max(...values)}`,
      )
      if (name.endsWith('dt_bias'))
        assert.ok(Math.max(...values) > Math.log10(0.098), `${name}: at most ${10 ** Math.max(...values)}`)
      assert.ok(Math.abs(average - mean) <= (errors * sd) / 64, `${name}: mean ${average}`)
      assert.ok(Math.abs(spread - sd) <= (errors * sd) / 90, `${name}: standard deviation ${spread}`)
    }
  })

  it('are left where they are when the user stops', async () => {
    for (const threads of [1, 2]) {
      const stop = new AbortController()
      let done = 0
      const progress = (now: number) => {
        done = now
        stop.abort()
      }
      await drawWeights(empty(), config, 5, { threads, progress, signal: stop.signal })
      assert.ok(done > 0 && done < whole.count, `${done} of ${whole.count}`)
    }
  })
})

describe('long work', () => {
  it('is shown on a terminal once it lasts, each piece in a bar of its own', () => {
    const written: string[] = []
    const clock = { now: 0 }
    const stream = { isTTY: true, columns: 70, write: (text: string) => written.push(text) }
    const work = showWork({ stream, now: () => clock.now, environment: {} })
    const at = (now: number, done: number, what: string) => {
      clock.now = now
      work(done, 100, what)
    }
    at(0, 1, 'checking')
    at(400, 100, 'checking')
    assert.deepEqual(written, [], 'what is over soon is not shown')
    at(1000, 0, 'initial weights')
    at(1400, 10, 'initial weights')
    assert.deepEqual(written, [])
    at(2000, 50, 'initial weights')
    at(2050, 100, 'initial weights')
    assert.deepEqual(written.splice(0), [
      `\r\x1b[2Kinitial weights  ${'█'.repeat(10)}${'░'.repeat(10)}  50 %  0:01 left`,
      '\r\x1b[2K',
    ])
    at(3000, 0, 'saving')
    at(4000, 25, 'saving')
    work.note('the disk is slow')
    assert.equal(written.slice(1).join(''), '\r\x1b[2Khalfbyte: the disk is slow\n')
    work.done()
    assert.equal(written.length, 3)
  })
})
