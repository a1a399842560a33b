import { readFileSync } from 'node:fs'
import { CorpusError } from './errors.ts'

/** @throws CorpusError if there is no such file or it cannot be read. */
export function readTokenizer(path: string, encoding: 'utf8' | 'latin1'): string {
  try {
    return readFileSync(path, encoding)
  } catch (error) {
    throw new CorpusError(`tokenizer ${path} cannot be read: ${(error as Error).message}`)
  }
}
