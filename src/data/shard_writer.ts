import { createHash } from 'node:crypto'
import { closeSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { publish, type ShardRecord } from './dataset.ts'
import type { EncodedUnit } from './encode_unit.ts'
import { makeIndex, type TokenType } from './megatron.ts'

/** Writes a shard under another name, and gives it its own when it is whole. */
export class ShardWriter {
  readonly #folder: string
  readonly #name: string
  readonly #type: TokenType
  #file: number | undefined
  readonly #hash = createHash('sha256')
  readonly #lengths: number[] = []
  #goesOn = false
  #tokens = 0
  #textBytes = 0

  constructor(folder: string, name: string, type: TokenType) {
    this.#folder = folder
    this.#name = name
    this.#type = type
    this.#file = openSync(this.#path('.bin.partial'), 'w')
  }

  #path(ending: string): string {
    return join(this.#folder, this.#name + ending)
  }

  get tokens(): number {
    return this.#tokens
  }

  /** Whether the last document is not at its end. */
  get goesOn(): boolean {
    return this.#goesOn
  }

  append({ tokens, lengths, goesOn, textBytes }: EncodedUnit): void {
    const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength)
    for (let done = 0; done < bytes.length; ) done += writeSync(this.#file!, bytes, done)
    this.#hash.update(bytes)
    for (const [i, length] of lengths.entries()) {
      if (i === 0 && this.#goesOn) this.#lengths[this.#lengths.length - 1]! += length
      else this.#lengths.push(length)
    }
    if (lengths.length > 0) this.#goesOn = goesOn
    this.#tokens += tokens.length
    this.#textBytes += textBytes
  }

  /** @param next Where the text of the next shard begins. */
  finish(next: ShardRecord['next']): ShardRecord {
    this.#close()
    writeFileSync(this.#path('.idx.partial'), makeIndex(this.#type, Int32Array.from(this.#lengths)))
    for (const ending of ['.bin', '.idx']) publish(this.#path(`${ending}.partial`), this.#path(ending))
    return {
      name: this.#name,
      tokens: this.#tokens,
      documents: this.#lengths.length,
      textBytes: this.#textBytes,
      sha256: this.#hash.digest('hex'),
      next,
    }
  }

  #close(): void {
    if (this.#file !== undefined) closeSync(this.#file)
    this.#file = undefined
  }

  /** Leaves nothing of a shard that is not finished, wherever finishing it failed. */
  discard(): void {
    this.#close()
    for (const ending of ['.bin.partial', '.idx.partial']) rmSync(this.#path(ending), { force: true })
  }
}
