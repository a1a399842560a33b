import { z } from 'zod'
import { blockKinds } from '../model/blocks/index.ts'
import type { ModelConfig } from '../model/config.ts'
import type { Activation } from '../tensor/dtype.ts'

/**
 * What a run's config holds. Every message is the value wanted; src/config/load.ts puts key and value found before it.
 * A key without a default must be given by the preset or the file.
 */

const whole = (least: number, most = Number.MAX_SAFE_INTEGER) => {
  const range = `a whole number, ${least} to ${most}`
  const usual = most < Number.MAX_SAFE_INTEGER ? range : `a whole number from ${least}`
  const error = ({ code }: { readonly code?: string | undefined }) => (code === 'too_big' ? range : usual)
  return z.int({ error }).min(least, { error }).max(most, { error })
}
/** Far beyond any model; what is counted with such sizes stays exact, and kernels take them. */
const size = (least: number) => whole(least, 2 ** 24)

const ranges = {
  positive: 'a number above 0',
  notNegative: 'a number from 0',
  below1: 'a number from 0, below 1',
  share: 'a number, 0 to 1',
}
/** What computes holds these in FP32, where they must not become zero or infinite. */
const inFp32 = 'that FP32 holds'
const isFinite32 = (value: number) => Number.isFinite(Math.fround(value))
const positive = () =>
  z
    .number({ error: ranges.positive })
    .gt(0, { error: ranges.positive })
    .refine(value => isFinite32(value) && Math.fround(value) > 0, {
      error: `${ranges.positive} ${inFp32}, 1.5e-45 to 3.4e38`,
    })
const notNegative = () =>
  z
    .number({ error: ranges.notNegative })
    .min(0, { error: ranges.notNegative })
    .refine(isFinite32, { error: `${ranges.notNegative} ${inFp32}, up to 3.4e38` })
const share = () => z.number({ error: ranges.share }).min(0, { error: ranges.share }).max(1, { error: ranges.share })
const below1 = () =>
  z
    .number({ error: ranges.below1 })
    .min(0, { error: ranges.below1 })
    .lt(1, { error: ranges.below1 })
    .refine(value => Math.fround(value) < 1, { error: `${ranges.below1} ${inFp32}, up to 0.99999994` })
const text = (error: string) => z.string({ error }).min(1, { error })
const section = <Shape extends z.core.$ZodLooseShape>(shape: Shape) =>
  z.strictObject(shape, {
    error: issue => (issue.code === 'unrecognized_keys' ? undefined : `the keys ${Object.keys(shape).join(', ')}`),
  })

/** The backends that a config may name, and the dtype of activations where the config does not say. */
export const backendActivations: Readonly<Record<string, Activation>> = {
  reference: 'f32',
  cpu: 'f32',
  cuda: 'bf16',
}

/** Of a model. Names and tables of its layers grow with it. */
const mostBlocks = 1024

const kinds = Object.entries(blockKinds)
const listed = (words: readonly string[]): string => `${words.slice(0, -1).join(', ')} and ${words.at(-1)}`
const someBlocks = `one or more of ${listed(kinds.map(([kind, { title }]) => `${kind} (${title})`))}`

const model = section({
  pattern: z
    .string({ error: `a string of ${listed(kinds.map(([kind]) => kind))}` })
    .min(1, { error: someBlocks })
    .refine(pattern => [...pattern].every(kind => Object.hasOwn(blockKinds, kind)), { error: someBlocks })
    .max(mostBlocks, { error: `at most ${mostBlocks} blocks` }),
  hidden: size(16),
  ffn: size(0).default(0),
  heads: size(0).default(0),
  kv_heads: size(0).default(0),
  head_dim: size(0).default(0),
  mamba_heads: size(0).default(0),
  mamba_head_dim: size(0).default(0),
  groups: size(1).default(8),
  state: size(1).default(128),
  conv: size(1).default(4),
  chunk: size(1).default(128),
  vocab: size(2),
  rope: z.union([z.literal(false), positive()], { error: 'false or a base above 0, such as 10000' }).default(false),
  activations: z.enum(['f32', 'bf16'], { error: 'f32 or bf16' }).optional(),
  eps: positive().default(1e-5),
  init_std: positive(),
  /** First and last blocks kept in BF16 by recipes that spare sensitive blocks; absent: the recipe decides. */
  bf16_blocks: z.tuple([whole(0), whole(0)], { error: 'two whole numbers, first and last blocks' }).optional(),
  /** Whether the backward pass computes the inside of every block again instead of keeping it: less memory, a third more time, the same bits. */
  recompute: z.enum(['none', 'block'], { error: 'none or block' }).default('none'),
})

const paths = () => z.union([text('a path'), z.array(text('a path')).min(1)], { error: 'a path or a list of paths' })

