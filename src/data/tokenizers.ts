import { CorpusError } from './errors.ts'
import { openTiktoken } from './tiktoken.ts'
import { type Tokenizer, tokenizers } from './tokenizer.ts'
import { openTokenizerJson } from './tokenizer_json.ts'

/** What a config's `data.tokenizer` may say, for messages. */
export const tokenizerForms = `${Object.keys(tokenizers).join(', ')}, the path of a tokenizer.json, or tiktoken: and the path of a rank file`

const tiktoken = 'tiktoken:'

/** How a spec that names a file is opened: the row whose `is` holds. `token` is what follows a #. */
const kinds: readonly {
  readonly is: (spec: string) => boolean
  readonly open: (name: string, path: string, token: string | undefined) => Tokenizer
}[] = [
  {
    is: path => path.endsWith('.json'),
    open: openTokenizerJson,
  },
  {
    is: path => path.startsWith(tiktoken) && path.length > tiktoken.length,
    open: (name, path, encoding) => openTiktoken(name, path.slice(tiktoken.length), encoding),
  },
]

const parts = (spec: string): { path: string; token: string | undefined } => {
  const at = spec.lastIndexOf('#')
  return at < 0 ? { path: spec, token: undefined } : { path: spec.slice(0, at), token: spec.slice(at + 1) }
}

const isBuiltIn = (spec: string): boolean => Object.hasOwn(tokenizers, spec)

/** Whether a spec has one of the forms that `openTokenizer` takes; files are not looked for. */
export const isTokenizerSpec = (spec: string): boolean =>
  isBuiltIn(spec) || kinds.some(({ is }) => is(parts(spec).path))

const opened = new Map<string, Tokenizer>()

/**
 * The tokenizer that `data.tokenizer` names: `bytes`; the path of a `tokenizer.json`, with `#TOKEN` for the token that stands between documents
 * where the file does not say; or `tiktoken:` and the path of a rank file, with `#ENCODING` where its size does not tell. A file is read once.
 * @throws CorpusError saying what cannot be read or understood.
 */
export function openTokenizer(spec: string): Tokenizer {
  if (isBuiltIn(spec)) return tokenizers[spec]!
  const { path, token } = parts(spec)
  const kind = kinds.find(({ is }) => is(path))
  if (!kind) throw new CorpusError(`tokenizer "${spec}" is unknown; use ${tokenizerForms}`)
  const tokenizer = opened.get(spec) ?? kind.open(spec, path, token)
  opened.set(spec, tokenizer)
  return tokenizer
}
