import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after } from 'node:test'
import { CorpusError } from '../src/data/errors.ts'
import type { TokenStream } from '../src/data/stream.ts'

/** What tests of text and tokens share: a folder of their own, and what is said of data that cannot be used. */

export interface Scratch {
  /** Deleted at the end of the test file. */
  readonly folder: string
  /** Writes a file in the folder, whose folders need not exist; returns its path. */
  file(name: string, content: string | Uint8Array): string
  /** Whether an error is one of the data that says just that; the folder is FOLDER in it, the current one HERE. */
  says(message: string): (error: unknown) => true
}

export function scratchFolder(): Scratch {
  const folder = mkdtempSync(join(tmpdir(), 'halfbyte-test-'))
  after(() => rmSync(folder, { recursive: true }))
  return {
    folder,
    file(name, content) {
      const path = join(folder, name)
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(path, content)
      return path
    },
    says: message => error => {
      assert.ok(error instanceof CorpusError, String(error))
      assert.equal(error.exitCode, 1)
      assert.equal(error.message.replaceAll(folder, 'FOLDER'), message.replaceAll('HERE', process.cwd()))
      return true
    },
  }
}

/** Tokens `from` .. `to - 1` of a stream. */
export function readTokens(stream: TokenStream, from = 0, to = stream.length): Int32Array {
  const tokens = new Int32Array(to - from)
  stream.read(from, tokens.length, tokens, 0)
  return tokens
}
