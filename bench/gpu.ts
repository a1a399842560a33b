import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { presets } from '../presets/index.ts'
import { openBackend } from '../src/backends/open.ts'
import { Profile } from '../src/cli/profile.ts'
import { renderTable } from '../src/cli/table.ts'
import { loadConfig } from '../src/config/load.ts'
import { openCorpus } from '../src/data/corpus.ts'
import { kernels } from '../src/kernels/index.ts'
import type { Backend } from '../src/tensor/backend.ts'
import { Trainer } from '../src/train/trainer.ts'
import { failedCases, largeCases, timeCase } from './gpu_kernels.ts'
import { stepLarge } from './gpu_large.ts'
import { checkGraphs, checkMoves, checkResume, compareWithCpu, type Open, trainSteps } from './gpu_training.ts'

/**
 * All that there is to know of a GPU in one script: whether every kernel's results are those of the reference, how long kernels take at their
 * bench sizes, and whether a preset trains. `node dist/bench/gpu.js --help` lists the options.
 */

const usage = `usage: node dist/bench/gpu.js [options] [overrides...]

  --parts LIST      default: all of these but large
                      conformance   every kernel's results against the reference's
                      timing        kernels at their bench sizes
                      training      a preset trains: losses, tokens/s, memory
                      graphs        the same bits with and without CUDA graphs
                      resume        killed and resumed, the same bits as undisturbed
                      moves         a run moves between cpu and cuda
                      same          the same losses on cpu and cuda within 0.2 %
                      large         steps of --large, alone on the card, of one sequence each
  --only PART       only kernels with PART in their name
  --preset NAME     what to train, default tiny
  --recipes LIST    default bf16,nvfp4
  --steps N         steps of training, default 60
  --every N         steps between printed losses, default 10
  --backend NAME    default cuda; cpu gives losses to compare with
  --losses FILE     where the losses of the last training go, as JSON
  --against K=V     of same: an override for the run that is compared with the one on the cpu, such as --backend cpu --against level=avx2
  --libraries DIR   folder of NVIDIA's libraries, searched first
  --kills N         of resume, default 4
  --large NAME      a preset that nearly fills the card, default nemotron-h-8b
  --profile         at the end of training, the time of each kernel; slows the steps
`

function checkKernels(backend: Backend, reference: Backend, only: string): number {
  const failures: string[][] = []
  let cases = 0
  let passed = 0
  for (const kernel of kernels.filter(({ name }) => name.includes(only))) {
    const result = failedCases(kernel, backend, reference)
    cases += result.cases
    if (result.failures.length === 0) passed++
    failures.push(...result.failures.map(({ test, problem }) => [kernel.name, test, problem]))
  }
  if (failures.length > 0) {
    const columns = [{ title: 'kernel' }, { title: 'case' }, { title: 'problem' }]
    process.stdout.write(`${renderTable(columns, failures)}\n`)
  }
  process.stdout.write(`conformance: ${cases} cases, ${failures.length} fail; ${passed} kernels pass\n\n`)
  return failures.length
}

/** By which cases of the same size differ. */
const toldScalars = new Set(['sequence', 'hadamard', 'rounding', 'squared', 'four_over_six'])

function timeKernels(backend: Backend, only: string): number {
  const rows: string[][] = []
  const timed = kernels.flatMap(kernel =>
    kernel.cases.filter(({ bench }) => bench).map(testCase => [kernel, testCase] as const),
  )
  for (const [kernel, testCase] of [...timed, ...largeCases]) {
    if (!kernel.name.includes(only)) continue
    const told = Object.entries(testCase.scalars ?? {}).filter(([name, value]) => toldScalars.has(name) && value !== 0)
    const size = [Object.values(testCase.dims).join(' x '), ...told.map(([name, value]) => `${name} ${value}`)].join(
      ', ',
    )
    try {
      const { milliseconds, gigabytesPerSecond, teraflops } = timeCase(kernel, testCase, backend)
      rows.push([
        kernel.name,
        size,
        milliseconds.toFixed(4),
        gigabytesPerSecond.toFixed(0),
        teraflops?.toFixed(2) ?? '',
      ])
    } catch (error) {
      rows.push([kernel.name, size, (error as Error).message.slice(0, 60), '', ''])
    }
  }
  const right = (title: string) => ({ title, align: 'right' as const })
  const columns = [{ title: 'kernel' }, { title: 'size' }, right('ms'), right('GB/s'), right('TFLOP/s')]
  process.stdout.write(`${renderTable(columns, rows)}\n\n`)
  return 0
}

interface Training {
  readonly preset: string
  readonly recipe: string
  readonly backend: string
  readonly steps: number
  readonly every: number
  readonly profile: boolean
  readonly losses: string | undefined
  readonly overrides: readonly string[]
}

