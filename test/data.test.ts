import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { openCorpus } from '../src/data/corpus.ts'
import { holdOut } from '../src/data/document.ts'
import { fileDocuments, invalidUtf8 } from '../src/data/files.ts'
import { mixtureOf } from '../src/data/mixture.ts'
import { expandPaths } from '../src/data/paths.ts'
import { permuted } from '../src/data/permutation.ts'
import { type Batch, bitsPerByte, Sampler, type SamplerOptions, Validation, windowsOf } from '../src/data/sampler.ts'
import { MemoryStream, partOf } from '../src/data/stream.ts'
import { tokenizers } from '../src/data/tokenizer.ts'
import { Stream } from '../src/formats/philox.ts'
import { readTokens, scratchFolder } from './scratch.ts'

const { folder, file, says } = scratchFolder()
const refuses = (files: string | string[], message: string) => assert.throws(() => fileDocuments(files), says(message))
const textsOf = (files: string | string[]) => fileDocuments(files).map(({ text }) => Buffer.from(text).toString())

const tokenizer = tokenizers.bytes!
const options: SamplerOptions = { sequence: 32, microBatch: 4, boundaries: 'cross' }

describe('byte tokenizer', () => {
  it('gives bytes and takes them back', () => {
    const text = 'Grüße, 世界 \u{1F40B}'
    const tokens = tokenizer.encode(text)
    assert.deepEqual([...tokens], [...Buffer.from(text)])
    assert.equal(tokenizer.decode([tokenizer.separator, ...tokens, 271]), text)
    assert.deepEqual(tokenizer.encode(Buffer.from(text)), tokens)
    assert.equal(tokenizer.decode([0xf0]), '\ufffd')
    assert.deepEqual([tokenizer.tokens, tokenizer.vocab, tokenizer.vocab % 16], [257, 272, 0])
    assert.deepEqual([tokenizer.bytesOf(65), tokenizer.bytesOf(256)], [1, 0])
  })
})

it('parts of a stream are told apart by where they begin and end', () => {
  const stream = new MemoryStream(Uint16Array.of(256, 65, 66, 256, 67), 2)
  const fingerprint = (from: number, to: number) => {
    const hash = createHash('sha256')
    partOf(stream, from, to).identify(hash)
    return hash.digest('hex')
  }
  assert.equal(new Set([fingerprint(0, 3), fingerprint(0, 4), fingerprint(1, 3)]).size, 3)
})

it('a batch counts the bytes of its targets, of which a separator has none', () => {
  const stream = new MemoryStream(Uint16Array.of(256, 65, 66, 256, 67), 2)
  const options: SamplerOptions = { sequence: 4, microBatch: 1, boundaries: 'reset' }
  const { targets, starts, bytes } = new Validation(stream, tokenizer, 1, options).batch(0)
  assert.deepEqual([[...targets], [...starts], bytes], [[65, 66, 256, 67], [0, 0, 0, 3], 3])
})

describe('embedded corpus', () => {
  const corpus = openCorpus('embedded', 'bytes')
  const training = corpus.sources[0]!.stream
  const tokens = readTokens(training)

  it('has the addresses and the chapters, the newest and every twentieth held out', () => {
    assert.deepEqual(corpus.titles, ['State of the Union addresses and Moby-Dick'])
    assert.deepEqual([training.documents, corpus.validation.documents], [229 + 129, 4 + 6])
    assert.equal(tokens.filter(token => token === 256).length, training.documents! + 1)
    assert.ok(training.length > 11.6e6, `${training.length} tokens`)
    assert.ok(corpus.validation.length > 150e3 && corpus.validation.length < 0.03 * training.length)
    assert.deepEqual([tokens[0], tokens.at(-1)], [256, 256])
    assert.match(tokenizer.decode(tokens.slice(0, 200)), /^Fellow-Citizens of the Senate and House/)
  })

  it('keeps held-out text out of training', () => {
    const trained = Buffer.from(tokens.map(token => Math.min(token, 255)))
    const held = Buffer.from(readTokens(corpus.validation).map(token => Math.min(token, 255)))
    for (let at = 0; at + 200 < held.length; at += 20_000)
      assert.equal(trained.indexOf(held.subarray(at, at + 200)), -1)
    assert.ok(trained.includes('Call me Ishmael.'))
  })

  it('is what it was when the first runs were made, and so are batches of it', () => {
    assert.equal(openCorpus('embedded', 'bytes').fingerprint, corpus.fingerprint)
    assert.equal(corpus.fingerprint, 'da5b539fb9b8a11ad72d8920cff106317a016c64a31d81a596cd6e95418ed140')
    const options: SamplerOptions = { sequence: 128, microBatch: 4, boundaries: 'reset' }
    const order = { mixture: mixtureOf({}, 10, 8), seed: 1, batch: 8 }
    const sampler = new Sampler(corpus.sources, tokenizer, order, options)
    const hash = createHash('sha256')
    const add = ({ tokens, targets, starts, bytes }: Batch) => {
      for (const array of [tokens, targets, starts]) hash.update(new Uint8Array(array.buffer))
      hash.update(String(bytes))
    }
    add(sampler.batch(0, 0))
    add(sampler.batch(3, 1))
    add(sampler.batch(20_000, 0))
    add(new Validation(corpus.validation, tokenizer, 4, options).batch(1))
    assert.equal(hash.digest('hex'), '0ebaacce3d6a9905d7260ed43fd33b361cf9d425b4f35dcae273bfa4af581eeb')
  })
})

