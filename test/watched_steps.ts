import type { Kernel } from '../src/tensor/kernel.ts'
import type { Tensor } from '../src/tensor/tensor.ts'
import type { Trainer } from '../src/train/trainer.ts'
import { openTrainer, smallConfig } from './training.ts'

type Given = Readonly<Record<string, Tensor | undefined>>

/**
 * What three steps with validation in between compute.
 * @param watch is shown every kernel that runs, with what it is given.
 * @param before is called before each step.
 */
export async function watchedSteps(
  folder: string,
  overrides: readonly string[],
  watch: (kernel: Kernel, given: Given) => void,
  before: (step: number, trainer: Trainer) => void = () => {},
): Promise<{ losses: number[]; weights: Float32Array }> {
  const trainer = await openTrainer(smallConfig(folder, 'model.pattern=-*', ...overrides))
  const { backend, parameters } = trainer.model
  const { run } = backend
  backend.run = ((kernel: Kernel, given: Given) => {
    watch(kernel, given)
    run.call(backend, kernel, given as never)
  }) as unknown as typeof run
  const losses: number[] = []
  for (let step = 0; step < 3; step++) {
    before(step, trainer)
    losses.push(trainer.step(step).loss, trainer.validate().loss)
  }
  const weights = parameters.value.floats()
  backend.close()
  return { losses, weights }
}
