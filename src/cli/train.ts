import { type Command, Option } from 'commander'
import { presets } from '../../presets/index.ts'
import { commandLine } from '../compare/command.ts'
import { UserError } from '../config/errors.ts'
import { loadConfig, overrideConfig } from '../config/load.ts'
import { recipeOf } from '../config/rules.ts'
import type { RunConfig, RunPreset } from '../config/schema.ts'
import { type OpenedCorpus, openCorpus } from '../data/corpus.ts'
import { checkModel } from '../model/model.ts'
import { RecipeError } from '../recipes/errors.ts'
import { sourceOf } from '../report/reproduce.ts'
import { createRunDirectory, openRun } from '../run/open.ts'
import { formatCount } from '../run/quantities.ts'
import { readConfig, readRun } from '../run/read.ts'
import type { Run } from '../run/run.ts'
import { logs } from '../run/tensorboard.ts'
import { type Outcome, train } from '../train/loop.ts'
import type { Trainer } from '../train/trainer.ts'
import { describeRun, dryRunText, formatCounts, planOf } from './dry_run.ts'
import { createDisplay } from './live.ts'
import { packageVersion } from './main.ts'
import { Profile } from './profile.ts'
import { showWork } from './progress.ts'
import { sampleText } from './sample.ts'
import { createTrainer, openConfigured } from './session.ts'
import { stopOnSignals } from './signals.ts'
import { printable } from './text.ts'
import { lossSentence } from './validate.ts'

const mostTitles = 3

/** `books (12 files): 3.05M tokens and 62.3k held out`. */
function corpusLine({ titles, sources, validation }: OpenedCorpus): string {
  const tokens = formatCount(sources.reduce((sum, { stream }) => sum + stream.length, 0))
  const others = titles.length - mostTitles
  const named = [...titles.slice(0, mostTitles), ...(others > 0 ? [`${others} more`] : [])].join(', ')
  return `${named}: ${tokens} tokens and ${formatCount(validation.length)} held out`
}

function announce(run: Run, trainer: Trainer, corpus: OpenedCorpus): void {
  const { config } = trainer
  const described = describeRun(config)
  const { parameters, steps, tokens } = described
  const { name, description } = trainer.model.backend
  const place = Object.entries(description).map(([key, value]) => `${key} ${value}`)
  process.stdout.write(
    `${config.name}: ${formatCount(parameters)} parameters (${config.model.pattern}), recipe ${config.recipe}: ${formatCounts(described)}
text: ${corpusLine(corpus)}
${formatCount(tokens)} tokens in ${steps} steps on ${[name, ...place].join(', ')}
run directory: ${run.directory}${run.startStep > 0 ? `, going on after step ${run.startStep}` : ''}

`,
  )
}

interface TerminalOptions {
  readonly profiling?: boolean | undefined
  /** A kind of `logs` to write beside the run's own files. */
  readonly log?: string | undefined
  /** Preset or file and overrides that make the same training; absent where none do. */
  readonly words?: readonly string[]
  /** Stop after this step as if the user had asked to, and validate there. */
  readonly until?: number
}

/** The config that a command names, checked against its recipe before anything is read or built. */
export function loadRun(
  source: string,
  overrides: readonly string[],
  known: Readonly<Record<string, RunPreset>> = presets,
): RunConfig {
  const config = loadConfig(source, overrides, known)
  const { model, steps, data } = config
  try {
    checkModel(model, recipeOf(config), steps, data.sequence * data.micro_batch)
  } catch (error) {
    if (!(error instanceof RecipeError)) throw error
    throw new UserError(error.message, overrides.length > 0 ? 2 : 1)
  }
  return config
}

/** Trains on a terminal: shows the run, its end, and what to do next. */
export async function trainInTerminal(
  directory: string | undefined,
  config: RunConfig,
  { profiling = false, log, words = [], until = config.steps }: TerminalOptions = {},
): Promise<void> {
  const corpus = openCorpus(config.data.files, config.data.tokenizer, config.data)
  const backend = await openConfigured(config)
  const trainer = createTrainer(config, backend, corpus, { empty: true })
  const device = { backend: backend.name, ...backend.description }
  const origin = { halfbyte: packageVersion(), device, corpus: corpus.fingerprint }
  const work = showWork()
  const watching = { notice: work.note, progress: work }
  const run = openRun(directory ?? createRunDirectory(config.name), config, origin, watching)
  if (log !== undefined) run.attach(logs[log]!(run.directory, run.startStep))
  const { signal, release } = stopOnSignals()
  const profile = profiling ? new Profile(backend) : undefined
  const display = createDisplay({ steps: until, tokensPerStep: trainer.tokensPerStep, stream: process.stdout })
  const reached = new AbortController()
  let outcome: Outcome
  try {
    announce(run, trainer, corpus)
    outcome = await train(
      run,
      trainer,
      {
        until,
        step: progress => {
          display.update(progress)
          profile?.step(trainer.tokensPerStep / progress.tokensPerSecond)
          if (progress.step >= until) reached.abort()
        },
        validation: (step, result) => {
          profile?.leaveOut()
          display.note(`step ${step}: validation loss ${lossSentence(result)}`)
        },
        event: (step, text) => display.note(`step ${step}: ${text}`),
        work,
      },
      AbortSignal.any([signal, reached.signal]),
    )
    if (reached.signal.aborted && outcome.status === 'interrupted') {
      const { step } = outcome
      const validation = trainer.validate()
      run.metrics({ step, validation_loss: validation.loss })
      display.note(`step ${step}: validation loss ${lossSentence(validation)}`)
    }
  } finally {
    work.done()
    display.done()
    release()
    run.close()
  }
  if (profile) process.stdout.write(`\n${profile}\n`)
  if (outcome.status === 'interrupted') {
    process.stdout.write(
      `stopped after step ${outcome.step} of ${config.steps}; all is saved. To go on: npx halfbyte resume ${run.directory}\n`,
    )
    return
  }
  const text = sampleText(trainer.model, corpus.tokenizer, '', {
    length: 200,
    temperature: 0.8,
    topK: 40,
    topP: 1,
    seed: config.seed,
    capacity: config.data.sequence,
  })
  process.stdout.write(`
validation loss: ${lossSentence(outcome.validation!)}
speed: ${formatCount(outcome.tokensPerSecond)} tokens/s
sample: ${printable(text)}

run directory: ${run.directory}
what next:
${nextCommands(run.directory, config, words).join('\n')}
`)
}

