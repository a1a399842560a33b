import { join } from 'node:path'
import { findDivergence, type Status, statusOf, tokensPerStep } from '../compare/runs.ts'
import { UserError } from '../config/errors.ts'
import { firstDifference } from '../config/load.ts'
import type { RunConfig } from '../config/schema.ts'
import { type Corpus, openCorpus } from '../data/corpus.ts'
import { branchRun } from '../run/branch.ts'
import { listCheckpoints } from '../run/checkpoint.ts'
import type { Progress } from '../run/files.ts'
import { openRun } from '../run/open.ts'
import { type Origin, readMetrics, readRun } from '../run/read.ts'
import { isTraining } from '../run/records.ts'
import { train } from '../train/loop.ts'
import { createDisplay } from './live.ts'
import { packageVersion } from './main.ts'
import { showWork } from './progress.ts'
import { createTrainer, openConfigured } from './session.ts'
import type { DisplayStream } from './terminal.ts'

/**
 * Trains the runs of a comparison, one after another in this process and by the function that `halfbyte train` calls: the text is read
 * once, a run can be stopped exactly at the step where others branch from it, and what a failing run says arrives as an error and not as
 * an exit code. Each run has a backend of its own, whose memory goes back with it.
 */

/** A run to be trained: from the start, or from a checkpoint of another run of the plan's folder. */
export interface PlannedRun {
  readonly recipe: string
  readonly seed: number
  readonly config: RunConfig
  readonly directory: string
  readonly branch?: { readonly step: number; readonly directory: string; readonly config: RunConfig }
}

export interface ConductOptions {
  readonly stream: DisplayStream
  /** Aborted when the user asks to stop. */
  readonly signal: AbortSignal
  /** Seconds that may be used from now on. */
  readonly budget?: number | undefined
  /** Whether this is all that trains at the moment, so that the time left of all runs can be told. Default: yes. */
  readonly alone?: boolean
  /** Called when the state of the run in a directory has changed. */
  readonly changed: (directory: string) => void
}

/** `stopped`: the user asked. `budget`: the time is used up. All is saved, and the same command goes on. */
export type Conducted = 'finished' | 'stopped' | 'budget'

/** What a run of a plan is called on the terminal: `3/9 nvfp4 seed 2`. */
export function labelOf(runs: readonly PlannedRun[], index: number): string {
  const { recipe, seed } = runs[index]!
  return `${index + 1}/${runs.length} ${recipe} seed ${seed}`
}

/** Steps that a run has recorded and how long they took, by its own records. */
function pace(directory: string): { steps: number; seconds: number } {
  let [steps, seconds] = [0, 0]
  const perStep = tokensPerStep(readRun(directory).config)
  for (const record of readMetrics(directory))
    if (isTraining(record)) {
      steps = record.step
      seconds += perStep / record.tokens_per_second
    }
  return { steps, seconds }
}

export class Conductor {
  readonly #runs: readonly PlannedRun[]
  readonly #options: ConductOptions
  readonly #deadline: number
  readonly #corpora = new Map<string, Corpus>()
  /** Seconds a step, by recipe. */
  readonly #pace = new Map<string, number>()

  /** @param runs in the order in which they are to be trained; a run comes after the one that it branches from. */
  constructor(runs: readonly PlannedRun[], options: ConductOptions) {
    this.#runs = runs
    this.#options = options
    this.#deadline = options.budget === undefined ? Number.POSITIVE_INFINITY : performance.now() + 1000 * options.budget
  }

  async conduct(): Promise<Conducted> {
    this.check()
    for (const index of this.#runs.keys()) {
      const ended = await this.complete(index)
      if (ended) return ended
    }
    return 'finished'
  }

  /** @throws UserError if a directory of the plan holds another run, which is found before hours of training. */
  check(): void {
    for (const run of this.#runs) this.#checkKept(run)
  }

  /** Trains one run of the plan, unless it is done. Returns why the work ends early, if it does. */
  async complete(index: number): Promise<Conducted | undefined> {
    const run = this.#runs[index]!
    const before = statusOf(run.directory)
    if (before === 'missing' || before === 'unfinished') return this.#complete(run, index)
    this.#say(`${this.#label(index)}: ${before} before`)
    return undefined
  }

  #say(line: string): void {
    this.#options.stream.write(`${line}\n`)
  }

  #label = (index: number): string => labelOf(this.#runs, index)