describe("the user's files", () => {
  it('are documents in the order of names', () => {
    file('books/b.txt', 'second')
    file('books/a.txt', '\ufefffirst')
    file('books/deep/c.jsonl', '{"text":"third"}\n\n{"text":"fourth","id":4}\n{"text":""}')
    file('books/notes.md', 'not this')
    const all = ['first', 'second', 'third', 'fourth']
    assert.deepEqual(textsOf(join(folder, 'books')), all)
    assert.deepEqual(textsOf(join(folder, 'books/*.txt')), all.slice(0, 2))
    assert.deepEqual(textsOf(join(folder, 'books/**/*.jsonl')), all.slice(2))
    assert.deepEqual(textsOf(join(folder, '**/?.txt')), all.slice(0, 2))
    assert.deepEqual(textsOf([join(folder, 'books/b.txt'), join(folder, 'books')]), [
      'second',
      'first',
      'third',
      'fourth',
    ])
  })

  it('are refused with file, line or byte', () => {
    refuses(join(folder, 'none.txt'), 'data.files: FOLDER/none.txt does not exist (looked from HERE)')
    refuses(join(folder, 'none*.txt'), 'data.files: no file matches FOLDER/none*.txt')
    refuses(file('paper.pdf', 'x'), 'data.files: FOLDER/paper.pdf is not a .txt or .jsonl file')
    refuses(file('void.txt', ''), 'FOLDER/void.txt is empty; a file of text is wanted')
    refuses(file('void.jsonl', '\n{"text":""}\n'), 'FOLDER/void.jsonl is empty; a file of text is wanted')
    refuses(
      file('latin.txt', Buffer.concat([Buffer.from('na\u00efve, but '), Buffer.from([0xe9, 0x74])])),
      'FOLDER/latin.txt is not UTF-8: byte 12 (counted from 0) begins no valid character',
    )
    refuses(
      file('a.jsonl', '{"text":"x"}\n{"body":"y"}\n'),
      'FOLDER/a.jsonl, line 2: found an object with body, wanted {"text": "..."}',
    )
    refuses(file('b.jsonl', '\n{"text":5}\n'), 'FOLDER/b.jsonl, line 2: found "text" as number, wanted {"text": "..."}')
    refuses(
      file('c.jsonl', '{"text":"x"\n'),
      'FOLDER/c.jsonl, line 1: found text that is not JSON, wanted {"text": "..."}',
    )
    refuses(file('d.jsonl', 'null\n'), 'FOLDER/d.jsonl, line 1: found null, wanted {"text": "..."}')
    refuses(file('e.jsonl', '["x"]\n'), 'FOLDER/e.jsonl, line 1: found a list, wanted {"text": "..."}')
    refuses('/dev/null', 'data.files: /dev/null is a device or pipe, wanted a file')
    mkdirSync(join(folder, 'bare'))
    refuses(join(folder, 'bare'), 'data.files: folder FOLDER/bare has no .txt or .jsonl file')
  })

  it('are named by the key of the config that names them', () => {
    const good = file('good.txt', 'text '.repeat(100))
    const none = join(folder, 'none.txt')
    const said = (key: string) => says(`${key}: FOLDER/none.txt does not exist (looked from HERE)`)
    assert.throws(() => openCorpus(none, 'bytes'), said('data.files'))
    assert.throws(() => openCorpus(good, 'bytes', { validation: none }), said('data.validation'))
    const blend = [{ files: good }, { files: none }]
    assert.throws(() => openCorpus('embedded', 'bytes', { blend }), said('data.blend.1.files'))
  })

  it('are found once where a link leads back, and links to nowhere matter only where a text is wanted', () => {
    const text = file('linked/a.txt', 'a')
    symlinkSync('.', join(folder, 'linked', 'self'))
    symlinkSync('nowhere', join(folder, 'linked', '.#lock'))
    assert.deepEqual(expandPaths(join(folder, 'linked'), ['.txt']), [text])
    assert.deepEqual(expandPaths(join(folder, 'linked', '**', '*.txt'), ['.txt']), [text])
    symlinkSync('nowhere', join(folder, 'linked', 'b.txt'))
    assert.throws(() => expandPaths(join(folder, 'linked'), ['.txt']), /ENOENT.*b\.txt/)
  })

  it('are UTF-8 exactly where a decoder says so', () => {
    const random = new Stream(3, 0)
    const decoder = new TextDecoder('utf-8', { fatal: true })
    const pieces = [
      [0x41],
      [0xc3, 0xa9],
      [0xe4, 0xb8, 0x96],
      [0xf0, 0x9f, 0x90, 0x8b],
      [0xed, 0xa0, 0x80],
      [0xc0, 0xaf],
      [0xf4, 0x90, 0x80, 0x80],
      [0x80],
      [0xe0, 0x80, 0xaf],
      [0xf0, 0x9f],
    ]
    for (let round = 0; round < 400; round++) {
      const bytes = Uint8Array.from(Array.from({ length: 3 }, () => pieces[random.below(pieces.length)]!).flat())
      let valid = true
      try {
        decoder.decode(bytes)
      } catch {
        valid = false
      }
      const at = invalidUtf8(bytes)
      assert.equal(at < 0, valid, String(bytes))
      if (at > 0) assert.doesNotThrow(() => decoder.decode(bytes.subarray(0, at)), String(bytes))
    }
  })

  it('give a share for validation, in whole characters', () => {
    const few = holdOut([{ name: 'a', text: Buffer.from('é'.repeat(101)) }])
    assert.equal(Buffer.from(few.training[0]!.text).toString(), 'é'.repeat(95))
    assert.equal(Buffer.from(few.validation[0]!.text).toString(), 'é'.repeat(6))
    const many = holdOut(Array.from({ length: 120 }, (_, i) => ({ name: String(i), text: Buffer.from(`text ${i}`) })))
    assert.deepEqual(
      many.validation.map(({ name }) => name),
      ['49', '99'],
    )
    assert.equal(many.training.length, 118)
  })

  it('change the fingerprint when they change', () => {
    const path = file('grow.txt', 'a text of some length')
    const before = openCorpus(path, 'bytes').fingerprint
    file('grow.txt', 'a text of same length')
    assert.notEqual(openCorpus(path, 'bytes').fingerprint, before)
  })
})

