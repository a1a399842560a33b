import { createHash } from 'node:crypto'
import { readManifest, shardPaths } from './dataset.ts'
import { type Document, holdOut, type Split } from './document.ts'
import { embeddedDocuments, embeddedTitle } from './embedded.ts'
import { CorpusError } from './errors.ts'
import { fileDocuments, textKinds } from './files.ts'
import { expandPaths } from './paths.ts'
import { holdOutTail, openShard, shardKind } from './shards.ts'
import { joinStreams, MemoryStream, type TokenStream } from './stream.ts'
import { type Tokenizer, tokenArray } from './tokenizer.ts'
import { openTokenizer } from './tokenizers.ts'

/** Where training text comes from, one of several where a config has `data.blend`. */
export interface Source {
  readonly name: string
  readonly stream: TokenStream
}

export interface Corpus {
  readonly tokenizer: Tokenizer
  /** In the order of `data.blend`; one without it. */
  readonly sources: readonly Source[]
  readonly validation: TokenStream
  /** SHA-256 of all streams: whether a resumed run reads the text that it began with. */
  readonly fingerprint: string
}

export interface OpenedCorpus extends Corpus {
  /** What each source is, for the user: `books (12 files)`. */
  readonly titles: readonly string[]
}

type Files = string | readonly string[]

/** What else of a config's `data` says which text there is. */
export interface CorpusOptions {
  /** Sources in place of `files`. */
  readonly blend?: readonly { readonly files: Files; readonly name?: string | undefined }[] | undefined
  /** Held-out text; absent: a part of each source. */
  readonly validation?: Files | undefined
}

/** Corpora that come with the program; any other name is the user's files. */
const known: Readonly<Record<string, { readonly documents: () => Split; readonly title: string }>> = {
  embedded: { documents: embeddedDocuments, title: embeddedTitle },
}

/** Each document after a separator, and one more at the end. */
function pack(documents: readonly Document[], tokenizer: Tokenizer): TokenStream {
  const encoded = documents.map(({ text }) => tokenizer.encode(text))
  const tokens = tokenArray(
    tokenizer.tokens,
    encoded.reduce((sum, { length }) => sum + length + 1, 1),
  )
  let at = 0
  for (const part of encoded) {
    tokens[at++] = tokenizer.separator
    tokens.set(part, at)
    at += part.length
  }
  tokens[at] = tokenizer.separator
  return new MemoryStream(tokens, documents.length)
}

/** The folder's shards if `halfbyte tokenize` made it, else what the name names. */
function filesOf(name: string, tokenizer: Tokenizer, key: string): string[] {
  const manifest = readManifest(name)
  return manifest ? shardPaths(name, manifest, tokenizer) : expandPaths(name, [...textKinds, shardKind], key)
}

const shownFiles = (files: Files): string => (typeof files === 'string' ? files : files.join(', '))

/** `books (12 files)`, `web (3 shards)`, or the only file there is. */
function titleOf(name: string | undefined, files: Files, paths: readonly string[], unit: string): string {
  if (paths.length === 1) return name ?? paths[0]!
  const [first, ...others] = typeof files === 'string' ? [files] : files
  return `${name ?? (others.length > 2 ? `${first} and others` : shownFiles(files))} (${paths.length} ${unit})`
}

interface Streams {
  readonly training: TokenStream
  readonly validation: TokenStream
  readonly title: string
}

/** @param key of the config that names the files, for messages. */
function openSource(files: Files, tokenizer: Tokenizer, holdsOut: boolean, key: string, name?: string): Streams {
  const embedded = typeof files === 'string' && Object.hasOwn(known, files) ? known[files] : undefined
  const paths = embedded
    ? []
    : [...new Set((typeof files === 'string' ? [files] : files).flatMap(name => filesOf(name, tokenizer, key)))]
  const shards = paths.filter(path => path.endsWith(shardKind))
  if (shards.length > 0) {
    const text = paths.find(path => !path.endsWith(shardKind))
    if (text !== undefined)
      throw new CorpusError(`${key}: found text (${text}) beside tokens (${shards[0]}), wanted one kind in a source`)
    const opened = shards.map(path => openShard(path, tokenizer))
    const streams = holdsOut
      ? holdOutTail(opened, tokenizer.separator)
      : { training: joinStreams(opened), validation: joinStreams([]) }
    return { ...streams, title: titleOf(name, files, paths, 'shards') }
  }
  const split = embedded
    ? embedded.documents()
    : holdsOut
      ? holdOut(fileDocuments(paths))
      : { training: fileDocuments(paths), validation: [] }
  return {
    training: pack(split.training, tokenizer),
    validation: pack(split.validation, tokenizer),
    title: embedded?.title ?? titleOf(name, files, paths, 'files'),
  }
}

/**
 * Opens the text that a config's `data` names, validation apart from training: text files are encoded.
 * @param tokenizerName as `data.tokenizer`.
 * @throws CorpusError naming the file that is missing, empty or not what it should be.
 */
export function openCorpus(
  files: Files,
  tokenizerName: string,
  { blend, validation }: CorpusOptions = {},
): OpenedCorpus {
  const tokenizer = openTokenizer(tokenizerName)
  const wanted = blend ?? [{ files, name: undefined }]
  const streams = wanted.map(({ files, name }, i) =>
    openSource(files, tokenizer, validation === undefined, blend ? `data.blend.${i}.files` : 'data.files', name),
  )
  const sources = wanted.map(({ files, name = shownFiles(files) }, i) => ({ name, stream: streams[i]!.training }))
  const heldOut =
    validation === undefined
      ? joinStreams(streams.map(source => source.validation))
      : openSource(validation, tokenizer, false, 'data.validation').training
  const hash = createHash('sha256')
  for (const { stream } of sources) stream.identify(hash)
  heldOut.identify(hash)
  const titles = streams.map(({ title }) => title)
  return { tokenizer, sources, titles, validation: heldOut, fingerprint: hash.digest('hex') }
}