  #corpus({ data }: RunConfig): Corpus {
    const key = JSON.stringify([data.files, data.tokenizer, data.blend, data.validation])
    const corpus = this.#corpora.get(key) ?? openCorpus(data.files, data.tokenizer, data)
    this.#corpora.set(key, corpus)
    return corpus
  }

  #checkKept({ directory, config, recipe }: PlannedRun): void {
    if (statusOf(directory) === 'missing') return
    const stored = readRun(directory)
    const difference = firstDifference(stored.config, config)
    if (difference)
      throw new UserError(`run directory ${directory} holds a run of another config: ${difference}; use another --out`)
    if (stored.origin.corpus !== this.#corpus(config).fingerprint)
      throw new UserError(`run directory ${directory}: the text of data.files is not the one that the run began with`)
    const { steps, seconds } = pace(directory)
    if (steps > 0) this.#pace.set(recipe, seconds / steps)
  }

  /** Trains a run to its end, stopping where others branch from it. Returns why the work ends early, if it does. */
  async #complete(run: PlannedRun, index: number): Promise<Conducted | undefined> {
    if (run.branch && statusOf(run.directory) === 'missing') {
      const ended = await this.#reachBranch(run, run.branch, index)
      if (ended) return ended
      if (statusOf(run.directory) === 'missing') {
        this.#say(
          `${this.#label(index)}: not trained, because ${run.branch.directory} diverged before step ${run.branch.step}`,
        )
        return undefined
      }
    }
    for (const step of this.#branchSteps(run)) {
      const ended = await this.#train(run.directory, run.config, step, index)
      if (ended) return ended
      if (statusOf(run.directory) === 'diverged') return undefined
      await this.#branchAll(run.directory, step)
    }
    return this.#train(run.directory, run.config, run.config.steps, index)
  }

  /** Steps, rising, at which runs that are not there yet branch from this one, and which it has not passed. */
  #branchSteps({ directory }: PlannedRun): number[] {
    const done = statusOf(directory) === 'missing' ? 0 : (listCheckpoints(directory).at(-1) ?? 0)
    const steps = this.#runs
      .filter(({ branch, directory: own }) => branch?.directory === directory && statusOf(own) === 'missing')
      .map(({ branch }) => branch!.step)
    return [...new Set(steps)].filter(step => step >= done).sort((a, b) => a - b)
  }

  async #branchAll(from: string, step: number): Promise<void> {
    for (const { branch, directory, config } of this.#runs)
      if (branch?.directory === from && branch.step === step && statusOf(directory) === 'missing')
        await branchRun(from, step, directory, config, this.#origin(config, readRun(from).origin.device))
  }

  /** Makes a branch whose origin has gone past its step and deleted that checkpoint: the origin is trained anew up to there. */
  async #reachBranch(
    run: PlannedRun,
    { step, directory, config }: NonNullable<PlannedRun['branch']>,
    index: number,
  ): Promise<Conducted | undefined> {
    let from = directory
    if (!listCheckpoints(directory).includes(step)) {
      from = `${directory}-until-${step}`
      const ended = listCheckpoints(from).includes(step) ? undefined : await this.#train(from, config, step, index)
      if (ended) return ended
    }
    if (listCheckpoints(from).includes(step))
      await branchRun(from, step, run.directory, run.config, this.#origin(run.config, readRun(from).origin.device))
    return undefined
  }

  #origin(config: RunConfig, device: Origin['device']): Origin {
    return { halfbyte: packageVersion(), device, corpus: this.#corpus(config).fingerprint }
  }

  /** Seconds that the runs after `index` are expected to take, judged by the same recipe or, without one, by all. */
  #secondsAfter(index: number): number | undefined {
    const paces = [...this.#pace.values()]
    if (paces.length === 0) return undefined
    const typical = paces.reduce((sum, seconds) => sum + seconds, 0) / paces.length
    return this.#runs.slice(index + 1).reduce((sum, run) => sum + this.#secondsOf(run, typical), 0)
  }

  #secondsOf({ directory, config, recipe, branch }: PlannedRun, typical: number): number {
    const status: Status = statusOf(directory)
    if (status === 'finished' || status === 'diverged') return 0
    const done = status === 'missing' ? (branch?.step ?? 0) : (listCheckpoints(directory).at(-1) ?? 0)
    return (config.steps - done) * (this.#pace.get(recipe) ?? typical)
  }

  /** Trains a directory up to `until`, where it saves. A run that diverges is left as it is: its events say where. */
  async #train(directory: string, config: RunConfig, until: number, index: number): Promise<Conducted | undefined> {
    const { stream, signal, changed } = this.#options
    if (signal.aborted) return 'stopped'
    if (performance.now() >= this.#deadline) return 'budget'
    const corpus = this.#corpus(config)
    const backend = await openConfigured(config)
    try {
      const trainer = createTrainer(config, backend, corpus, { empty: true })
      const work = showWork({ stream })
      const progress: Progress = (done, total, what) => work(done, total, `${this.#label(index)}: ${what}`)
      const origin = this.#origin(config, { backend: backend.name, ...backend.description })
      const run = openRun(directory, config, origin, { progress })
      const pause = new AbortController()
      const stop = () => pause.abort()
      signal.addEventListener('abort', stop)
      if (run.startStep >= until) pause.abort()
      changed(directory)
      const after = this.#secondsAfter(index)
      const display = createDisplay({
        steps: until,
        tokensPerStep: trainer.tokensPerStep,
        stream,
        label: this.#label(index),
        secondsAfter: () => (this.#options.alone === false ? undefined : after),
      })
      let [steps, seconds] = [0, 0]
      try {
        await train(
          run,
          trainer,
          {
            until,
            step: progress => {
              display.update(progress)
              steps++
              seconds += trainer.tokensPerStep / progress.tokensPerSecond
              if (progress.step >= until || performance.now() >= this.#deadline) pause.abort()
            },
            event: (step, text) => display.note(`step ${step}: ${text}`),
            work: progress,
          },
          pause.signal,
        )
      } catch (error) {
        const divergence = findDivergence(directory)
        if (!divergence) throw error
        display.note(`${this.#label(index)}: diverged at step ${divergence.step}: ${divergence.reason}`)
      } finally {
        work.done()
        display.done()
        signal.removeEventListener('abort', stop)
        run.close()
        if (steps > 0) this.#pace.set(config.recipe, seconds / steps)
        changed(directory)
      }
      const done = statusOf(directory)
      if (done === 'finished' || done === 'diverged' || listCheckpoints(directory).includes(until)) return undefined
      return signal.aborted ? 'stopped' : 'budget'
    } finally {
      backend.close()
    }
  }
}

/** Where a run of a recipe and seed is kept below the folder of a comparison. */
export const runDirectory = (out: string, recipe: string, seed: number, branchedAt?: number): string =>
  join(out, 'runs', `${recipe}${branchedAt === undefined ? '' : `-from-${branchedAt}`}-seed-${seed}`)