/** One of the sources that a run draws from. */
const source = section({
  /** As `data.files`. */
  files: paths(),
  /** Share of the sequences, in any unit: sources count as their weights to each other. */
  weight: notNegative().default(1),
  /** What it is called where it is shown; absent: its files. */
  name: text('a name').optional(),
})

/** A part of a run that draws from the sources in proportions of its own. */
const phase = section({
  /** Share of the steps. */
  share: positive(),
  /** One for each source of `data.blend`. */
  weights: z.array(notNegative(), { error: 'a list of numbers from 0' }),
})

const data = section({
  /** `embedded`, or files, folders and patterns of .txt and .jsonl. */
  files: paths().default('embedded'),
  /** Several sources in place of `files`. */
  blend: z.array(source, { error: 'a list of sources' }).min(1, { error: 'a list of sources' }).optional(),
  /** Parts of the run, each with weights of its own; absent: the weights of `blend` throughout. */
  phases: z.array(phase, { error: 'a list of phases' }).min(1, { error: 'a list of phases' }).optional(),
  /** Files held out for validation; absent: a part of each of the training files. */
  validation: paths().optional(),
  /** Tokens in a sequence. */
  sequence: size(16),
  /** Sequences in a step, all micro-batches together. */
  batch: size(1),
  /** Sequences that go through the model at once. */
  micro_batch: size(1),
  /** `bytes`, or a file: what `openTokenizer` of src/data/tokenizers.ts takes. */
  tokenizer: text('the name or path of a tokenizer').default('bytes'),
  /** Whether attention and state space see across the boundaries of packed documents. */
  boundaries: z.enum(['cross', 'reset'], { error: 'cross or reset' }).default('cross'),
})

const optimizer = section({
  lr: positive(),
  beta1: below1().default(0.9),
  beta2: below1().default(0.95),
  eps: positive().default(1e-8),
  weight_decay: notNegative().default(0.1),
  /** Largest norm of the whole gradient. */
  clip: positive().default(1),
})

const schedule = section({
  /** Shares of the steps. */
  warmup: share().default(0.02),
  decay: share().default(0.2),
  /** Last learning rate as a share of the peak. */
  final: share().default(0.01),
  shape: z.enum(['linear', 'cosine'], { error: 'linear or cosine' }).default('linear'),
})

const checkpoint = section({
  /** Steps between checkpoints; 0: only at the end. */
  every: whole(0).default(100),
  /** How many of the newest stay. */
  keep: whole(1).default(2),
})

const validation = section({
  /** Steps between validations; 0: only at the end. */
  every: whole(0).default(0),
  /** Held-out micro-batches, the same every time. */
  batches: whole(1).default(8),
})

const bound = () => z.number({ error: 'a block by number, or a share of the depth' })

/** What some linear layers do instead of what the recipe says: src/config/rules.ts. */
const rule = section({
  where: z.union(
    [
      z.literal('all'),
      z.strictObject({ name: text('the name of a linear layer') }),
      z.strictObject({ blocks: z.tuple([bound(), bound().optional()]) }),
    ],
    { error: 'all, {name: <a linear layer, * matches any characters>} or {blocks: [<first>, <end>]}' },
  ),
  use: text('the name of a recipe'),
})

export const runSchema = section({
  /** Names the run's directory; a preset's is its own name. */
  name: text('a name')
    .regex(/^[\w.-]+$/, { error: 'letters, digits, dots, hyphens and underscores' })
    .default('run'),
  seed: whole(0).default(1),
  /** A word of the random state counts them. */
  steps: whole(1, 2 ** 32 - 1),
  recipe: text('the name of a recipe'),
  /** On top of the recipe, later ones override earlier ones; or the path of a .yaml file that holds them. */
  rules: z
    .array(rule, { error: 'a list of rules such as {where: {blocks: [-2]}, use: bf16}, or the path of a file of them' })
    .default([]),
  backend: z
    .enum(Object.keys(backendActivations), { error: Object.keys(backendActivations).join(' or ') })
    .default('cpu'),
  /** CPU threads; absent: as many as the machine has. */
  threads: whole(1, 1024).optional(),
  /** Instruction level of the cpu backend; absent: the best that the processor has. */
  level: text('the name of an instruction level').optional(),
  /** A folder with NVIDIA's libraries, searched before the usual places. */
  libraries: text('the path of a folder').optional(),
  model,
  data,
  optimizer,
  schedule: schedule.prefault({}),
  checkpoint: checkpoint.prefault({}),
  validation: validation.prefault({}),
})

/** A config as people write it: keys that have a default may be absent. Presets are literals of this type. */
export type RunPreset = z.input<typeof runSchema>

/** A resolved config: every key has its value. Only `threads`, `level` and `libraries` may be absent, which leaves them to the machine. */
export type RunConfig = Omit<z.output<typeof runSchema>, 'model'> & { model: ModelConfig }
