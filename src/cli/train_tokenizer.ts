import { dirname } from 'node:path'
import type { Command } from 'commander'
import { UserError } from '../config/errors.ts'
import { unknownName } from '../config/keys.ts'
import { countWords } from '../data/count_words.ts'
import { CorpusError } from '../data/errors.ts'
import { expandPaths } from '../data/paths.ts'
import { translatePattern } from '../data/pattern.ts'
import { patterns, wordsBy } from '../data/splits.ts'
import { trainedJson, trainMerges } from '../data/train_merges.ts'
import { inputKinds } from '../data/units.ts'
import { makeDirectory, replaceFile, wantWritable } from '../run/files.ts'
import { formatBytes } from './dry_run.ts'
import { wholeNumber } from './session.ts'
import { createStatusLine } from './status_line.ts'

interface Options {
  vocab: number
  out: string
  column: string
  pattern: string
  special: string[]
  json?: boolean
}

export function register(program: Command): void {
  program
    .command('train-tokenizer')
    .description('Train byte-level BPE on text and write it as a tokenizer.json, which Hugging Face reads as well.')
    .argument('<files...>', `files (${inputKinds.join(' ')}), folders of them, or patterns`)
    .requiredOption('--vocab <count>', 'tokens: special ones, 256 bytes, and merges', wholeNumber(257))
    .requiredOption('--out <file>', 'tokenizer.json to write')
    .option('--pattern <name>', `how text is cut into words: ${Object.keys(patterns).join(', ')}`, 'cl100k')
    .option('--special <tokens...>', 'special tokens; the first ends documents', ['<|endoftext|>'])
    .option('--column <name>', 'key of .jsonl and column of .parquet that holds the text', 'text')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
The same text gives the same merges, those of the Python library's BpeTrainer.

Examples:
  halfbyte train-tokenizer books/ --vocab 32768 --out books.json
  halfbyte train-tokenizer 'web/*.jsonl.gz' --vocab 50304 --pattern o200k --out web.json
  halfbyte tokenize books/ --tokenizer books.json --out data/books`,
    )
    .action(async (files: string[], { vocab, out, column, pattern, special, json }: Options) => {
      if (!Object.hasOwn(patterns, pattern))
        throw new UserError(unknownName('pattern', pattern, Object.keys(patterns)), 2)
      if (!out.endsWith('.json')) throw new UserError(`--out: found ${out}, wanted the name of a .json file`, 2)
      const strange = special.find((token, i) => token === '' || special.indexOf(token) !== i)
      if (strange !== undefined)
        throw new UserError(
          `--special: found ${strange ? `"${strange}" twice` : 'an empty word'}, wanted words that differ`,
          2,
        )
      wantWritable(out)
      const source = patterns[pattern as keyof typeof patterns]
      const status = createStatusLine(process.stderr)
      const began = performance.now()
      try {
        const paths = expandPaths(files, inputKinds, 'files')
        const { counts, bytes } = await countWords(paths, column, wordsBy(translatePattern(source)), done =>
          status.show(`counting words: ${formatBytes(done)}`),
        )
        if (counts.size === 0) throw new CorpusError(`the files hold no text: ${files.join(', ')}`)
        const trained = trainMerges(counts, vocab, special, tokens =>
          status.show(`merging: ${tokens} of ${vocab} tokens`),
        )
        makeDirectory(dirname(out))
        replaceFile(out, trainedJson(trained, special, source))
        status.clear()
        const made = {
          out,
          tokens: Object.keys(trained.vocab).length,
          merges: trained.merges.length,
          text_bytes: bytes,
          words: counts.size,
          seconds: (performance.now() - began) / 1000,
        }
        const short = made.tokens < vocab ? ` (of ${vocab} wanted: the text has no more pairs)` : ''
        process.stdout.write(
          json
            ? `${JSON.stringify(made)}\n`
            : `${out}: ${made.tokens} tokens${short}, ${made.merges} merges, from ${formatBytes(bytes)} of text in ${made.seconds.toFixed(1)} s\n`,
        )
      } finally {
        status.clear()
      }
    })
}
