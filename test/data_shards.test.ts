import assert from 'node:assert/strict'
import { copyFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { packageRoot } from '../src/backends/open.ts'
import { openCorpus } from '../src/data/corpus.ts'
import { makeIndex, tokenTypeFor } from '../src/data/megatron.ts'
import { mixtureOf } from '../src/data/mixture.ts'
import { Sampler, Validation } from '../src/data/sampler.ts'
import { holdOutTail, openShard } from '../src/data/shards.ts'
import { tokenizeFiles } from '../src/data/tokenize.ts'
import { tokenizers } from '../src/data/tokenizer.ts'
import { openTokenizer } from '../src/data/tokenizers.ts'
import { readTokens, scratchFolder } from './scratch.ts'
import { wordText } from './training.ts'

const golden = (name: string) => join(packageRoot(), 'test/golden', name)
const bytes = tokenizers.bytes!
const { folder, file, says } = scratchFolder()
const refuses = (work: () => unknown, message: string) => assert.throws(work, says(message))

/** The documents of test/oracle/make_corpus.py. */
const documents = Array.from({ length: 40 }, (_, i) => [
  ...Array.from({ length: 1 + (i % 9) }, (_, j) => (7 * i + j) % 256),
  256,
])
const tokens = documents.flat()
const llmc = (magic: number, version: number, content: Uint8Array, count: number) => {
  const header = new Int32Array(256)
  header.set([magic, version, count])
  return Buffer.concat([Buffer.from(header.buffer), content])
}
const content16 = Buffer.from(Uint16Array.from(tokens).buffer)
const content32 = Buffer.from(Int32Array.from(tokens).buffer)
const kinds: Readonly<Record<string, string>> = {
  'Megatron, 16 bits': golden('corpus/uint16.bin'),
  'Megatron, 32 bits': golden('corpus/int32.bin'),
  'llm.c, 16 bits': file('gpt2.bin', llmc(20240520, 1, content16, tokens.length)),
  'llm.c, 32 bits': file('llama3.bin', llmc(20240801, 7, content32, tokens.length)),
  nanoGPT: file('train.bin', content16),
}

describe('files of tokens', () => {
  for (const [kind, path] of Object.entries(kinds))
    it(`are read by the window: ${kind}`, () => {
      const shard = openShard(path, bytes)
      assert.equal(shard.length, tokens.length)
      assert.deepEqual([...readTokens(shard)], tokens)
      assert.deepEqual([...readTokens(shard, 17, 60)], tokens.slice(17, 60))
      const into = new Int32Array(10).fill(-1)
      shard.read(3, 4, into, 5)
      assert.deepEqual([...into], [-1, -1, -1, -1, -1, ...tokens.slice(3, 7), -1])
    })

  it('find the document that begins at a token or after it, by their index', () => {
    const begins = documents.map((_, i) => documents.slice(0, i).flat().length)
    const shard = openShard(kinds['Megatron, 16 bits']!, bytes)
    const found = tokens.map((_, from) => shard.documentStart(from, 256))
    assert.deepEqual(
      found,
      tokens.map((_, from) => begins.find(begin => begin >= from)),
    )
  })

  it('have an index that is Megatron’s to the byte', () => {
    const lengths = Int32Array.from(documents, ({ length }) => length)
    for (const type of ['uint16', 'int32'] as const)
      assert.deepEqual(makeIndex(type, lengths), readFileSync(golden(`corpus/${type}.idx`)))
  })

  it('have two bytes a token as long as that holds every token', () => {
    assert.deepEqual([257, 65_536, 65_537].map(tokenTypeFor), ['uint16', 'uint16', 'int32'])
  })

  it('hold out their last documents, found by the index or a separator', () => {
    for (const [kind, path] of Object.entries(kinds)) {
      const shard = openShard(path, bytes)
      const { training, validation } = holdOutTail([shard, shard], 256)
      assert.deepEqual([...readTokens(training), ...readTokens(validation)], [...tokens, ...tokens], kind)
      assert.ok(validation.length >= 1 && validation.length <= 10, kind)
    }
  })

  it('are one stream in the order of names, windows across files included', () => {
    const path = (name: string) => file(`many/${name}.bin`, content16)
    const corpus = openCorpus([path('b'), path('a')], 'bytes', { validation: golden('corpus/uint16.bin') })
    const { stream } = corpus.sources[0]!
    assert.deepEqual([...readTokens(stream)], [...tokens, ...tokens])
    assert.deepEqual(
      [...readTokens(stream, tokens.length - 3, tokens.length + 3)],
      [...tokens.slice(-3), ...tokens.slice(0, 3)],
    )
    const whole = openCorpus(join(folder, 'many'), 'bytes')
    assert.equal(whole.sources[0]!.stream.documents, undefined)
    assert.deepEqual(whole.titles, [`${join(folder, 'many')} (2 shards)`])
    assert.deepEqual(corpus.titles, [`${path('b')}, ${path('a')} (2 shards)`])
  })

  it('are refused if truncated, of another kind or of another tokenizer', () => {
    const copy = (name: string) => {
      const path = join(folder, `${name}.bin`)
      copyFileSync(golden('corpus/uint16.bin'), path)
      copyFileSync(golden('corpus/uint16.idx'), path.replace('.bin', '.idx'))
      return path
    }
    const short = copy('short')
    truncateSync(short, 400)
    refuses(
      () => openShard(short, bytes),
      'FOLDER/short.bin is damaged or truncated: found 400 bytes, wanted 460 as its index says',
    )
    const index = copy('index')
    truncateSync(index.replace('.bin', '.idx'), 800)
    refuses(
      () => openShard(index, bytes),
      'FOLDER/index.idx is damaged or truncated: found 800 bytes, wanted 842 for 40 sequences',
    )
    const other = copy('other')
    writeFileSync(other.replace('.bin', '.idx'), 'x'.repeat(900))
    refuses(
      () => openShard(other, bytes),
      'FOLDER/other.idx is not an index of Megatron: it does not begin with MMIDIDX',
    )
    const wide = readFileSync(golden('corpus/uint16.idx'))
    wide.writeUInt8(5, 17)
    writeFileSync(other.replace('.bin', '.idx'), wide)
    refuses(() => openShard(other, bytes), 'FOLDER/other.idx: found tokens of type 5, wanted 8 (uint16) or 4 (int32)')
    refuses(
      () => openShard(file('cut.bin', llmc(20240520, 1, content16.subarray(8), tokens.length)), bytes),
      'FOLDER/cut.bin is damaged or truncated: found 1476 bytes, wanted 1484 for the 230 tokens that its header says',
    )
    refuses(
      () => openShard(file('odd.bin', 'abc'), bytes),
      'FOLDER/odd.bin is no file of tokens: it has no .idx beside it, no header of llm.c, and an odd number of bytes (3)',
    )
    refuses(() => openShard(file('none.bin', ''), bytes), 'FOLDER/none.bin holds no tokens')
    refuses(
      () => openShard(file('text.bin', 'A text and no file of tokens'), bytes),
      'FOLDER/text.bin has token 8257, wanted below 257, the tokens of data.tokenizer bytes: it was made with another tokenizer or is no file of tokens',
    )
    refuses(
      () => openCorpus([golden('corpus/uint16.bin'), file('a.txt', 'text')], 'bytes'),
      `data.files: found text (FOLDER/a.txt) beside tokens (${golden('corpus/uint16.bin')}), wanted one kind in a source`,
    )
  })

  it('are refused where a token that no probe met is none of the tokenizer’s', () => {
    const many = new Uint16Array(100_000)
    many[50_123] = 300
    const shard = openShard(file('one.bin', new Uint8Array(many.buffer)), bytes)
    const order = { mixture: mixtureOf({}, 10, 1), seed: 1, batch: 1 }
    const source = { name: 'one', stream: shard }
    const sampler = new Sampler([source], bytes, order, { sequence: 99_999, microBatch: 1, boundaries: 'cross' })
    refuses(
      () => sampler.batch(0, 0),
      'token 50123 of the stream is 300, wanted below 257, the tokens of data.tokenizer bytes',
    )
    const long = new Uint16Array(1_000_000)
    long[990_000] = 300
    const { validation } = holdOutTail([openShard(file('two.bin', new Uint8Array(long.buffer)), bytes)], 256)
    const options = { sequence: 64, microBatch: 1, boundaries: 'cross' } as const
    refuses(
      () => new Validation(validation, bytes, 1, options).batch(0),
      'token 0 of the stream is 300, wanted below 257, the tokens of data.tokenizer bytes',
    )
  })
})

describe('a folder that tokenize made', () => {
  const spec = golden('tokenizers/gpt2.json')
  const out = join(folder, 'made')
  const text = file(
    'words.jsonl',
    Array.from({ length: 50 }, (_, i) => JSON.stringify({ text: wordText(3000, i) })).join('\n'),
  )
  const made = tokenizeFiles({ files: [text], tokenizer: spec, out, column: 'text', shardTokens: 1e8, workers: 1 })
  const options = { sequence: 64, microBatch: 4, boundaries: 'reset' } as const

  it('gives batches as the text does, but for the separator that begins it', async () => {
    await made
    const copy = join(out, 'tokenizer.json')
    const corpus = openCorpus(out, copy, { validation: text })
    const { stream } = corpus.sources[0]!
    const fromText = openCorpus(text, spec, { validation: text }).sources[0]!.stream
    assert.deepEqual(readTokens(stream), readTokens(fromText, 1))
    assert.equal(stream.documents, 50)
    assert.equal(corpus.tokenizer.sha256, openTokenizer(spec).sha256)
    const order = { mixture: mixtureOf({}, 100, 4), seed: 1, batch: 4 }
    const sampler = new Sampler(corpus.sources, corpus.tokenizer, order, options)
    const first = Int32Array.from(sampler.batch(5, 0).tokens)
    sampler.prefetch(6)
    assert.deepEqual(sampler.batch(5, 0).tokens, first)
  })

  it('says which tokenizer it wants, and whether it is finished', async () => {
    await made
    refuses(
      () => openCorpus(out, 'bytes'),
      `FOLDER/made was made with tokenizer ${spec} (1500 tokens), but data.tokenizer is bytes (257); use data.tokenizer=FOLDER/made/tokenizer.json`,
    )
    const unfinished = file(
      'unfinished/dataset.json',
      readFileSync(join(out, 'dataset.json'), 'utf8').replace('"complete": true', '"complete": false'),
    )
    refuses(
      () => openCorpus(join(unfinished, '..'), spec),
      'FOLDER/unfinished is not finished; the halfbyte tokenize that began it goes on if called again',
    )
    file('broken/dataset.json', '{')
    refuses(
      () => openCorpus(join(folder, 'broken'), spec),
      'FOLDER/broken/dataset.json: found text that is not JSON, wanted what halfbyte tokenize writes',
    )
  })

  it('has another fingerprint when a shard is another', async () => {
    await made
    const before = openCorpus(out, spec).fingerprint
    const bin = join(out, 'shard-00000.bin')
    const changed = readFileSync(bin)
    changed[0]! ^= 1
    writeFileSync(bin, changed)
    assert.notEqual(openCorpus(out, spec).fingerprint, before)
  })
})
