// Compiles every .cu with NVRTC as a run does, for sm_90a and both dtypes of activations; needs dist/ and the library, no GPU. NVRTC refuses some of
// what nvcc takes, such as functions without __device__. node scripts/check-nvrtc.mjs [folder of libnvrtc] [part of a file's name]
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const load = path => import(pathToFileURL(join(root, 'dist', 'src', path)).href)
const [{ cudaSources }, { compileOptions, Nvrtc }, { kernels }] = await Promise.all([
  load('backends/cuda/modules.js'),
  load('backends/cuda/nvrtc.js'),
  load('kernels/index.js'),
])
const [folder, part = ''] = process.argv.slice(2)
const nvrtc = new Nvrtc(folder ? [folder] : [])
let failed = 0
const sources = cudaSources(join(root, 'src', 'kernels'), kernels).filter(({ name }) => name.includes(part))
for (const source of sources)
  for (const act of ['f32', 'bf16'])
    try {
      nvrtc.compile(source, compileOptions('sm_90a', act))
    } catch (error) {
      failed++
      console.log(error.message.split('\n').slice(0, 6).join('\n'))
    }
console.log(`NVRTC ${nvrtc.version / 1000}: ${2 * sources.length - failed} of ${2 * sources.length} compile`)
process.exit(failed === 0 ? 0 : 1)