describe('permutation', () => {
  it('reaches every index once, differently by seed and epoch', () => {
    for (const size of [1, 2, 3, 4, 5, 16, 17, 1000]) {
      const order = (seed: number, epoch: number) =>
        Array.from({ length: size }, (_, i) => permuted(i, size, seed, epoch))
      assert.deepEqual(
        order(1, 0).toSorted((a, b) => a - b),
        Array.from({ length: size }, (_, i) => i),
      )
      assert.deepEqual(order(1, 0), order(1, 0))
      if (size < 100) continue
      for (const other of [order(1, 1), order(2, 0), order(1 + 2 ** 32, 0)]) assert.notDeepEqual(other, order(1, 0))
    }
    assert.throws(() => permuted(5, 5, 1, 0), /index 5 is outside 0 \.\. 4/)
  })

  it('looks random: fixed points and rising neighbours as often as in a shuffle', () => {
    const size = 4000
    const order = Array.from({ length: size }, (_, i) => permuted(i, size, 9, 0))
    assert.ok(order.filter((to, from) => to === from).length < 8)
    const rising = order.filter((to, i) => i > 0 && to > order[i - 1]!).length
    assert.ok(Math.abs(rising - size / 2) < 100, `${rising} of ${size}`)
    const near = order.filter((to, i) => i > 0 && Math.abs(to - order[i - 1]!) < 40).length
    assert.ok(near < 140, `${near} neighbours stay near`)
  })
})

