import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { CorpusError } from './errors.ts'
import type { TokenType } from './megatron.ts'
import type { Tokenizer } from './tokenizer.ts'

/** `dataset.json`: what `halfbyte tokenize` made a folder of shards from and with. */
export interface Manifest {
  readonly format: 1
  readonly tokenizer: {
    readonly name: string
    readonly sha256: string
    readonly tokens: number
    readonly separator: number
  }
  readonly type: TokenType
  /** Field of .jsonl and column of .parquet that the text was taken from. */
  readonly column: string
  readonly shardTokens: number
  readonly files: readonly { readonly path: string; readonly bytes: number }[]
  /** In order; each is a `.bin` and an `.idx`. */
  readonly shards: readonly ShardRecord[]
  readonly complete: boolean
}

export interface ShardRecord {
  readonly name: string
  readonly tokens: number
  readonly documents: number
  /** UTF-8 bytes of its text. */
  readonly textBytes: number
  /** SHA-256 of its `.bin`. */
  readonly sha256: string
  /** Where the text after it begins: a file by its number, and a unit in it (src/data/units.ts). */
  readonly next: { readonly file: number; readonly unit: number }
}

export const manifestName = 'dataset.json'

/** The manifest of a folder; undefined if it has none. */
export function readManifest(folder: string): Manifest | undefined {
  const path = join(folder, manifestName)
  if (!existsSync(path)) return undefined
  let manifest: Manifest
  try {
    manifest = JSON.parse(readFileSync(path, 'utf8')) as Manifest
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw new CorpusError(`${path} cannot be read: ${(error as Error).message}`)
    throw new CorpusError(`${path}: found text that is not JSON, wanted what halfbyte tokenize writes`)
  }
  if (manifest?.format !== 1 || !Array.isArray(manifest.shards))
    throw new CorpusError(`${path}: found format ${manifest?.format}, wanted 1, what halfbyte tokenize writes`)
  return manifest
}

/** Puts a file that was written under another name in its place, on the disk before it has that name. */
export function publish(partial: string, path: string): void {
  const file = openSync(partial, 'r+')
  try {
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
  renameSync(partial, path)
}

/** Writes a small file so that it is the old one or the new one at any moment. */
export function publishText(path: string, text: string): void {
  const partial = `${path}.partial`
  try {
    writeFileSync(partial, text)
    publish(partial, path)
  } catch (error) {
    rmSync(partial, { force: true })
    throw error
  }
}

/**
 * The shards of a folder that `halfbyte tokenize` made, as paths.
 * @throws CorpusError if it is not finished, or was made with another tokenizer.
 */
export function shardPaths(folder: string, manifest: Manifest, tokenizer: Tokenizer): string[] {
  const { tokenizer: made, complete, shards } = manifest
  if (!complete)
    throw new CorpusError(`${folder} is not finished; the halfbyte tokenize that began it goes on if called again`)
  if (made.sha256 !== tokenizer.sha256 || made.separator !== tokenizer.separator) {
    const wanted = existsSync(join(folder, 'tokenizer.json')) ? join(folder, 'tokenizer.json') : made.name
    throw new CorpusError(
      `${folder} was made with tokenizer ${made.name} (${made.tokens} tokens), but data.tokenizer is ${tokenizer.name} (${tokenizer.tokens}); use data.tokenizer=${wanted}`,
    )
  }
  return shards.map(({ name }) => join(folder, `${name}.bin`))
}
