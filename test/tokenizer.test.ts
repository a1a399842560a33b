import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { packageRoot } from '../src/backends/open.ts'
import { specialToken, splitAddedTokens } from '../src/data/added_tokens.ts'
import { MergeTable } from '../src/data/merges.ts'
import { translatePattern } from '../src/data/pattern.ts'
import type { Tokenizer } from '../src/data/tokenizer.ts'
import { openTokenizer } from '../src/data/tokenizers.ts'
import { scratchFolder } from './scratch.ts'

/** test/oracle/make_tokenizers.py made tokenizers and expectations with the Python libraries `tokenizers` and `tiktoken`. */
const golden = join(packageRoot(), 'test/golden/tokenizers')
const expected = JSON.parse(readFileSync(join(golden, 'expected.json'), 'utf8')) as {
  texts: string[]
  ids: Record<string, number[][]>
  decoded: Record<string, string[]>
}
const texts = expected.texts.map(text => Buffer.from(text, 'base64'))

const { folder, file, says } = scratchFolder()
const refuses = (spec: string, message: string) => assert.throws(() => openTokenizer(spec), says(message))

const specs: Readonly<Record<string, string>> = {
  gpt2: join(golden, 'gpt2.json'),
  llama3: join(golden, 'llama3.json'),
  nemotron: join(golden, 'nemotron.json'),
  tiktoken: `tiktoken:${join(golden, 'cl100k_small.tiktoken')}#cl100k_base`,
}

const encodesAll = (tokenizer: Tokenizer, ids: readonly number[][]) => {
  for (const [i, text] of texts.entries())
    assert.deepEqual([...tokenizer.encode(text)], ids[i], JSON.stringify(text.toString('utf8')))
}

describe('tokenizers of files', () => {
  for (const [style, spec] of Object.entries(specs)) {
    const tokenizer = openTokenizer(spec)
    it(`encode as the Python library does: ${style}`, () => {
      assert.ok(texts.length > 90)
      encodesAll(tokenizer, expected.ids[style]!)
      // Words that are remembered encode as they did at first.
      encodesAll(tokenizer, expected.ids[style]!)
    })

    it(`decode what they encoded: ${style}`, () => {
      const decoded =
        expected.decoded[style] ?? texts.map(text => text.toString('utf8').replaceAll('<|endoftext|>', ''))
      for (const [i, ids] of expected.ids[style]!.entries()) assert.equal(tokenizer.decode(ids), decoded[i])
    })

    it(`say how many bytes a token stands for: ${style}`, () => {
      const text = 'Grüße, 世界 \u{1F40B} and some more'
      const ids = [...tokenizer.encode(text)]
      assert.equal(
        ids.reduce((sum, id) => sum + tokenizer.bytesOf(id), 0),
        Buffer.byteLength(text),
      )
      assert.equal(tokenizer.bytesOf(tokenizer.separator), 0)
      assert.equal(tokenizer.decode([tokenizer.separator, ...ids, tokenizer.tokens + 5]), text)
      assert.ok(tokenizer.vocab % 16 === 0 && tokenizer.vocab >= tokenizer.tokens)
      assert.ok(tokenizer.separator < tokenizer.tokens)
    })
  }

  it('become a tokenizer.json that encodes alike', () => {
    for (const [style, spec] of Object.entries({ ...specs, bytes: 'bytes' })) {
      const tokenizer = openTokenizer(spec)
      const path = file(`${style}.json`, tokenizer.json())
      const again = openTokenizer(style === 'bytes' ? `${path}#<|separator|>` : path)
      assert.deepEqual([again.tokens, again.separator], [tokenizer.tokens, tokenizer.separator], style)
      for (const text of texts)
        assert.deepEqual([...again.encode(text.toString('utf8'))], [...tokenizer.encode(text.toString('utf8'))], style)
      assert.equal(again.sha256, tokenizer.sha256)
    }
  })

  it('find the longest of several added tokens that begin at one place', () => {
    const found: (string | number)[] = []
    const split = splitAddedTokens([specialToken('<s', 1), specialToken('<s>', 2)])
    const add = (piece: string | number) => found.push(piece)
    split('a<s>b<sc', add, add)
    assert.deepEqual(found, ['a', 2, 'b', 1, 'c'])
  })

  it('keep the first of two merges of one pair', () => {
    const table = new MergeTable(2)
    table.add(1, 2, 0, 300)
    table.add(1, 2, 5, 400)
    const at = table.find(1, 2)
    assert.deepEqual([table.size, table.rankAt(at), table.mergedAt(at)], [1, 0, 300])
  })

  it('merge a long word as a short one', () => {
    const tokenizer = openTokenizer(specs.gpt2!)
    const long = 'whale'.repeat(20_000)
    const ids = tokenizer.encode(long)
    assert.equal(tokenizer.decode(ids), long)
    assert.deepEqual([...ids.slice(-50)], [...tokenizer.encode('whale'.repeat(100)).slice(-50)])
  })

  it('say so if a word is too long for them, and go on', () => {
    const tokenizer = openTokenizer(specs.gpt2!)
    assert.throws(() => tokenizer.encode('世'.repeat(1.6e7)), {
      name: 'CorpusError',
      message: `tokenizer ${specs.gpt2}: a text has a word of millions of characters, which is too long to encode`,
    })
    encodesAll(tokenizer, expected.ids.gpt2!)
  })

  it('forget words rather than grow without bound, and encode them all the same', () => {
    const tokenizer = openTokenizer(specs.gpt2!)
    // Of letters alone, because digits are words of their own: more than the 131,072 words that are remembered.
    const letters = (i: number) => i.toString(36).replace(/\d/g, digit => 'ABCDEFGHIJ'[Number(digit)]!)
    const words = Array.from({ length: 140_000 }, (_, i) => ` ${letters(i)}`)
    const ids = tokenizer.encode(words.join(''))
    assert.equal(tokenizer.decode(ids), words.join(''))
    assert.deepEqual(tokenizer.encode(words.join('')), ids)
  })

  it('take the separator that is asked for, that of the config beside them, or a usual one', () => {
    assert.equal(openTokenizer(specs.gpt2!).decode([0]), '')
    assert.equal(openTokenizer(specs.gpt2!).separator, 0)
    assert.equal(openTokenizer(`${specs.nemotron!}#<s>`).separator, 1)
    const path = file('tokenizer.json', readFileSync(specs.nemotron!, 'utf8'))
    assert.equal(openTokenizer(path).separator, 2)
    file('tokenizer_config.json', JSON.stringify({ eos_token: { content: '<unk>' } }))
    assert.equal(openTokenizer(join(folder, '.', 'tokenizer.json').replace(folder, `${folder}/.`)).separator, 0)
    refuses(
      `${specs.gpt2!}#<eos>`,
      `${specs.gpt2} has no token <eos> to end documents with (its special tokens: <|endoftext|>)`,
    )
  })

  it('are read from a file that does not say the type of its model, as the first one of GPT-2', () => {
    const json = JSON.parse(readFileSync(specs.gpt2!, 'utf8'))
    delete json.model.type
    encodesAll(openTokenizer(file('untyped.json', JSON.stringify(json))), expected.ids.gpt2!)
  })
})

