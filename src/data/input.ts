import { createReadStream } from 'node:fs'
import type { Readable } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { Decompress } from 'fzstd'
import { CorpusError } from './errors.ts'

/** Bytes of a file as they come, decompressed if its name says that it is compressed. */

async function* gunzipped(source: Readable): AsyncGenerator<Uint8Array> {
  const gunzip = createGunzip({ chunkSize: 2 ** 18 })
  source.on('error', error => gunzip.destroy(error))
  yield* source.pipe(gunzip)
}

async function* unzstd(source: Readable): AsyncGenerator<Uint8Array> {
  let made: Uint8Array[] = []
  const stream = new Decompress(bytes => {
    made.push(bytes)
  })
  const take = () => {
    const taken = made
    made = []
    return taken
  }
  for await (const chunk of source) {
    stream.push(chunk as Uint8Array)
    yield* take()
  }
  stream.push(new Uint8Array(0), true)
  yield* take()
}

/** How bytes of each ending are decompressed. */
const decompressors: Readonly<Record<string, (source: Readable) => AsyncGenerator<Uint8Array>>> = {
  '.gz': gunzipped,
  '.zst': unzstd,
}

export const compressedKinds: readonly string[] = Object.keys(decompressors)

/** The name without the ending of a compressed file. */
export const plainName = (path: string): string => {
  const kind = compressedKinds.find(ending => path.endsWith(ending))
  return kind ? path.slice(0, -kind.length) : path
}

/**
 * @param onRead Told how many bytes of the file itself were read, since it was told last.
 * @throws CorpusError if the file cannot be read or is damaged.
 */
export async function* readInput(path: string, onRead: (bytes: number) => void): AsyncGenerator<Uint8Array> {
  const kind = compressedKinds.find(ending => path.endsWith(ending))
  const source = createReadStream(path, { highWaterMark: 2 ** 20 })
  source.on('data', chunk => onRead(chunk.length))
  try {
    yield* kind ? decompressors[kind]!(source) : source
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const isOfSystem = code !== undefined && /^E[A-Z]+$/.test(String(code))
    throw new CorpusError(isOfSystem ? `${path} cannot be read: ${message}` : `${path} is damaged: ${message}`)
  } finally {
    source.destroy()
  }
}
