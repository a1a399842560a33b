// Compares what llama.cpp computes from a GGUF file with halfbyte's own probabilities of the next token:
//
//   npm install --no-save node-llama-cpp                         llama.cpp, built, for node
//   npx halfbyte export <run> --to gguf --out <file.gguf>
//   node scripts/write-reference.mjs coded-logits <run> <logits.safetensors>        logits for --to gguf-float
//   node scripts/verify_gguf.mjs <file.gguf> <logits.safetensors>
//
// Prints the largest difference of a probability, the mean Kullback-Leibler divergence in nats, and how often both have the same best token; exits
// with 1 where the divergence is above 0.01. llama.cpp keeps keys and values in FP16 and rounds inputs of quantised layers to 8 bits.
// HALFBYTE_DIST names a build elsewhere than in dist/, NODE_LLAMA_CPP the package elsewhere than in node_modules/.
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const [path, reference] = process.argv.slice(2)
if (reference === undefined) {
  console.error('usage: node scripts/verify_gguf.mjs <file.gguf> <logits.safetensors>')
  process.exit(2)
}
const { getLlama, LlamaLogLevel } = await import(process.env.NODE_LLAMA_CPP ?? 'node-llama-cpp')
const dist = process.env.HALFBYTE_DIST ?? join(dirname(fileURLToPath(import.meta.url)), '..', 'dist')
const { floatsOf, openSafetensors } = await import(pathToFileURL(resolve(dist, 'src', 'tensor', 'safetensors.js')).href)

const file = openSafetensors(reference)
const tokens = [...new Int32Array(file.read('tokens').data.slice().buffer)]
const logits = floatsOf(file.read('logits'))
const vocab = logits.length / tokens.length

const llama = await getLlama({
  gpu: false,
  build: 'never',
  progressLogs: false,
  logLevel: LlamaLogLevel.error,
  maxThreads: 1,
})
const model = await llama.loadModel({ modelPath: path })
const context = await model.createContext({ contextSize: 256, threads: 1 })
const wanted = { generateNext: { probabilities: true } }
const results = await context.getSequence().controlledEvaluate(tokens.map(token => [token, wanted]))

let difference = 0
let divergence = 0
let same = 0
for (const [i, { next }] of results.entries()) {
  const row = logits.subarray(i * vocab, (i + 1) * vocab)
  const most = row.reduce((a, b) => Math.max(a, b))
  const total = row.reduce((sum, v) => sum + Math.exp(v - most), 0)
  const theirs = new Float64Array(vocab)
  for (const [token, probability] of next.probabilities) theirs[token] = probability
  for (const [token, v] of row.entries()) {
    const own = Math.exp(v - most) / total
    // Not a number stays so, and fails.
    difference = Math.max(difference, Math.abs(own - theirs[token]))
    if (own > 1e-12) divergence += own * Math.log(own / Math.max(theirs[token], 1e-12))
  }
  if (row.indexOf(most) === theirs.indexOf(theirs.reduce((a, b) => Math.max(a, b)))) same++
}
const report = {
  llama_cpp: llama.llamaCppRelease?.release ?? 'unknown',
  tokens: tokens.length,
  largest_difference: difference,
  mean_divergence: divergence / tokens.length,
  same_best_token: same / tokens.length,
}
console.log(JSON.stringify(report))
process.exit(report.mean_divergence <= 0.01 ? 0 : 1)