/** What the tests change of a tokenizer.json. */
interface TokenizerJson {
  added_tokens: unknown[]
  normalizer: unknown
  pre_tokenizer: unknown
  model: { type: string; byte_fallback: boolean; merges: unknown[]; vocab: Record<string, number> }
}

describe('tokenizers that cannot be used', () => {
  it('of another shape are refused by the place in the file', () => {
    const cases: [change: (value: Record<string, unknown> & TokenizerJson) => void, message: string][] = [
      [value => delete (value as Partial<TokenizerJson>).model, 'found the model of no type, wanted BPE'],
      [value => (value.model = [] as never), 'model: found a list, wanted an object'],
      [value => (value.model.vocab = [] as never), 'model.vocab: found a list, wanted an object'],
      [value => (value.model = { type: 'Unigram', vocab: [['a', 0]] } as never), 'found the model Unigram, wanted BPE'],
      [value => (value.model.type = 3 as never), 'model.type: found number, wanted text'],
      [value => (value.model.merges = {} as never), 'model.merges: found an object with no keys, wanted a list'],
      [value => (value.model.merges[1] = 1), 'model.merges.1: found number, wanted two tokens'],
      [value => (value.model.merges[0] = ['a']), 'model.merges.0: found a list, wanted two tokens'],
      [
        value => delete (value.model as Partial<TokenizerJson['model']>).merges,
        'found a model without merges, wanted BPE',
      ],
      [value => (value.added_tokens = {} as never), 'added_tokens: found an object with no keys, wanted a list'],
      [value => (value.added_tokens[0] = 3), 'added_tokens.0: found number, wanted an object'],
      [value => (value.added_tokens[0] = { id: 1 }), 'added_tokens.0.content: found undefined, wanted text'],
      [value => (value.added_tokens[0] = { id: 1, content: '' }), 'added_tokens.0.content: found "", wanted text'],
      [value => (value.normalizer = 3), 'normalizer: found number, wanted an object'],
      [value => (value.pre_tokenizer = {}), 'pre_tokenizer.type: found undefined, wanted text'],
      [
        value => (value.pre_tokenizer = { type: 'Sequence', pretokenizers: 3 }),
        'pre_tokenizer.pretokenizers: found number, wanted a list',
      ],
      [
        value => (value.pre_tokenizer = { type: 'Split', pattern: { Regex: 3 } }),
        'pre_tokenizer.pattern.Regex: found number, wanted text',
      ],
      [value => (value.model.vocab.double = 5), 'token "double" has the number 5 of another'],
    ]
    for (const [change, message] of cases)
      refuses(file('shape.json', json(change as never)), `tokenizer FOLDER/shape.json: ${message}`)
  })

  const json = (change: (value: TokenizerJson) => void) => {
    const value: TokenizerJson = JSON.parse(readFileSync(specs.gpt2!, 'utf8'))
    change(value)
    return JSON.stringify(value)
  }

  it('are refused in one sentence', () => {
    refuses(
      'gpt2',
      'tokenizer "gpt2" is unknown; use bytes, the path of a tokenizer.json, or tiktoken: and the path of a rank file',
    )
    refuses(
      join(folder, 'none.json'),
      "tokenizer FOLDER/none.json cannot be read: ENOENT: no such file or directory, open 'FOLDER/none.json'",
    )
    refuses(file('a.json', '{'), 'tokenizer FOLDER/a.json: found text that is not JSON, wanted a tokenizer.json')
    refuses(file('b.json', 'null'), 'tokenizer FOLDER/b.json: found null, wanted an object')
    refuses(
      file(
        'c.json',
        json(value => (value.model.type = 'Unigram')),
      ),
      'tokenizer FOLDER/c.json: found the model Unigram, wanted BPE',
    )
    refuses(
      file(
        'd.json',
        json(value => (value.pre_tokenizer = { type: 'Whitespace' })),
      ),
      'tokenizer FOLDER/d.json: found no ByteLevel pre_tokenizer, wanted byte-level BPE',
    )
    refuses(
      file(
        'e.json',
        json(value => (value.normalizer = { type: 'Lowercase' })),
      ),
      'tokenizer FOLDER/e.json: normalizer "Lowercase" is not understood; those known are NFC, NFD, NFKC, NFKD',
    )
    refuses(
      file(
        'f.json',
        json(value => (value.model.merges[3] = 'no such')),
      ),
      'tokenizer FOLDER/f.json: merge 3 (no such) has a part or a result that is no token',
    )
    refuses(
      file(
        'g.json',
        json(value => (value.model.byte_fallback = true)),
      ),
      'tokenizer FOLDER/g.json: found byte_fallback, wanted byte-level BPE',
    )
    refuses(
      file(
        'h.json',
        json(value => {
          value.added_tokens = []
          value.model.vocab = Object.fromEntries(
            Object.entries(value.model.vocab).filter(([content]) => content !== '<|endoftext|>'),
          )
        }),
      ),
      'FOLDER/h.json: none of its tokens is known to end a document; name one as in FOLDER/h.json#TOKEN (its special tokens: none)',
    )
    refuses(
      `tiktoken:${file('a.tiktoken', 'IQ== 0\nIg=\n')}`,
      'FOLDER/a.tiktoken, line 2: found "Ig=", wanted base64 and a number',
    )
    refuses(
      `tiktoken:${file('b.tiktoken', 'IQ== 0\n')}`,
      'FOLDER/b.tiktoken has 1 ranks, which tells no encoding; name one of r50k_base, p50k_base, cl100k_base, o200k_base, llama3 as in tiktoken:FOLDER/b.tiktoken#cl100k_base',
    )
  })
})

