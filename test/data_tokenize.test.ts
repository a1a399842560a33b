import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { gzipSync } from 'node:zlib'
import { packageRoot } from '../src/backends/open.ts'
import { readManifest } from '../src/data/dataset.ts'
import { ShardWriter } from '../src/data/shard_writer.ts'
import { openShard } from '../src/data/shards.ts'
import { type TokenizeOptions, tokenizeFiles } from '../src/data/tokenize.ts'
import { openTokenizer } from '../src/data/tokenizers.ts'
import { cutText, type LinesUnit, unitsOf } from '../src/data/units.ts'
import { runCli } from './cli.ts'
import { readTokens, scratchFolder } from './scratch.ts'

const golden = (name: string) => join(packageRoot(), 'test/golden', name)
const spec = golden('tokenizers/gpt2.json')
const tokenizer = openTokenizer(spec)
const { folder, file, says } = scratchFolder()
let outs = 0
const tokenize = (files: string[], change: Partial<TokenizeOptions> = {}) => {
  const out = join(folder, `out${outs++}`)
  const options = { files, tokenizer: spec, out, column: 'text', shardTokens: 1e9, workers: 2, ...change }
  return tokenizeFiles(options).then(result => ({ ...result, out: options.out }))
}
const refuses = async (files: string[], message: string, change: Partial<TokenizeOptions> = {}) => {
  const out = change.out ?? join(folder, `out${outs}`)
  await assert.rejects(tokenize(files, change), says(message))
  return out
}
const tokensOf = (out: string) =>
  readManifest(out)!.shards.flatMap(({ name }) => [...readTokens(openShard(join(out, `${name}.bin`), tokenizer))])

const texts = Array.from(
  { length: 60 },
  (_, i) => `Document ${i}: ${'naïve 世界 😀 '.repeat(i % 5)}${'words of text '.repeat(i % 11)}`,
)
const packed = texts.flatMap(text => [...tokenizer.encode(text), tokenizer.separator])
const lines = texts.map((text, i) => JSON.stringify({ id: i, text })).join('\n\n')

