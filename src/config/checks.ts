import { tokenizers } from '../data/tokenizer.ts'
import { blockKinds } from '../model/blocks/index.ts'
import type { RunConfig } from './schema.ts'

/** The multiple of `step` nearest to `value`, at least `step`. */
const nearestMultiple = (value: number, step: number): number => Math.max(1, Math.round(value / step)) * step

const commonDivisor = (a: number, b: number): number => (b === 0 ? a : commonDivisor(b, a % b))

const multiple = (key: string, value: number, ofKey: string, of: number): string | undefined =>
  value % of === 0
    ? undefined
    : `${key}: found ${value}, wanted a multiple of ${ofKey} (${of}); the nearest is ${nearestMultiple(value, of)}`

/** What of a model's sizes does not suit the blocks that it has. */
function checkBlocks(model: RunConfig['model']): string | undefined {
  for (const kind of new Set(model.pattern)) {
    const { title, sizes, multiples = [] } = blockKinds[kind]!
    for (const key of sizes)
      if (model[key] === 0)
        return `model.${key}: found 0, wanted a number above 0, because model.pattern has ${title} blocks (${kind})`
    for (const [key, of] of multiples) {
      const wrong = multiple(`model.${key}`, model[key], `model.${of}`, model[of])
      if (wrong) return wrong
    }
  }
  return undefined
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

function checkBlend({ files, blend, phases }: RunConfig['data']): string | undefined {
  if (blend && files !== 'embedded') return 'data.blend: found it together with data.files, wanted one of them'
  if (phases && !blend) return 'data.phases: found it without data.blend, wanted the sources that its weights are for'
  if (blend && !phases && sum(blend.map(({ weight }) => weight)) === 0)
    return 'data.blend: found no weight above 0, wanted at least one'
  for (const [i, { weights }] of (phases ?? []).entries())
    if (weights.length !== blend!.length || sum(weights) === 0)
      return `data.phases.${i}.weights: found ${JSON.stringify(weights)}, wanted one for each of the ${blend!.length} sources of data.blend, not all 0`
  const shares = sum((phases ?? []).map(({ share }) => share))
  return phases && Math.abs(shares - 1) > 1e-9
    ? `data.phases: found shares that add up to ${shares}, wanted shares of the steps that add up to 1`
    : undefined
}

/** What must hold between keys, in the order in which a reader would mend it. */
const checks: readonly ((config: RunConfig) => string | undefined)[] = [
  ({ model }) => checkBlocks(model),
  ({ model }) =>
    model.rope !== false && model.head_dim % 2 === 1
      ? `model.head_dim: found ${model.head_dim}, wanted an even number, because model.rope rotates pairs; the nearest is ${model.head_dim + 1}`
      : undefined,
  ({ data }) => multiple('data.batch', data.batch, 'data.micro_batch', data.micro_batch),
  ({ data }) => {
    if ((data.sequence * data.micro_batch) % 16 === 0) return undefined
    const step = 16 / commonDivisor(16, data.micro_batch)
    return `data.sequence: found ${data.sequence}, wanted data.sequence x data.micro_batch (${data.micro_batch}) to be a multiple of 16, so that tokens fill whole blocks; the nearest is ${nearestMultiple(data.sequence, step)}`
  },
  ({ data }) => checkBlend(data),
  ({ data, model }) => {
    const tokenizer = tokenizers[data.tokenizer]
    if (!tokenizer) return undefined
    return model.vocab < tokenizer.tokens
      ? `model.vocab: found ${model.vocab}, wanted at least ${tokenizer.tokens}, the tokens of tokenizer ${tokenizer.name}; the nearest multiple of 16 is ${tokenizer.vocab}`
      : undefined
  },
  ({ schedule: { warmup, decay } }) =>
    warmup + decay > 1 + 1e-9
      ? `schedule.warmup + schedule.decay: found ${warmup} + ${decay}, wanted shares of the steps that add up to at most 1`
      : undefined,
]

/** The first thing that does not go together, as one sentence, or undefined. */
export function checkConfig(config: RunConfig): string | undefined {
  for (const check of checks) {
    const wrong = check(config)
    if (wrong) return wrong
  }
  return undefined
}