async function trainPreset(options: Training, open: Open): Promise<void> {
  const { preset, recipe, steps, every, profile } = options
  const settings = [`recipe=${recipe}`, `backend=${options.backend}`, 'model.activations=bf16', ...options.overrides]
  const config = loadConfig(preset, settings, presets)
  const backend = await open(options.backend, undefined, config.level)
  const trainer = new Trainer(config, backend, openCorpus(config.data.files, config.data.tokenizer, config.data))
  const watched = profile ? new Profile(backend) : undefined
  process.stdout.write(`${preset}, ${recipe}, ${trainer.model.parameters.count} weights:\n`)
  let last = performance.now()
  const { losses, milliseconds } = trainSteps(trainer, steps, (step, loss) => {
    const now = performance.now()
    watched?.step((now - last) / 1000)
    last = now
    if ((step - 1) % every === 0 || step === steps) process.stdout.write(`  step ${step}: loss ${loss.toFixed(5)}\n`)
  })
  if (options.losses) writeFileSync(options.losses, JSON.stringify(losses))
  process.stdout.write(`  validation loss ${trainer.validate().loss.toFixed(5)}\n`)
  process.stdout.write(
    `  ${Math.round((trainer.tokensPerStep / milliseconds) * 1000)} tokens/s, ${milliseconds.toFixed(2)} ms a step, ${(backend.usage.bytes / 2 ** 20).toFixed(0)} MiB\n`,
  )
  if (watched) process.stdout.write(`${watched}\n`)
  backend.close()
}

async function main(): Promise<number> {
  const { values, positionals: overrides } = parseArgs({
    allowPositionals: true,
    options: {
      parts: { type: 'string', default: 'conformance,timing,training,graphs,resume,moves,same' },
      only: { type: 'string', default: '' },
      preset: { type: 'string', default: 'tiny' },
      recipes: { type: 'string', default: 'bf16,nvfp4' },
      steps: { type: 'string', default: '60' },
      every: { type: 'string', default: '10' },
      backend: { type: 'string', default: 'cuda' },
      losses: { type: 'string' },
      against: { type: 'string' },
      libraries: { type: 'string' },
      large: { type: 'string', default: 'nemotron-h-8b' },
      kills: { type: 'string', default: '4' },
      profile: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(usage)
    return 0
  }
  const open: Open = (name, graphs, level) =>
    openBackend(name, kernels, {
      ...(values.libraries === undefined ? {} : { libraries: values.libraries }),
      ...(graphs === undefined ? {} : { graphs }),
      ...(level === undefined ? {} : { level }),
      report: line => process.stderr.write(`${line}\n`),
    })
  const { preset, every, profile, only, losses } = values
  const recipes = values.recipes.split(',')
  const steps = Number(values.steps)
  const withBackend = async (use: (backend: Backend) => number | Promise<number>): Promise<number> => {
    const backend = await open(values.backend)
    const place = Object.entries(backend.description).map(([key, value]) => `${key} ${value}`)
    process.stdout.write(`${backend.name}: ${place.join(', ')}\n\n`)
    const failures = await use(backend)
    backend.close()
    return failures
  }
  const forEach = async (work: (recipe: string) => Promise<number>): Promise<number> => {
    let failures = 0
    for (const recipe of recipes) failures += await work(recipe)
    return failures
  }
  /** Each returns how much of it failed. */
  const parts: Readonly<Record<string, () => Promise<number>>> = {
    conformance: () =>
      withBackend(async backend => checkKernels(backend, await openBackend('reference', kernels), only)),
    timing: () => withBackend(backend => timeKernels(backend, only)),
    training: () =>
      forEach(async recipe => {
        await trainPreset(
          { preset, recipe, backend: values.backend, steps, every: Number(every), profile, losses, overrides },
          open,
        )
        return 0
      }),
    large: () => stepLarge(values.large, recipes, Math.min(steps, 6), overrides, open),
    graphs: () => checkGraphs(preset, recipes, steps, overrides, open),
    resume: () => checkResume(Number(values.kills)),
    moves: () => checkMoves(open),
    same: () =>
      forEach(recipe => {
        const other = { backend: values.backend, overrides: values.against ? [values.against] : [] }
        return compareWithCpu(preset, recipe, steps, overrides, other, open, losses)
      }),
  }
  let failures = 0
  for (const name of values.parts.split(',')) {
    const part = parts[name]
    if (!part) throw new Error(`--parts: found ${name}, wanted some of ${Object.keys(parts).join(', ')}`)
    failures += await part()
  }
  return failures > 0 ? 1 : 0
}

process.exitCode = await main()
