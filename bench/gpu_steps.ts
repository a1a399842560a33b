import { parseArgs } from 'node:util'
import { presets } from '../presets/index.ts'
import { openBackend } from '../src/backends/open.ts'
import { Profile } from '../src/cli/profile.ts'
import { renderTable } from '../src/cli/table.ts'
import { median } from '../src/compare/statistics.ts'
import type { RunPreset } from '../src/config/schema.ts'
import { kernels } from '../src/kernels/index.ts'
import { describeModel } from '../src/model/describe.ts'
import { findRecipe } from '../src/recipes/recipes.ts'
import { type Answer, Contestant, tokensOf } from './peers/contestant.ts'
import { configOf, type ModelSpec, takeSteps, trainerOf } from './peers/work.ts'

/** Training steps on a GPU, next to PyTorch's on the same one: contestants are processes that take turns. */

const usage = `usage: node dist/bench/gpu_steps.js [options]

  --models LIST     of gpt-768, gpt-2048, base, hybrid-1.2b; default: the first two
  --recipes LIST    halfbyte's recipes, default bf16,fp8,nvfp4
  --python PATH     a Python with PyTorch, default python3; none leaves PyTorch out, which has no part in hybrids
  --peak N          dense BF16 TFLOP/s of the GPU, of which the model's are a share; default 989, an H100's or H200's
  --rounds N        turns of each contestant, default 4
  --steps N         steps of a turn, default 8
  --profile N       instead: N steps of each recipe, waiting for each kernel; prints the time of each
`

const shared = { kind: 'dense', vocab: 50304, threads: 4, backend: 'cuda' } as const

/** The model of a preset, that many sequences at a time. */
function hybrid({ model }: RunPreset, batch: number, sequence: number): ModelSpec {
  const { hidden: width, ...sizes } = model as Omit<ModelSpec, 'kind' | 'width' | 'batch' | 'sequence' | 'threads'> & {
    hidden: number
  }
  return { ...sizes, ...shared, vocab: sizes.vocab, kind: 'hybrid', width, batch, sequence }
}

const models: Readonly<Record<string, ModelSpec>> = {
  base: hybrid(presets.base!, 16, 1024),
  'hybrid-1.2b': hybrid(presets['hybrid-1.2b']!, 1, 8192),
  'gpt-768': {
    ...shared,
    width: 768,
    depth: 12,
    ffn: 3072,
    heads: 12,
    kv_heads: 12,
    head_dim: 64,
    batch: 32,
    sequence: 1024,
  },
  'gpt-2048': {
    ...shared,
    width: 2048,
    depth: 20,
    ffn: 8192,
    heads: 16,
    kv_heads: 16,
    head_dim: 128,
    batch: 4,
    sequence: 2048,
  },
}

const report = (line: string): void => {
  process.stderr.write(`${line}\n`)
}

async function profileSteps(name: string, recipe: string, steps: number): Promise<void> {
  const backend = await openBackend('cuda', kernels, { report })
  const trainer = await trainerOf(models[name]!, recipe, backend)
  const skip = 2
  takeSteps(trainer, 0, skip)
  const start = performance.now()
  takeSteps(trainer, skip, steps)
  const milliseconds = (performance.now() - start) / steps
  const profile = new Profile(backend, 0)
  let loss = 0
  for (let step = 0; step < steps; step++) {
    const begin = performance.now()
    loss = trainer.step(skip + steps + step).loss
    profile.step((performance.now() - begin) / 1000)
  }
  backend.profiler = undefined
  process.stdout.write(
    `${name}, ${recipe}: ${milliseconds.toFixed(1)} ms a step, ${Math.round((1000 * trainer.tokensPerStep) / milliseconds)} tokens/s, loss ${loss.toFixed(4)}, ${(backend.usage.bytes / 2 ** 30).toFixed(1)} GiB\n${profile}\n\n`,
  )
  backend.close()
}

interface Entrant {
  readonly title: string
  readonly contestant: Contestant
  readonly answers: Answer[]
}

interface Race {
  readonly recipes: readonly string[]
  readonly python: string
  readonly rounds: number
  readonly steps: number
  /** Dense BF16 TFLOP/s of the GPU. */
  readonly peak: number
}

async function race(name: string, options: Race) {
  const { recipes, rounds, steps, peak } = options
  const spec = models[name]!
  const python = spec.kind === 'dense' ? options.python : 'none'
  const { flops } = describeModel(configOf(spec, 'bf16').model, findRecipe('bf16'), spec.sequence)
  const entrants: Entrant[] = recipes.map(recipe => ({
    title: recipe,
    contestant: new Contestant(spec, { recipe }),
    answers: [],
  }))
  if (python !== 'none') {
    const contestant = new Contestant(spec, { mode: 'compile_bf16' }, python)
    entrants.push({ title: 'PyTorch, compiled, BF16', contestant, answers: [] })
  }
  try {
    for (const { contestant } of entrants) {
      await contestant.ready()
      await contestant.run(3)
    }
    for (let round = 0; round < rounds; round++)
      for (const { contestant, answers } of entrants) answers.push(await contestant.run(steps))
  } finally {
    for (const { contestant } of entrants) contestant.close()
  }
  const speed = ({ answers }: Entrant): number =>
    (steps * tokensOf(spec)) / median(answers.map(({ seconds }) => seconds))
  const rate = (entrant: Entrant): number => (speed(entrant) * flops.total) / 1e12
  const reference = speed(entrants.at(-1)!)
  const own = speed(entrants[0]!)
  const right = (title: string) => ({ title, align: 'right' as const })
  const columns = [
    { title: name },
    right('tokens/s'),
    right(`against ${recipes[0]}`),
    ...(python === 'none' ? [] : [right('against PyTorch')]),
    right('ms a step'),
    right('model TFLOP/s'),
    right('of peak'),
    right('memory'),
  ]
  const rows = entrants.map(entrant => [
    entrant.title,
    Math.round(speed(entrant)).toLocaleString('en'),
    `${(speed(entrant) / own).toFixed(2)}x`,
    ...(python === 'none' ? [] : [`${(speed(entrant) / reference).toFixed(2)}x`]),
    ((1000 * tokensOf(spec)) / speed(entrant)).toFixed(1),
    rate(entrant).toFixed(0),
    `${((100 * rate(entrant)) / peak).toFixed(1)} %`,
    `${(Math.max(...entrant.answers.map(({ peak_bytes }) => peak_bytes)) / 2 ** 30).toFixed(1)} GiB`,
  ])
  process.stdout.write(`${renderTable(columns, rows)}\n\n`)
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      models: { type: 'string', default: 'gpt-768,gpt-2048' },
      recipes: { type: 'string', default: 'bf16,fp8,nvfp4' },
      python: { type: 'string', default: 'python3' },
      peak: { type: 'string', default: '989' },
      rounds: { type: 'string', default: '4' },
      steps: { type: 'string', default: '8' },
      profile: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(usage)
    return
  }
  const recipes = values.recipes.split(',')
  for (const name of values.models.split(',')) {
    if (!Object.hasOwn(models, name))
      throw new Error(`model "${name}" is unknown; use one of ${Object.keys(models).join(', ')}`)
    if (values.profile === undefined)
      await race(name, {
        recipes,
        python: values.python,
        rounds: Number(values.rounds),
        steps: Number(values.steps),
        peak: Number(values.peak),
      })
    else for (const recipe of recipes) await profileSteps(name, recipe, Number(values.profile))
  }
}

await main()