/** Preset and overrides that make a run; none if it began from weights of another. */
function wordsOf(directory: string): string[] {
  const { config, origin } = readRun(directory)
  const source = origin.branch || origin.imported ? undefined : sourceOf(config, presets)
  return source ? [source.preset, ...source.overrides] : []
}

/** Longer ones do not push the words beside the others to the right. */
const widestCommand = 80

/** What to try after a run, with what each is for. */
function nextCommands(directory: string, { recipe }: RunConfig, words: readonly string[]): string[] {
  const other = recipe === 'bf16' ? 'nvfp4' : 'bf16'
  const rows: [string, string][] = [
    [`sample ${directory} --prompt "My fellow citizens"`, 'let it continue a text'],
    [`plot ${directory}`, 'draw its loss'],
    [`validate ${directory} --recipe ${other}`, `the same weights computing in ${other}`],
  ]
  const same = words.filter(word => !word.startsWith('recipe='))
  if (same.length > 0)
    rows.push([`train ${commandLine([...same, `recipe=${other}`])}`, `the same training in ${other}`])
  const width = Math.max(...rows.map(([command]) => command.length).filter(length => length <= widestCommand))
  return rows.map(([command, purpose]) => `  npx halfbyte ${command.padEnd(width)}   ${purpose}`)
}

interface TrainOptions {
  log?: string
  run?: string
  profile?: boolean
  dryRun?: boolean
  json?: boolean
  policy?: string
}

/** `--log` of train and resume. */
const logOption = (): Option =>
  new Option('--log <kind>', 'also write the records for another viewer, into the run directory').choices(
    Object.keys(logs),
  )

export function register(program: Command): void {
  program
    .command('train')
    .description('Pretrain a model. The same command with the same --run goes on where it was interrupted.')
    .argument('<config>', 'a preset ("halfbyte presets" lists them) or a .yaml or .json file')
    .argument('[overrides...]', 'key=value, keys dotted as in the config')
    .option('--run <directory>', 'run directory; default: runs/<name>-NNN')
    .option(
      '--policy <file>',
      'rules for layers on top of the recipe, as "halfbyte sensitivity" writes them; the same as rules=<file>',
    )
    .option('--dry-run', 'print sizes, memory and the format of every linear layer, then exit')
    .option('--json', 'with --dry-run: print JSON')
    .option('--profile', 'at the end, print the time that each kernel took')
    .addOption(logOption())
    .addHelpText(
      'after',
      `
Keys: seed, steps, recipe, rules, backend, threads, level, libraries, model.*, data.*, optimizer.*, schedule.*, checkpoint.*, validation.*.
A config file holds the same keys as YAML or JSON; "extends: <preset>" starts from a preset. docs/config.md has them all, with defaults.

Examples:
  halfbyte train tiny
  halfbyte train tiny recipe=bf16 seed=2 --run runs/bf16-2
  halfbyte train small data.files=books/ data.sequence=512
  halfbyte train tiny --log tensorboard          then: tensorboard --logdir runs
  halfbyte train tiny --policy runs/tiny-001/policy.yaml
  halfbyte train nemotron-nano-12b --dry-run`,
    )
    .action(async (source: string, overrides: string[], { run, dryRun, json, profile, policy, log }: TrainOptions) => {
      const all = policy === undefined ? overrides : [`rules=${policy}`, ...overrides]
      const config = loadRun(source, all)
      if (!dryRun) return trainInTerminal(run, config, { profiling: profile, words: [source, ...all], log })
      process.stdout.write(
        json ? `${JSON.stringify({ ...describeRun(config), data: planOf(config) })}\n` : dryRunText(config),
      )
    })
}

export function registerResume(program: Command): void {
  program
    .command('resume')
    .description('Go on with an interrupted run from its last checkpoint, to the same bits as if it had not stopped.')
    .argument('<run>', 'run directory')
    .argument('[overrides...]', 'keys that change no numbers: threads=4, level=avx2, backend=reference')
    .addOption(logOption())
    .addHelpText(
      'after',
      `
Examples:
  halfbyte resume runs/tiny-001
  halfbyte resume runs/tiny-001 threads=4`,
    )
    .action(async (directory: string, overrides: string[], { log }: { log?: string }) => {
      const config = overrideConfig(readConfig(directory), overrides)
      await trainInTerminal(directory, config, { words: wordsOf(directory), log })
    })
}
