import type { Command } from 'commander'
import { Probe, type Probed, Work } from '../analysis/probe.ts'
import { quantises } from '../analysis/variants.ts'
import { findDivergence, statusOf } from '../compare/runs.ts'
import { UserError } from '../config/errors.ts'
import { listCheckpoints } from '../run/checkpoint.ts'
import { createProgressBar, type ProgressBar } from './progress.ts'
import { type OpenedRun, openWeights, wholeNumber } from './session.ts'

/** What `decompose` and `sensitivity` share: a run's checkpoint, looked at without training it. */

export interface ProbeOptions {
  readonly step?: number
  readonly batches?: number
  readonly draws: number
  readonly out?: string
  readonly json?: boolean
}

export interface OpenedProbe extends OpenedRun {
  readonly probe: Probe
  readonly probed: Probed
  readonly bar: ProgressBar
}

/** Counts that begin at 1. */
export const fromOne = wholeNumber(1)

/**
 * The options that both take.
 * @param draws by default.
 * @param files that are written.
 */
export const addProbeOptions = (command: Command, draws: number, files: string): Command =>
  command
    .option('--step <step>', 'checkpoint to use; default: the newest', wholeNumber(0))
    .option('--draws <count>', 'draws of the random decisions', fromOne, draws)
    .option('--batches <count>', 'held-out micro-batches; default: as many as the run validates on', fromOne)
    .option('--out <directory>', `where to write ${files}; default: the run`)
    .option('--json', 'print JSON')

function checkDivergence(directory: string): void {
  if (statusOf(directory) !== 'diverged') return
  const { step, reason } = findDivergence(directory)!
  const steps = listCheckpoints(directory)
  const next =
    steps.length === 0
      ? 'it has no checkpoint'
      : `to look at it before, name one of its checkpoints with --step: ${steps.join(', ')}`
  throw new UserError(`${directory} diverged at step ${step} (${reason}); ${next}`)
}

/**
 * @param purpose what there is nothing of where nothing is quantised, such as `to decompose`.
 * @throws UserError if the run has no such checkpoint, has diverged and no step is named, or quantises nothing at its checkpoint.
 */
export async function openProbe(
  directory: string,
  { step, batches }: Pick<ProbeOptions, 'step' | 'batches'>,
  purpose: string,
): Promise<OpenedProbe> {
  if (step === undefined) checkDivergence(directory)
  const opened = await openWeights(directory, step)
  const { trainer, config, corpus, checkpoint, backend } = opened
  const bar = createProgressBar()
  const { step: done } = checkpoint.state
  const work = new Work((...progress) => bar.update(...progress))
  const probe = new Probe(trainer, corpus, done, batches ?? config.validation.batches, work)
  if (!probe.layers.resolved.some(quantises)) {
    backend.close()
    throw new UserError(
      `${directory}: recipe ${config.recipe} quantises nothing at step ${done}, so there is nothing ${purpose}`,
    )
  }
  const tokens = config.data.sequence * config.data.micro_batch
  return { ...opened, probe, bar, probed: { run: directory, recipe: trainer.model.recipe.name, step: done, tokens } }
}
