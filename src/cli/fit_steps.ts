import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { comparisonFile, readComparison } from '../compare/comparison.ts'
import { tokensPerStep } from '../compare/runs.ts'
import { median } from '../compare/statistics.ts'
import { UserError } from '../config/errors.ts'
import type { RunConfig } from '../config/schema.ts'
import { type Corpus, openCorpus } from '../data/corpus.ts'
import { formatCount } from '../run/quantities.ts'
import { showWork } from './progress.ts'
import { createTrainer, openConfigured } from './session.ts'

/**
 * How many steps fit a time: every recipe trains for a moment, without a trace, and
 *
 *   steps = share * jobs * budget / sum over runs of (part of the steps that the run trains * seconds a step of its recipe)
 *
 * where `share` leaves room for validation, checkpoints and a machine that slows down.
 */

const share = 0.85
const timedSeconds = 3
const timedSteps = 40

/** A run to come: its config, and which part of the steps it trains itself, less than 1 if it branches from another. */
export interface FittedRun {
  readonly config: RunConfig
  readonly part: number
}

/** Seconds a step takes once the code is warm. */
async function secondsPerStep(config: RunConfig, corpus: Corpus): Promise<number> {
  const backend = await openConfigured(config)
  try {
    const trainer = createTrainer(config, backend, corpus, { empty: true })
    const work = showWork()
    await trainer.initialise({ progress: (done, total) => work(done, total, 'initial weights') })
    const times: number[] = []
    const began = performance.now()
    for (let step = 0; step < timedSteps && (step < 4 || performance.now() - began < 1000 * timedSeconds); step++) {
      const started = performance.now()
      trainer.step(step)
      times.push((performance.now() - started) / 1000)
    }
    return median(times.slice(Math.floor(times.length / 2)))
  } finally {
    backend.close()
  }
}

/** Steps of the comparison that is in one of these folders already: a command that goes on keeps to them. */
export function stepsBefore(folders: readonly string[]): number | undefined {
  const folder = folders.find(each => existsSync(join(each, comparisonFile)))
  return folder === undefined ? undefined : readComparison(folder).arms[0]?.steps
}

/**
 * @param runs of one text and tokenizer.
 * @param budget seconds.
 * @param say shown what is being timed, which takes seconds for each recipe.
 * @throws UserError if not even ten steps of every run fit.
 */
export async function fitSteps(
  runs: readonly FittedRun[],
  budget: number,
  jobs: number,
  say: (line: string) => void,
): Promise<number> {
  const { data } = runs[0]!.config
  const corpus = openCorpus(data.files, data.tokenizer, data)
  const pace = new Map<string, number>()
  for (const { config } of runs) {
    if (pace.has(config.recipe)) continue
    const seconds = await secondsPerStep(config, corpus)
    pace.set(config.recipe, seconds)
    say(`timing: ${config.recipe} takes ${formatCount(1000 * seconds)} ms a step`)
  }
  const perStep = runs.reduce((sum, { config, part }) => sum + part * pace.get(config.recipe)!, 0)
  const steps = 10 * Math.floor((share * jobs * budget) / perStep / 10)
  if (steps < 10)
    throw new UserError(
      `--fit: ${runs.length} runs of 10 steps would take ${Math.ceil((10 * perStep) / jobs / share)} s, more than the budget of ${budget} s; give a larger --budget, fewer seeds or a smaller model`,
    )
  say(`${steps} steps, ${formatCount(steps * tokensPerStep(runs[0]!.config))} tokens a run, fit the budget`)
  return steps
}
