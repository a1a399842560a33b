import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { presets } from '../presets/index.ts'
import { createTrainer } from '../src/cli/session.ts'
import { loadConfig } from '../src/config/load.ts'
import type { RunConfig } from '../src/config/schema.ts'
import { type Corpus, openCorpus } from '../src/data/corpus.ts'
import { openRun } from '../src/run/open.ts'
import type { Backend } from '../src/tensor/backend.ts'
import { train } from '../src/train/loop.ts'
import type { Trainer } from '../src/train/trainer.ts'
import { killAndResume, sameRun } from '../test/resume.ts'
import { configFile, smallConfig, startCli, wordText } from '../test/training.ts'

/** Whether training on a GPU is the same training: with and without graphs, killed and resumed, on the cpu, and moved between the two. */

/** Opens a backend by name; `graphs` false launches kernel by kernel, `level` is the cpu's. */
export type Open = (name: string, graphs?: boolean, level?: string) => Promise<Backend>

const print = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

const openCorpusOf = ({ data }: RunConfig): Corpus => openCorpus(data.files, data.tokenizer, data)

/** Hands `body` a folder with a text in it, and deletes it. */
async function inFolder<T>(body: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'halfbyte-gpu-'))
  try {
    writeFileSync(join(folder, 'text.txt'), wordText(40_000))
    return await body(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Of weights and both moments. */
function fingerprint({ model, optimizer }: Trainer): string {
  const hash = createHash('sha256')
  for (const { value } of model.parameters.all) hash.update(value.floats())
  for (const moment of Object.values(optimizer.moments)) hash.update(moment.floats())
  return hash.digest('hex').slice(0, 16)
}

interface Trained {
  readonly losses: number[]
  readonly fingerprint: string
  readonly milliseconds: number
}

/** Steps as the training loop makes them: each begins before the result of the last is asked for. */
export function trainSteps(trainer: Trainer, steps: number, done: (step: number, loss: number) => void): Trained {
  const losses: number[] = []
  let pending: (() => { loss: number }) | undefined
  let start = 0
  const warm = Math.min(5, steps - 1)
  const settle = () => {
    if (!pending) return
    const { loss } = pending()
    losses.push(loss)
    done(losses.length, loss)
    if (losses.length === warm) start = performance.now()
  }
  for (let step = 0; step < steps; step++) {
    const next = trainer.begin(step)
    settle()
    pending = next
  }
  settle()
  const milliseconds = (performance.now() - start) / (steps - warm)
  return { losses, fingerprint: fingerprint(trainer), milliseconds }
}

async function trainOn(config: RunConfig, backend: Backend, steps: number): Promise<Trained> {
  const trainer = createTrainer(config, backend, openCorpusOf(config))
  const trained = trainSteps(trainer, steps, () => {})
  backend.close()
  return trained
}

/** Losses, weights and moments with and without graphs. Returns how many recipes differ. */
export async function checkGraphs(
  preset: string,
  recipes: readonly string[],
  steps: number,
  overrides: readonly string[],
  open: Open,
): Promise<number> {
  let failures = 0
  for (const recipe of recipes) {
    const config = loadConfig(preset, [`recipe=${recipe}`, 'backend=cuda', ...overrides], presets)
    const graphs = await trainOn(config, await open('cuda'), steps)
    const eager = await trainOn(config, await open('cuda', false), steps)
    const alike = graphs.fingerprint === eager.fingerprint && graphs.losses.every((loss, i) => loss === eager.losses[i])
    if (!alike) failures++
    print(
      `graphs, ${preset}, ${recipe}: ${steps} steps ${alike ? 'are the same bits' : 'DIFFER'} with and without; ${graphs.milliseconds.toFixed(2)} ms a step with, ${eager.milliseconds.toFixed(2)} without; loss ${graphs.losses.at(-1)}, weights and moments ${graphs.fingerprint}`,
    )
    if (!alike) print(`  first at step ${graphs.losses.findIndex((loss, i) => loss !== eager.losses[i]) + 1}`)
  }
  return failures
}

/** Kills training processes and lets them go on. */
export const checkResume = (kills: number): Promise<number> =>
  inFolder(async folder => {
    const steps = 400
    const config = configFile(folder, `steps=${steps}`, 'backend=cuda', 'checkpoint.every=3', 'validation.every=20')
    const [run, undisturbed] = [join(folder, 'killed'), join(folder, 'undisturbed')]
    const { code, stderr } = await startCli(['train', config, '--run', undisturbed]).ended
    if (code !== 0) throw new Error(stderr)
    await killAndResume(config, run, kills, steps, 1)
    sameRun(run, undisturbed)
    print(`resume: killed ${kills} times in ${steps} steps, ends in the same bits as undisturbed`)
    return 0
  })

/** Moves a run from backend to backend at every fourth step. */
export const checkMoves = (open: Open): Promise<number> =>
  inFolder(async folder => {
    const legs = ['cpu', 'cuda', 'cpu', 'cuda']
    const every = 4
    const settings = [
      'recipe=bf16',
      `steps=${legs.length * every}`,
      'model.activations=bf16',
      'checkpoint.every=0',
      'validation.every=0',
    ]
    let changed = 0
    const trainLegs = async (directory: string, places: readonly string[]): Promise<number[]> => {
      const losses: number[] = []
      let left: string | undefined
      for (const [i, place] of places.entries()) {
        const config = smallConfig(folder, ...settings, `backend=${place}`)
        const corpus = openCorpusOf(config)
        const backend = await open(place)
        const trainer = createTrainer(config, backend, corpus)
        const run = openRun(directory, config, {
          halfbyte: 'bench',
          device: { backend: place, ...backend.description },
          corpus: corpus.fingerprint,
        })
        if (run.checkpoint) trainer.restore(run.checkpoint)
        const found = fingerprint(trainer)
        if (left !== undefined && found !== left) changed++
        const stop = new AbortController()
        const until = (i + 1) * every
        await train(
          run,
          trainer,
          {
            until,
            step: ({ step, loss }) => {
              losses.push(loss)
              if (step === until) stop.abort()
            },
          },
          stop.signal,
        )
        left = fingerprint(trainer)
        run.close()
        backend.close()
      }
      return losses
    }
    const moved = await trainLegs(join(folder, 'moved'), legs)
    const stayed = await trainLegs(
      join(folder, 'stayed'),
      legs.map(() => 'cpu'),
    )
    const worst = largestDifference(moved, stayed)
    const alike = worst < 2e-3
    print(
      `moves: ${legs.join(' to ')}, every ${every} steps: weights and moments ${changed > 0 ? `DIFFER after ${changed} moves` : 'arrive as they left'}; losses differ from those of cpu alone by at most ${(100 * worst).toFixed(3)} %${alike ? '' : ', MORE THAN 0.2 %'}`,
    )
    return changed + (alike ? 0 : 1)
  })

const largestDifference = (a: readonly number[], b: readonly number[]): number =>
  Math.max(...a.map((value, i) => Math.abs(value - b[i]!) / b[i]!))

/** Overrides of the run that is compared with the one on the cpu; a control is on the cpu too, at another instruction level. */
export interface Other {
  readonly backend: string
  readonly overrides: readonly string[]
}

/**
 * A run on the cpu in a process of its own, and the same run elsewhere. One bit of one sum can decide a 4-bit code, and from then on two runs see
 * the same text with weights that differ by noise: it is their means that must agree. Two levels of the cpu show how far noise goes.
 * @param file where both curves go, as JSON.
 */
export const compareWithCpu = (
  preset: string,
  recipe: string,
  steps: number,
  shared: readonly string[],
  other: Other,
  open: Open,
  file?: string,
): Promise<number> =>
  inFolder(async folder => {
    const path = join(folder, 'losses.json')
    const script = fileURLToPath(new URL('gpu.js', import.meta.url))
    const options = ['--backend', 'cpu', '--preset', preset, '--recipes', recipe, '--steps', `${steps}`]
    const child = spawn(process.execPath, [script, '--parts', 'training', ...options, '--losses', path, ...shared], {
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    const ended = new Promise<number | null>(resolve => child.once('close', resolve))
    const settings = [`recipe=${recipe}`, 'model.activations=bf16', ...shared, ...other.overrides]
    const config = loadConfig(preset, [...settings, `backend=${other.backend}`], presets)
    const { losses } = await trainOn(config, await open(other.backend, undefined, config.level), steps)
    const code = await ended
    if (code !== 0) throw new Error(`training on the cpu ended with ${code}`)
    const cpu = JSON.parse(readFileSync(path, 'utf8')) as number[]
    if (file) writeFileSync(file, JSON.stringify({ preset, recipe, settings, losses, cpu }))
    const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
    const smooth = (values: readonly number[]) => values.map((_, i) => mean(values.slice(Math.max(0, i - 9), i + 1)))
    const worst = largestDifference(losses, cpu)
    const curve = largestDifference(smooth(losses), smooth(cpu))
    const drift = mean(losses) / mean(cpu) - 1
    const alike = Math.abs(drift) < 2e-3
    const percent = (value: number) => `${(100 * value).toFixed(3)} %`
    print(
      `same training, ${[preset, ...settings, `steps=${steps}`].join(' ')}: the mean loss on ${other.backend} differs from that on the cpu by ${percent(drift)}${alike ? '' : ', MORE THAN 0.2 %'}, means of 10 steps by at most ${percent(curve)}, single steps by ${percent(worst)}; last loss ${losses.at(-1)!.toFixed(5)} and ${cpu.at(-1)!.toFixed(5)}`,
    )
    return alike ? 0 : 1
  })
