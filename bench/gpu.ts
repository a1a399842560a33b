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

/**
 * All that there is to know of a GPU in one script: whether every kernel's results are those of the reference, how long kernels take at their
 * bench sizes, and whether a preset trains. `node dist/bench/gpu.js --help` lists the options.
 */

const usage = `usage: node dist/bench/gpu.js [options]

  --skip PARTS      parts to leave out: conformance, timing, training
  --only PART       only kernels with PART in their name
  --preset NAME     what to train, default tiny
  --recipes LIST    default bf16,nvfp4
  --steps N         steps of training, default 60
  --every N         steps between printed losses, default 10
  --backend NAME    default cuda; cpu gives losses to compare with
  --libraries DIR   folder of NVIDIA's libraries, searched first
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

function timeKernels(backend: Backend, only: string): void {
  const rows: string[][] = []
  const timed = kernels.flatMap(kernel =>
    kernel.cases.filter(({ bench }) => bench).map(testCase => [kernel, testCase] as const),
  )
  for (const [kernel, testCase] of [...timed, ...largeCases]) {
    if (!kernel.name.includes(only)) continue
    const size = Object.values(testCase.dims).join(' x ')
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
}

interface Training {
  readonly preset: string
  readonly recipe: string
  readonly backend: string
  readonly steps: number
  readonly every: number
  readonly profile: boolean
  readonly overrides: readonly string[]
}

async function trainPreset(options: Training, open: () => Promise<Backend>): Promise<void> {
  const { preset, recipe, steps, every, profile } = options
  const settings = [`recipe=${recipe}`, `backend=${options.backend}`, 'model.activations=bf16', ...options.overrides]
  const config = loadConfig(preset, settings, presets)
  const backend = await open()
  const trainer = new Trainer(config, backend, openCorpus(config.data.files, config.data.tokenizer, config.data))
  const watched = profile ? new Profile(backend) : undefined
  process.stdout.write(`${preset}, ${recipe}, ${trainer.model.parameters.count} weights:\n`)
  let seconds = 0
  const first = Math.min(5, steps - 1)
  for (let step = 0; step < steps; step++) {
    const start = performance.now()
    const { loss, norm, finite } = trainer.step(step)
    const elapsed = (performance.now() - start) / 1000
    watched?.step(elapsed)
    if (step >= first) seconds += elapsed
    if (step % every === 0 || step === steps - 1 || !finite)
      process.stdout.write(`  step ${step + 1}: loss ${loss.toFixed(5)}, gradient norm ${norm.toFixed(4)}\n`)
  }
  const speed = ((steps - first) * trainer.tokensPerStep) / seconds
  process.stdout.write(`  validation loss ${trainer.validate().loss.toFixed(5)}\n`)
  process.stdout.write(
    `  ${Math.round(speed)} tokens/s, ${((seconds / (steps - first)) * 1000).toFixed(2)} ms a step, ${(backend.usage.bytes / 2 ** 20).toFixed(0)} MiB\n`,
  )
  if (watched) process.stdout.write(`${watched}\n`)
  backend.close()
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      skip: { type: 'string', default: '' },
      only: { type: 'string', default: '' },
      preset: { type: 'string', default: 'tiny' },
      recipes: { type: 'string', default: 'bf16,nvfp4' },
      steps: { type: 'string', default: '60' },
      every: { type: 'string', default: '10' },
      backend: { type: 'string', default: 'cuda' },
      libraries: { type: 'string' },
      profile: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(usage)
    return 0
  }
  const open = () =>
    openBackend(values.backend, kernels, {
      ...(values.libraries === undefined ? {} : { libraries: values.libraries }),
      report: line => process.stderr.write(`${line}\n`),
    })
  const skipped = values.skip.split(',')
  const backend = await open()
  const place = Object.entries(backend.description).map(([key, value]) => `${key} ${value}`)
  process.stdout.write(`${backend.name}: ${place.join(', ')}\n\n`)
  let failures = 0
  if (!skipped.includes('conformance'))
    failures = checkKernels(backend, await openBackend('reference', kernels), values.only)
  if (!skipped.includes('timing')) timeKernels(backend, values.only)
  backend.close()
  if (!skipped.includes('training'))
    for (const recipe of values.recipes.split(',')) {
      const { preset, steps, every, profile } = values
      const training = {
        preset,
        recipe,
        backend: values.backend,
        steps: Number(steps),
        every: Number(every),
        profile,
        overrides: positionals,
      }
      await trainPreset(training, open)
    }
  return failures > 0 ? 1 : 0
}

process.exitCode = await main()
