import { existsSync, readdirSync, rmdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { type Manifest, manifestName, publishText, readManifest, type ShardRecord } from './dataset.ts'
import type { EncodedUnit } from './encode_unit.ts'
import { CorpusError } from './errors.ts'
import { tokenTypeFor } from './megatron.ts'
import { expandPaths, makeDirectory } from './paths.ts'
import { placedUnits } from './read_unit.ts'
import { ShardWriter } from './shard_writer.ts'
import type { Tokenizer } from './tokenizer.ts'
import { openTokenizer } from './tokenizers.ts'
import { inputKinds } from './units.ts'
import { Workers } from './workers.ts'

/**
 * Encodes files to a folder of shards. Units are read in order, encoded by threads, and written in order: the result depends on the files, the tokenizer
 * and the size of a shard, not on how many threads there are. A shard has its name when it is whole, and `dataset.json` then says so; work that was
 * interrupted goes on after the last whole shard.
 */

export interface TokenizeOptions {
  /** Paths, folders and patterns. */
  readonly files: readonly string[]
  /** As `data.tokenizer`. */
  readonly tokenizer: string
  readonly out: string
  /** Key of .jsonl and column of .parquet that holds the text. */
  readonly column: string
  /** A shard ends with the document, and the unit, that brings it to so many tokens. */
  readonly shardTokens: number
  readonly workers: number
  readonly signal?: AbortSignal
  readonly progress?: (progress: TokenizeProgress) => void
}

export interface TokenizeProgress {
  /** Bytes of the files, as they lie on the disk. */
  readonly read: number
  readonly total: number
  /** UTF-8 bytes of text encoded by this call. */
  readonly textBytes: number
  readonly tokens: number
}

export interface TokenizeResult {
  readonly manifest: Manifest
  /** Shards that were there before. */
  readonly resumed: number
  /** UTF-8 bytes of text encoded by this call. */
  readonly textBytes: number
  /** Documents, or pieces of them, that are not UTF-8. */
  readonly invalid: number
}

const beginning = { file: 0, unit: 0 }
const nextOf = (shards: readonly ShardRecord[]): ShardRecord['next'] => shards.at(-1)?.next ?? beginning

/** What a manifest says of all but its shards. */
function describe(options: TokenizeOptions, tokenizer: Tokenizer): Omit<Manifest, 'shards' | 'complete'> {
  const { sha256, tokens, separator } = tokenizer
  return {
    format: 1,
    tokenizer: { name: options.tokenizer, sha256, tokens, separator },
    type: tokenTypeFor(tokens),
    column: options.column,
    shardTokens: options.shardTokens,
    files: expandPaths(options.files, inputKinds, 'files').map(path => ({ path, bytes: statSync(path).size })),
  }
}

/** Files must be as they were where their text is in shards already. */
function changedFile(before: Manifest, { files }: Pick<Manifest, 'files'>): string | undefined {
  const { file, unit } = before.complete
    ? { file: Math.max(before.files.length, files.length), unit: 0 }
    : nextOf(before.shards)
  for (let i = 0; i < file + (unit > 0 ? 1 : 0); i++) {
    const [then, now] = [before.files[i], files[i]]
    if (then?.path !== now?.path || then?.bytes !== now?.bytes) return (then ?? now)!.path
  }
  return undefined
}

/** Shards of work that began before; none in a new folder. */
function begun(out: string, described: Omit<Manifest, 'shards' | 'complete'>): Manifest | undefined {
  const before = readManifest(out)
  if (!before) {
    if (existsSync(out) && readdirSync(out).length > 0)
      throw new CorpusError(`${out} is not empty and holds no ${manifestName}; use another --out`)
    return undefined
  }
  const differing = (['column', 'shardTokens', 'type'] as const).find(key => before[key] !== described[key])
  const other = `another --out, or delete it`
  if (
    before.tokenizer.sha256 !== described.tokenizer.sha256 ||
    before.tokenizer.separator !== described.tokenizer.separator
  )
    throw new CorpusError(
      `${out} was begun with tokenizer ${before.tokenizer.name}, not ${described.tokenizer.name}; use ${other}`,
    )
  if (differing)
    throw new CorpusError(
      `${out} was begun with ${differing} ${before[differing]}, not ${described[differing]}; use ${other}`,
    )
  const changed = changedFile(before, described)
  if (changed !== undefined)
    throw new CorpusError(`${out} was begun with other files: ${changed} is not as it was; use ${other}`)
  return before
}

/** The tokenizer beside the shards, so that the folder is all that training needs. */
function copyTokenizer(out: string, tokenizer: Tokenizer): void {
  publishText(join(out, 'tokenizer.json'), tokenizer.json())
  publishText(join(out, 'tokenizer_config.json'), `${JSON.stringify({ eos_token: tokenizer.separatorText })}\n`)
}

/** Units of all files from where the last shard ended, each with what it becomes, in order. */
async function* encoded(
  options: TokenizeOptions,
  files: Manifest['files'],
  start: ShardRecord['next'],
  onRead: (bytes: number) => void,
): AsyncGenerator<{ unit: EncodedUnit; next: ShardRecord['next'] }> {
  const workers = new Workers(options.workers, options.tokenizer)
  const waiting: { promise: Promise<EncodedUnit>; next: ShardRecord['next'] }[] = []
  const first = async () => {
    const { promise, next } = waiting.shift()!
    return { unit: await promise, next }
  }
  try {
    for (let file = 0; file < files.length; file++) {
      const { path, bytes } = files[file]!
      if (file < start.file) {
        onRead(bytes)
        continue
      }
      let index = 0
      for await (const { unit, place } of placedUnits(path, options.column, onRead)) {
        if (file > start.file || index >= start.unit) {
          waiting.push({ promise: workers.encode({ unit, place }), next: { file, unit: index + 1 } })
          // Row groups are large, and the worker's memory is what they are read to.
          const most = unit.kind === 'rows' ? options.workers : 2 * options.workers + 2
          while (waiting.length >= most) yield await first()
        }
        index++
      }
    }
    while (waiting.length > 0) yield await first()
  } finally {
    await workers.close()
  }
}

/** @throws CorpusError in one sentence; shards that were whole stay, and nothing else does. */
export async function tokenizeFiles(options: TokenizeOptions): Promise<TokenizeResult> {
  const { out, signal } = options
  const tokenizer = openTokenizer(options.tokenizer)
  const described = describe(options, tokenizer)
  const before = begun(out, described)
  const shards: ShardRecord[] = [...(before?.shards ?? [])]
  const resumed = shards.length
  const isNew = !existsSync(out)
  let [textBytes, invalid, read, tokens] = [0, 0, 0, 0]
  if (before?.complete) return { manifest: before, resumed, textBytes, invalid }
  makeDirectory(out)
  const total = described.files.reduce((sum, { bytes }) => sum + bytes, 0)
  const record = (complete: boolean): Manifest => {
    const manifest: Manifest = { ...described, shards, complete }
    publishText(join(out, manifestName), `${JSON.stringify(manifest, undefined, 1)}\n`)
    return manifest
  }
  let writer: ShardWriter | undefined
  const finish = (next: ShardRecord['next']) => {
    shards.push(writer!.finish(next))
    writer = undefined
    record(false)
  }
  try {
    record(false)
    copyTokenizer(out, tokenizer)
    let last = nextOf(shards)
    for await (const { unit, next } of encoded(options, described.files, last, bytes => (read += bytes))) {
      signal?.throwIfAborted()
      writer ??= new ShardWriter(out, `shard-${String(shards.length).padStart(5, '0')}`, described.type)
      writer.append(unit)
      last = next
      textBytes += unit.textBytes
      tokens += unit.tokens.length
      invalid += unit.invalid
      if (writer.tokens >= options.shardTokens && !writer.goesOn) finish(next)
      options.progress?.({ read, total, textBytes, tokens })
    }
    if (writer && writer.tokens > 0) finish(last)
    if (shards.length === 0) throw new CorpusError(`the files hold no text: ${options.files.join(', ')}`)
    return { manifest: record(true), resumed, textBytes, invalid }
  } catch (error) {
    if (shards.length === 0) {
      for (const name of [manifestName, 'tokenizer.json', 'tokenizer_config.json'])
        rmSync(join(out, name), { force: true })
      writer?.discard()
      writer = undefined
      if (isNew) rmdirSync(out)
    }
    throw error
  } finally {
    writer?.discard()
  }
}
