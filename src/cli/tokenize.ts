import type { Command } from 'commander'
import { UserError } from '../config/errors.ts'
import { type TokenizeProgress, type TokenizeResult, tokenizeFiles } from '../data/tokenize.ts'
import { tokenizerForms } from '../data/tokenizers.ts'
import { inputKinds } from '../data/units.ts'
import { isSystemError, systemReason } from '../run/files.ts'
import { formatCount } from '../run/quantities.ts'
import { usableProcessors } from '../tensor/processors.ts'
import { formatBytes } from './dry_run.ts'
import { formatDuration } from './live.ts'
import { wholeNumber } from './session.ts'
import { stopOnSignals } from './signals.ts'
import { createStatusLine } from './status_line.ts'

interface Options {
  tokenizer: string
  out: string
  column: string
  shardTokens: number
  workers: number
  json?: boolean
}

/** `████░░  12 %  1.2M tokens  9.1 MB/s  0:40 left`. */
function progressText({ read, total, textBytes, tokens }: TokenizeProgress, seconds: number): string {
  const share = Math.min(1, read / Math.max(1, total))
  const filled = Math.round(share * 24)
  const left = share > 0.01 ? formatDuration((seconds * (1 - share)) / share) : '?'
  const bar = `${'█'.repeat(filled)}${'░'.repeat(24 - filled)}`
  const speed = `${formatBytes(textBytes / seconds)}/s`
  return `${bar}  ${(share * 100).toFixed(0)} %  ${formatCount(tokens)} tokens  ${speed}  ${left} left`
}

function summary({ manifest, resumed, textBytes, invalid }: TokenizeResult, seconds: number) {
  const { shards, tokenizer, type } = manifest
  const sum = (of: (shard: (typeof shards)[number]) => number) => shards.reduce((total, shard) => total + of(shard), 0)
  const [tokens, bytes] = [sum(shard => shard.tokens), sum(shard => shard.textBytes)]
  return {
    tokens,
    documents: sum(shard => shard.documents),
    text_bytes: bytes,
    bytes_per_token: bytes / tokens,
    shards: shards.length,
    resumed_shards: resumed,
    token_type: type,
    tokenizer: tokenizer.name,
    vocabulary: tokenizer.tokens,
    invalid_utf8: invalid,
    seconds,
    megabytes_per_second: textBytes / 1e6 / seconds,
  }
}

function printSummary(result: TokenizeResult, out: string, seconds: number): void {
  const made = summary(result, seconds)
  const lines = [
    `${formatCount(made.tokens)} tokens of ${made.documents.toLocaleString('en-US')} documents in ${made.shards} shard${made.shards === 1 ? '' : 's'} (${made.token_type}), ${formatBytes(made.text_bytes)} of text, ${made.bytes_per_token.toFixed(2)} bytes per token`,
    result.textBytes > 0
      ? `${formatDuration(seconds)}, ${formatBytes(result.textBytes / seconds)}/s${result.resumed > 0 ? `; ${result.resumed} shards were there before` : ''}`
      : 'all of it was there before',
    ...(result.invalid > 0
      ? [`${result.invalid} documents or pieces of them are not UTF-8; what is no character became U+FFFD`]
      : []),
    '',
    `to train on it: npx halfbyte train small data.files=${out} data.tokenizer=${out}/tokenizer.json model.vocab=${Math.ceil(made.vocabulary / 16) * 16}`,
  ]
  process.stdout.write(`${lines.join('\n')}\n`)
}

export function register(program: Command): void {
  program
    .command('tokenize')
    .description('Encode text to shards of tokens (Megatron .bin and .idx) that training reads from the disk.')
    .argument('<files...>', `files (${inputKinds.join(' ')}), folders of them, or patterns`)
    .requiredOption('--tokenizer <spec>', tokenizerForms)
    .requiredOption(
      '--out <directory>',
      'folder of the shards; if it holds unfinished work of the same files, that goes on',
    )
    .option('--column <name>', 'key of .jsonl and column of .parquet that holds the text', 'text')
    .option('--shard-tokens <count>', 'tokens of a shard', wholeNumber(1), 2 ** 26)
    .option('--workers <count>', 'threads; the result is the same for any number', wholeNumber(1), usableProcessors())
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Each document is followed by the tokenizer's separator. A .txt is one document, a line of a .jsonl or a row of a .parquet another. The folder
gets a copy of the tokenizer and dataset.json, which says what it was made from; docs/data.md describes it.

Examples:
  halfbyte tokenize books/ --tokenizer bytes --out data/books
  halfbyte tokenize 'web/*.jsonl.zst' --tokenizer gpt2/tokenizer.json --out data/web
  halfbyte tokenize fineweb/*.parquet --tokenizer tiktoken:cl100k_base.tiktoken --out data/fineweb`,
    )
    .action(async (files: string[], { json, ...options }: Options) => {
      const { signal, release } = stopOnSignals()
      const status = createStatusLine(process.stderr)
      const began = performance.now()
      try {
        const elapsed = () => (performance.now() - began) / 1000
        const progress = (now: TokenizeProgress) => status.show(progressText(now, elapsed()))
        const result = await tokenizeFiles({ ...options, files, signal, progress })
        const seconds = elapsed()
        status.clear()
        if (json) process.stdout.write(`${JSON.stringify(summary(result, seconds))}\n`)
        else printSummary(result, options.out, seconds)
      } catch (error) {
        status.clear()
        // Files that cannot be read are named where they are read.
        if (isSystemError(error)) throw new UserError(`${options.out} cannot be written: ${systemReason(error)}`)
        if (!signal.aborted) throw error
        process.stderr.write('stopped; whole shards are kept, and the same command goes on after them\n')
        process.exitCode = 1
      } finally {
        release()
      }
    })
}