describe('tokenize', () => {
  it('gives the same tokens from every kind of file, a separator after each document', async () => {
    const paths = [
      file('a.jsonl', lines),
      file('a.jsonl.gz', gzipSync(lines)),
      golden('corpus/text.jsonl.zst'),
      golden('corpus/text.parquet'),
    ]
    for (const path of paths) {
      const { out, manifest, invalid } = await tokenize([path])
      assert.deepEqual(tokensOf(out), packed, path)
      assert.deepEqual(
        [manifest.complete, manifest.type, manifest.shards[0]!.documents, invalid],
        [true, 'uint16', 60, 0],
      )
      assert.equal(
        manifest.shards[0]!.textBytes,
        texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0),
      )
      assert.deepEqual(readdirSync(out).sort(), [
        'dataset.json',
        'shard-00000.bin',
        'shard-00000.idx',
        'tokenizer.json',
        'tokenizer_config.json',
      ])
    }
  })

  it('reads a folder of texts in the order of names, and takes what is no UTF-8 as U+FFFD', async () => {
    file('books/b.txt', '\ufeffsecond')
    file('books/a.txt', Buffer.concat([Buffer.from('first '), Buffer.from([0xff, 0xe4, 0xb8]), Buffer.from(' end')]))
    file('books/c.txt', '')
    const { out, invalid } = await tokenize([join(folder, 'books')])
    assert.equal(invalid, 1)
    assert.deepEqual(tokensOf(out), [
      ...tokenizer.encode('first \ufffd\ufffd end'),
      0,
      ...tokenizer.encode('second'),
      0,
    ])
  })

  it('cuts a long text where its parts encode as the whole does', async () => {
    const english = readFileSync(golden('tokenizers/expected.json'), 'utf8').slice(0, 30_000)
    const samples = [
      english.replaceAll('"', ' a b '),
      '世界人権宣言。\n'.repeat(2000),
      'word  \n  other\r\n'.repeat(900),
    ]
    for (const style of ['gpt2', 'llama3', 'nemotron']) {
      const encoder = openTokenizer(golden(`tokenizers/${style}.json`))
      for (const sample of samples) {
        const bytes = Buffer.from(sample)
        const at = cutText(bytes, 9001)
        assert.ok(at > 4000 && at <= 9001)
        assert.deepEqual(
          [...encoder.encode(bytes.subarray(0, at)), ...encoder.encode(bytes.subarray(at))],
          [...encoder.encode(bytes)],
          style,
        )
      }
    }
    assert.equal(cutText(Buffer.from('é'.repeat(50)), 51), 50)
    assert.equal(cutText(Buffer.from('one two six 3 4 5'), 15), 11, 'after a letter, not after a digit')
    const text = 'The whale, the whale! A long sentence of many words goes on and on.\n'.repeat(140_000)
    const { out, manifest } = await tokenize([file('long.txt', text)])
    assert.equal(manifest.shards[0]!.documents, 1)
    const whole = [...tokenizer.encode(text), 0]
    const hash = (tokens: readonly number[]) => createHash('sha256').update(Int32Array.from(tokens)).digest('hex')
    assert.equal(hash(tokensOf(out)), hash(whole))
  })

  it('makes the same shards with any number of workers', async () => {
    const many = file('many.jsonl', Array.from({ length: 60 }, () => lines).join('\n'))
    const made = []
    for (const workers of [1, 3]) {
      const { manifest } = await tokenize([many, golden('corpus/text.parquet')], { workers, shardTokens: 20_000 })
      made.push(manifest.shards)
    }
    assert.deepEqual(made[0], made[1])
    assert.ok(made[0]!.length > 2, `${made[0]!.length} shards`)
  })

  it('goes on after the last whole shard, to the same bytes', async () => {
    const files = ['x', 'y', 'z'].map(name =>
      file(`parts/${name}.jsonl`, Array.from({ length: 40 }, () => lines).join('\n')),
    )
    const whole = await tokenize(files, { shardTokens: 60_000 })
    assert.ok(whole.manifest.shards.length >= 3, `${whole.manifest.shards.length} shards`)
    const stop = new AbortController()
    const out = join(folder, 'stopped')
    let steps = 0
    const options = { shardTokens: 60_000, out, signal: stop.signal }
    await assert.rejects(
      tokenize(files, {
        ...options,
        progress: () => {
          if (++steps === 3) stop.abort()
        },
      }),
      { name: 'AbortError' },
    )
    const { shards, complete } = readManifest(out)!
    assert.deepEqual([shards.length > 0 && shards.length < whole.manifest.shards.length, complete], [true, false])
    assert.ok(!readdirSync(out).some(name => name.endsWith('.partial')))
    const again = await tokenize(files, { shardTokens: 60_000, out })
    assert.equal(again.resumed, shards.length)
    assert.deepEqual(again.manifest, whole.manifest)
    const bytes = (at: string) => whole.manifest.shards.map(({ name }) => readFileSync(join(at, `${name}.bin`)))
    assert.deepEqual(bytes(out), bytes(whole.out))
    assert.equal((await tokenize(files, { shardTokens: 60_000, out })).textBytes, 0)
    await refuses(files, `FOLDER/stopped was begun with shardTokens 60000, not 7; use another --out, or delete it`, {
      out,
      shardTokens: 7,
    })
    appendFileSync(files[1]!, '\n{"text":"more"}')
    await refuses(
      files,
      'FOLDER/stopped was begun with other files: FOLDER/parts/y.jsonl is not as it was; use another --out, or delete it',
      {
        out,
        shardTokens: 60_000,
      },
    )
    await refuses(
      files,
      `FOLDER/stopped was begun with tokenizer ${spec}, not bytes; use another --out, or delete it`,
      {
        out,
        shardTokens: 60_000,
        tokenizer: 'bytes',
      },
    )
  })

  it('says in one sentence what it cannot read, and leaves nothing behind', async () => {
    const parquet = golden('corpus/text.parquet')
    const zst = readFileSync(golden('corpus/text.jsonl.zst'))
    const gz = gzipSync(lines)
    const flipped = Uint8Array.from(gz)
    flipped[200]! ^= 0x55
    const wrong: [string[], string, Partial<TokenizeOptions>?][] = [
      [[parquet], `${parquet} has no column "body"; its columns are id, text (--column names one)`, { column: 'body' }],
      [[parquet], `${parquet}, row 0: found "id" as bigint, wanted text`, { column: 'id' }],
      [
        [file('bad/cut.parquet', readFileSync(parquet).subarray(0, 900))],
        'FOLDER/bad/cut.parquet is damaged or no .parquet file: parquet file invalid (footer != PAR1)',
      ],
      [[file('bad/cut.jsonl.gz', gz.subarray(0, 400))], 'FOLDER/bad/cut.jsonl.gz is damaged: unexpected end of file'],
      [[file('bad/cut.jsonl.zst', zst.subarray(0, 300))], 'FOLDER/bad/cut.jsonl.zst is damaged: unexpected EOF'],
      [[file('bad/text.jsonl.zst', lines)], 'FOLDER/bad/text.jsonl.zst is damaged: invalid zstd data'],
      [
        [file('bad/a.jsonl', `${'{"text":"x"}\n'.repeat(90_000)}{"title":"y"}\n`)],
        'FOLDER/bad/a.jsonl, line 90001: found an object with title, wanted {"text": "..."}',
      ],
      [[join(folder, 'none')], 'files: FOLDER/none does not exist (looked from HERE)'],
      [[file('bad/empty.txt', '')], 'the files hold no text: FOLDER/bad/empty.txt'],
    ]
    for (const [files, message, change] of wrong) assert.ok(!existsSync(await refuses(files, message, change)), message)
    await assert.rejects(tokenize([file('bad/flip.jsonl.gz', flipped)]), /flip\.jsonl\.gz(, line \d+: | is damaged: )/)
    const busy = join(folder, 'books')
    await refuses([parquet], 'FOLDER/books is not empty and holds no dataset.json; use another --out', { out: busy })
  })

  it('cuts a file into the same units however its bytes come', async () => {
    const long = (length: number) => `${JSON.stringify({ text: 'x'.repeat(length) })}\n`
    const text = long(600_000) + long(100).repeat(300)
    const sizesOf = async (path: string) => {
      const sizes: number[] = []
      for await (const unit of unitsOf(path, 'text')) sizes.push((unit as LinesUnit).bytes.length)
      return sizes
    }
    const [whole, inParts] = [file('units.jsonl', text), file('units.jsonl.gz', gzipSync(text))]
    assert.deepEqual(await sizesOf(whole), [600_012, 300 * 112])
    assert.deepEqual(await sizesOf(inParts), await sizesOf(whole))
  })

  it('leaves nothing of a shard that cannot be finished', () => {
    const to = join(folder, 'unfinished')
    mkdirSync(to)
    const writer = new ShardWriter(to, 'shard-00000', 'uint16')
    const lengths = Int32Array.of(2)
    writer.append({ tokens: Uint16Array.of(1, 2), lengths, goesOn: false, textBytes: 1, invalid: 0 })
    renameSync(to, `${to}-moved`)
    assert.throws(() => writer.finish({ file: 0, unit: 1 }), /^Error: ENOENT/)
    renameSync(`${to}-moved`, to)
    writer.discard()
    assert.deepEqual(readdirSync(to), [])
  })

  it('is a command', () => {
    const out = join(folder, 'cli')
    const { status, stdout, stderr } = runCli([
      'tokenize',
      golden('corpus/text.parquet'),
      '--tokenizer',
      spec,
      '--out',
      out,
      '--json',
    ])
    assert.deepEqual([status, stderr], [0, ''])
    const { tokens, documents, vocabulary } = JSON.parse(stdout)
    assert.deepEqual([documents, vocabulary, tokens], [60, tokenizer.tokens, packed.length])
  })
})