describe('sampler', () => {
  const documents = Array.from({ length: 30 }, (_, i) => `Document ${i}: ${'abcdefghij'.repeat(1 + (i % 7))}`)
  const corpus = openCorpus(file('many.jsonl', documents.map(text => JSON.stringify({ text })).join('\n')), 'bytes')
  const sampler = (seed = 1, change: Partial<SamplerOptions> = {}) =>
    new Sampler(
      corpus.sources,
      tokenizer,
      { mixture: mixtureOf({}, 1000, 8), seed, batch: 8 },
      { ...options, ...change },
    )
  const rowsOf = (array: Int32Array, sequence = 32) =>
    Array.from({ length: array.length / sequence }, (_, row) =>
      [...array.slice(row * sequence, (row + 1) * sequence)].join(),
    )

  it('sees every window once an epoch', () => {
    const all = sampler()
    const { stream } = corpus.sources[0]!
    const windows = windowsOf(stream, 32)
    assert.deepEqual(all.windows, [windows])
    const seen: string[] = []
    for (let g = 0; g < 2 * windows; g += 4) seen.push(...rowsOf(all.batch(Math.floor(g / 8), (g / 4) % 2).tokens))
    const tokens = readTokens(stream)
    const wanted = Array.from({ length: windows }, (_, w) => [...tokens.slice(w * 32, (w + 1) * 32)].join()).sort()
    assert.deepEqual(seen.slice(0, windows).sort(), wanted)
    assert.deepEqual(seen.slice(windows, 2 * windows).sort(), wanted)
    assert.notDeepEqual(seen.slice(0, windows), seen.slice(windows, 2 * windows))
  })

  it('gives the same batch for the same seed, step and index, whatever was asked before', () => {
    const a = sampler()
    const first = Int32Array.from(a.batch(7, 1).tokens)
    a.batch(8, 0)
    assert.deepEqual(a.batch(7, 1).tokens, first)
    assert.deepEqual(sampler().batch(7, 1).tokens, first)
    assert.notDeepEqual(sampler(2).batch(7, 1).tokens, first)
  })

  it('gives a step the same sequences however it is cut into micro-batches', () => {
    const step = (microBatch: number) =>
      Array.from({ length: 8 / microBatch }, (_, i) => rowsOf(sampler(1, { microBatch }).batch(3, i).tokens)).flat()
    assert.deepEqual(step(4), step(8))
    assert.deepEqual(step(1), step(8))
  })

  it('shifts targets by one and counts their bytes', () => {
    const { tokens, targets, bytes } = sampler().batch(2, 0)
    for (let i = 0; i + 1 < 32; i++) assert.equal(targets[i], tokens[i + 1])
    assert.equal(bytes, targets.filter(token => token !== 256).length)
    assert.ok(bytes < targets.length)
  })

  it('marks where documents begin, only if boundaries reset', () => {
    const { tokens, starts } = sampler(1, { boundaries: 'reset' }).batch(0, 0)
    for (let row = 0; row < 4; row++) {
      let start = 0
      for (let i = 0; i < 32; i++) {
        if (tokens[row * 32 + i] === 256) start = i
        assert.equal(starts[row * 32 + i], start)
      }
    }
    assert.ok(starts.some(start => start > 0))
    assert.ok(
      sampler()
        .batch(0, 0)
        .starts.every(start => start === 0),
    )
  })

  it('validates on fixed windows spread over the held-out text', () => {
    const stream = openCorpus('embedded', 'bytes').validation
    const validation = new Validation(stream, tokenizer, 4, { ...options, sequence: 128 })
    const rows = Array.from({ length: validation.batches }, (_, i) => rowsOf(validation.batch(i).tokens, 128)).flat()
    assert.equal(new Set(rows).size, 16)
    const count = windowsOf(stream, 128)
    const last = Math.floor((15 * count) / 16)
    assert.equal(rows[15], readTokens(stream, last * 128, (last + 1) * 128).join())
    assert.deepEqual(
      rowsOf(new Validation(stream, tokenizer, 4, { ...options, sequence: 128 }).batch(0).tokens, 128),
      rows.slice(0, 4),
    )
  })

  it('says when the text is too short for one sequence', () => {
    const short = openCorpus(file('short.txt', 'x'.repeat(100)), 'bytes')
    assert.throws(
      () => new Validation(short.validation, tokenizer, 4, options),
      /^CorpusError: the held-out text has 7 tokens, fewer than the 33 of one sequence; give more text in data\.files or a smaller data\.sequence$/,
    )
    assert.throws(
      () =>
        new Sampler(
          short.sources,
          tokenizer,
          { mixture: mixtureOf({}, 1, 8), seed: 1, batch: 8 },
          { ...options, sequence: 128 },
        ),
      /^CorpusError: the training text has 97 tokens/,
    )
  })

  it('converts nats per token to bits per byte', () => {
    assert.ok(Math.abs(bitsPerByte(Math.LN2, 100, 50) - 2) < 1e-12)
  })
})
