import { rmdirSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { UserError } from '../config/errors.ts'
import { openCorpus } from '../data/corpus.ts'
import { wantNew } from '../export/folder.ts'
import { importedPreset, importRun } from '../export/import.ts'
import type { Progress } from '../run/files.ts'
import { createRunDirectory } from '../run/open.ts'
import { packageVersion } from './main.ts'
import { showWork } from './progress.ts'
import { checkTokenizer, openConfigured } from './session.ts'
import { stoppable } from './signals.ts'
import { loadRun } from './train.ts'

interface Options {
  run?: string
  json?: boolean
}

async function importFolder(folder: string, overrides: string[], { run, json }: Options): Promise<void> {
  if (run !== undefined) wantNew(run)
  const preset = importedPreset(folder)
  if (preset.data.tokenizer === undefined && !overrides.some(override => override.startsWith('data.tokenizer=')))
    throw new UserError(`${folder} has no tokenizer.json; name one with data.tokenizer=<path>, or data.tokenizer=bytes`)
  const config = loadRun('imported', overrides, { imported: preset })
  const corpus = openCorpus(config.data.files, config.data.tokenizer, config.data)
  checkTokenizer(config, corpus.tokenizer)
  const backend = await openConfigured(config)
  const device = { backend: backend.name, ...backend.description }
  backend.close()
  const directory = run ?? createRunDirectory(config.name)
  const work = showWork()
  const origin = { halfbyte: packageVersion(), device, corpus: corpus.fingerprint, imported: resolve(folder) }
  const progress: Progress = (done, total) => work(done, total, `importing ${folder}`)
  try {
    await stoppable(signal => importRun(folder, directory, config, origin, { progress, signal }), work.done)
  } catch (error) {
    if (run === undefined) rmdirSync(directory)
    throw error
  }
  process.stdout.write(
    json
      ? `${JSON.stringify({ run: directory, pattern: config.model.pattern, recipe: config.recipe, steps: config.steps })}\n`
      : `${directory}: the weights of ${folder} as step 0 of ${config.steps}, recipe ${config.recipe}
To train: npx halfbyte resume ${directory}\n`,
  )
}

export function register(program: Command): void {
  program
    .command('import')
    .description(
      'Make a run of a Hugging Face checkpoint, to go on with pretraining. Its weights are those of step 0; moments begin at zero.',
    )
    .argument('<folder>', 'config.json and safetensors of NemotronHForCausalLM or ArceeForCausalLM')
    .argument('[overrides...]', 'key=value, keys dotted as in a config')
    .option('--run <directory>', 'run directory to make; default: runs/<name>-NNN')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
The model's shape comes from config.json, the tokenizer from tokenizer.json. The rest has these defaults: steps=1000, recipe=nvfp4, data.batch=8, data.micro_batch=1,
optimizer.lr=1e-4, data.sequence=max_position_embeddings or 1024 if that is less; override what does not suit.
Exported again in the dtype that they had, the tensors are the same bytes.

Examples:
  halfbyte import tiny-hf --run runs/again data.files=books/ steps=5000 optimizer.lr=3e-4
  halfbyte resume runs/again`,
    )
    .action(importFolder)
}
