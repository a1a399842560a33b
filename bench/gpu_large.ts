import { spawnSync } from 'node:child_process'
import { presets } from '../presets/index.ts'
import { loadConfig } from '../src/config/load.ts'
import { recipeOf } from '../src/config/rules.ts'
import { openCorpus } from '../src/data/corpus.ts'
import { describeModel } from '../src/model/describe.ts'
import { Trainer } from '../src/train/trainer.ts'
import type { Open } from './gpu_training.ts'

/** Whether a model that nearly fills a GPU makes a step on it, how fast, and in how much memory. */

/** Of the whole card, as NVIDIA's own tool counts it. */
function cardMemory(): string {
  const query = ['--query-gpu=memory.used,memory.total', '--format=csv,noheader']
  const { stdout } = spawnSync('nvidia-smi', query, { encoding: 'utf8' })
  return stdout?.split('\n')[0]?.replace(',', ' of') || 'unknown'
}

export async function stepLarge(
  preset: string,
  recipes: readonly string[],
  steps: number,
  overrides: readonly string[],
  open: Open,
): Promise<number> {
  for (const recipe of recipes) {
    const settings = [`recipe=${recipe}`, 'backend=cuda', 'data.batch=1', ...overrides]
    const config = loadConfig(preset, settings, presets)
    const { model, data } = config
    const backend = await open('cuda')
    const trainer = new Trainer(config, backend, openCorpus(data.files, data.tokenizer, data), { empty: true })
    const begin = performance.now()
    await trainer.initialise()
    const drawing = (performance.now() - begin) / 1000
    const { flops, parameters } = describeModel(model, recipeOf(config), data.sequence)
    process.stdout.write(
      `${preset}, ${recipe}: ${parameters.toLocaleString('en')} weights, drawn in ${drawing.toFixed(1)} s\n`,
    )
    for (let step = 0; step < steps; step++) {
      const start = performance.now()
      const { loss, norm, updated } = trainer.step(step)
      const seconds = (performance.now() - start) / 1000
      const rate = (flops.total * trainer.tokensPerStep) / seconds / 1e12
      process.stdout.write(
        `  step ${step + 1}: loss ${loss.toFixed(4)}, gradient norm ${norm.toFixed(3)}, weights ${updated ? 'moved' : 'DID NOT MOVE'}; ${(seconds * 1000).toFixed(0)} ms, ${Math.round(trainer.tokensPerStep / seconds)} tokens/s, ${rate.toFixed(1)} model TFLOP/s\n`,
      )
    }
    process.stdout.write(
      `  ${(backend.usage.bytes / 2 ** 30).toFixed(2)} GiB allocated; ${cardMemory()} used on the card\n`,
    )
    backend.close()
  }
  return 0
}
