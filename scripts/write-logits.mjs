// Logits of a run's model without any rounding (recipe fp32), for scripts/verify_export.py:
//
//   node scripts/write-logits.mjs <run> <out.safetensors>
//
// writes tokens i32[n] of a few sentences and logits f32[n, vocab]. Wants a build ("npm run build");
// HALFBYTE_DIST names one elsewhere than in dist/.
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const [run, out] = process.argv.slice(2)
if (out === undefined) {
  console.error('usage: node scripts/write-logits.mjs <run> <out.safetensors>')
  process.exit(2)
}
const dist = process.env.HALFBYTE_DIST ?? join(dirname(fileURLToPath(import.meta.url)), '..', 'dist')
const load = path => import(pathToFileURL(resolve(dist, 'src', path)).href)
const [{ openWeights }, { findRecipe }, { Tensor }, { writeSafetensors }] = await Promise.all(
  ['cli/session.js', 'recipes/recipes.js', 'tensor/tensor.js', 'tensor/safetensors.js'].map(load),
)

const { trainer, backend, corpus, config } = await openWeights(run)
const text =
  'The captain of the ship saw a whale in 1851. My fellow citizens, it was as white as the snow of a mountain: '
const { tokenizer } = corpus
const length = Math.min(config.data.sequence, 96)
const tokens = Int32Array.from([tokenizer.separator, ...tokenizer.encode(text.repeat(length))].slice(0, length))
const upload = data => new Tensor(backend, backend.alloc(data.byteLength), 0, 'i32', [length]).write(data)
const logits = trainer.model.logits(upload(tokens), upload(new Int32Array(length)), length, findRecipe('fp32'))
writeSafetensors(out, {
  tokens: { dtype: 'I32', shape: [length], data: tokens },
  logits: { dtype: 'F32', shape: [length, config.model.vocab], data: logits },
})
backend.close()
