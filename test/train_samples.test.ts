import assert from 'node:assert/strict'
import { it } from 'node:test'
import { isSampled, sampledEvery } from '../src/train/numerics.ts'
import { openTrainer, smallConfig, testFolder } from './training.ts'

const folder = testFolder()

it('samples of quantisation look at other lines each time: at all of 128 rows in eight samples', async () => {
  const steps = 1200
  const trainer = await openTrainer(smallConfig(folder, `steps=${steps}`, 'model.hidden=128', 'model.pattern=-*'))
  const { model } = trainer
  const read = new Set<number>()
  const watch = model.watch.bind(model)
  model.watch = callback =>
    watch(
      callback &&
        (made => {
          if (made.role !== 'wRows' || !made.linear.endsWith('down_proj')) return
          const { image } = made
          const codes = new Proxy(image.codes, {
            get: (tensor, key) =>
              key === 'part'
                ? (offset: number, shape: number[]) => {
                    read.add(offset / shape[1]!)
                    return tensor.part(offset, shape)
                  }
                : Reflect.get(tensor, key, tensor),
          })
          callback({ ...made, image: { ...image, codes } })
        }),
    )
  for (let step = 1; step <= 8 * sampledEvery(steps); step++)
    if (isSampled(step, steps)) trainer.begin(step - 1, true)()
  model.backend.close()
  assert.deepEqual(
    [...read].sort((a, b) => a - b),
    [0, 16, 32, 48, 64, 80, 96, 112],
  )
})