describe('patterns', () => {
  const matches = (pattern: string, text: string) => text.match(translatePattern(pattern)) ?? []

  it('mean what Oniguruma takes them for', () => {
    assert.deepEqual(matches('\\s+', 'a\u0085b\ufeffc\u3000'), ['\u0085', '\u3000'])
    assert.deepEqual(matches('[^\\S\\n]+', 'a \t\nb'), [' \t'])
    assert.deepEqual(matches("(?i:'s|'t)", "'S 'ſ 'T 'x"), ["'S", "'ſ", "'T"])
    assert.deepEqual(matches('\\p{N}{1,3}', '12345'), ['123', '45'])
    assert.deepEqual(matches('a++ab|.', 'aab'), ['a', 'a', 'b'])
    assert.deepEqual(matches('(?>a|ab)c|z', 'abc ac z'), ['ac', 'z'])
    assert.deepEqual(matches('^b', 'a\nb'), ['b'])
    assert.deepEqual(matches('\\x{4e00}|[\\u4e01-\\u4e02]', '一丁'), ['一', '丁'])
    assert.deepEqual(matches('\\p{Han}+', 'ab世界'), ['世界'])
    assert.deepEqual(matches('[-+]|\\.|[\\]a-]', '-.]'), ['-', '.', ']'])
    assert.deepEqual(matches('[a-c&]{2}', 'a&d'), ['a&'])
  })

  it('are refused if they are not understood', () => {
    for (const [pattern, what] of [
      ['[a&&b]', 'a class in a class'],
      ['[[:alpha:]]', 'a class in a class'],
      ['(a', 'a group without its closing parenthesis'],
      ['a)', 'a closing parenthesis without its opening one'],
      ['\\G', '\\G'],
      ['(?x:a)', 'a group with options'],
      ['[a', 'a class without its closing bracket'],
    ] as const)
      assert.throws(() => translatePattern(pattern), {
        name: 'CorpusError',
        message: `pattern ${JSON.stringify(pattern)}: ${what} is not understood`,
      })
    assert.throws(
      () => translatePattern('\\p{Nonsense}'),
      /^CorpusError: pattern .* is not understood: Invalid regular/,
    )
  })
})
