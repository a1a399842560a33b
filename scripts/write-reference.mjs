// What scripts/verify_export.py and scripts/verify_packed.py compare an export with, computed by halfbyte itself:
//
//   node scripts/write-reference.mjs logits <run> <out.safetensors>
//     tokens i32[n] of a few sentences, and logits f32[n, vocab] without any rounding (recipe fp32)
//   node scripts/write-reference.mjs coded-logits <run> <out.safetensors>
//     the same with weights that are what the codes of training stand for
//   node scripts/write-reference.mjs images <run> <out.safetensors>
//     of every linear layer NAME whose forward pass reads a 4-bit weight: NAME.codes u8 and NAME.scales u8 as the kernels of the run's backend
//     make them, without padding; NAME.amax f32[2], with what it is divided by; NAME.values f32, what the codes stand for
//
// Wants a build ("npm run build"); HALFBYTE_DIST names one elsewhere than in dist/.
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const dist = process.env.HALFBYTE_DIST ?? join(dirname(fileURLToPath(import.meta.url)), '..', 'dist')
const load = path => import(pathToFileURL(resolve(dist, 'src', path)).href)
const [{ openWeights }, { useWeights }, { findRecipe }, { Tensor }, { writeSafetensors }] = await Promise.all(
  ['cli/session.js', 'model/weights.js', 'recipes/recipes.js', 'tensor/tensor.js', 'tensor/safetensors.js'].map(load),
)

function logits({ trainer, backend, corpus, config }) {
  const text =
    'The captain of the ship saw a whale in 1851. My fellow citizens, it was as white as the snow of a mountain: '
  const { tokenizer } = corpus
  const length = Math.min(config.data.sequence, 96)
  const tokens = Int32Array.from([tokenizer.separator, ...tokenizer.encode(text.repeat(length))].slice(0, length))
  const upload = data => new Tensor(backend, backend.alloc(data.byteLength), 0, 'i32', [length]).write(data)
  const values = trainer.model.logits(upload(tokens), upload(new Int32Array(length)), length, findRecipe('fp32'))
  return {
    tokens: { dtype: 'I32', shape: [length], data: tokens },
    logits: { dtype: 'F32', shape: [length, config.model.vocab], data: values },
  }
}

function images({ trainer }) {
  const { tape, linears } = trainer.model
  const tensors = {}
  tape.recording = false
  for (const linear of linears) {
    if (typeof linear.recipe.fprop.b !== 'object') continue
    const [rows, cols] = linear.weight.shape
    tape.scope(() => {
      const { codes, scales, amax, bound } = linear.forwardImages(tape).row
      if (codes.shape[1] !== cols / 2) return
      const add = (name, dtype, shape, data) => {
        tensors[`${linear.name}.${name}`] = { dtype, shape, data }
      }
      for (const [name, tensor] of Object.entries({ codes, scales }))
        add(name, 'U8', [rows, tensor.shape[1]], tensor.read().slice(0, rows * tensor.shape[1]))
      add(
        'values',
        'F32',
        [rows, cols],
        linear
          .forwardValues(tape)
          .floats()
          .slice(0, rows * cols),
      )
      add('amax', 'F32', [2], Float32Array.of(amax.floats()[0], bound))
    })
  }
  return tensors
}

function codedLogits(opened) {
  useWeights(opened.trainer.model, 'codes')
  return logits(opened)
}

const kinds = { logits, 'coded-logits': codedLogits, images }
const [kind, run, out] = process.argv.slice(2)
if (!Object.hasOwn(kinds, kind ?? '') || out === undefined) {
  console.error('usage: node scripts/write-reference.mjs logits|coded-logits|images <run> <out.safetensors>')
  process.exit(2)
}
const opened = await openWeights(run)
writeSafetensors(out, kinds[kind](opened))
opened.backend.close()
