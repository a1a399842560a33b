// Weights of a run's linear layers as its forward pass reads them, for scripts/verify_packed.py:
//
//   node scripts/write-images.mjs <run> <out.safetensors>
//
// writes for every quantised layer NAME: NAME.codes u8 and NAME.scales u8 as the kernels of the run's backend make them, without padding,
// NAME.amax f32[2] (with what it is divided by) and NAME.values f32, what the codes stand for. Wants a build; HALFBYTE_DIST names one elsewhere
// than in dist/.
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const [run, out] = process.argv.slice(2)
if (out === undefined) {
  console.error('usage: node scripts/write-images.mjs <run> <out.safetensors>')
  process.exit(2)
}
const dist = process.env.HALFBYTE_DIST ?? join(dirname(fileURLToPath(import.meta.url)), '..', 'dist')
const load = path => import(pathToFileURL(resolve(dist, 'src', path)).href)
const [{ openWeights }, { writeSafetensors }] = await Promise.all(['cli/session.js', 'tensor/safetensors.js'].map(load))

const { trainer, backend } = await openWeights(run)
const { tape, linears } = trainer.model
const tensors = {}
tape.recording = false
for (const linear of linears) {
  if (typeof linear.recipe.fprop.b !== 'object') continue
  const [rows, cols] = linear.weight.shape
  tape.scope(() => {
    const { codes, scales, amax, bound } = linear.forwardImages(tape).row
    const cut = tensor => tensor.read().slice(0, rows * tensor.shape[1])
    const add = (name, dtype, data) => {
      tensors[`${linear.name}.${name}`] = { dtype, shape: [rows, data.length / rows], data }
    }
    add('codes', 'U8', cut(codes))
    add('scales', 'U8', cut(scales))
    add(
      'values',
      'F32',
      linear
        .forwardValues(tape)
        .floats()
        .slice(0, rows * cols),
    )
    tensors[`${linear.name}.amax`] = { dtype: 'F32', shape: [2], data: Float32Array.of(amax.floats()[0], bound) }
  })
}
writeSafetensors(out, tensors)
backend.close()
