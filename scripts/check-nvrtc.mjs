// Compiles every .cu with NVRTC as a run does, for both dtypes of activations; needs dist/ and the library, no GPU. NVRTC refuses some of what nvcc
// takes, such as functions without __device__. node scripts/check-nvrtc.mjs [folder of libnvrtc] [part of a file's name] [sm_80,sm_120a; default sm_90a]
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const load = path => import(pathToFileURL(join(root, 'dist', 'src', path)).href)
const [{ libraryDirectories }, { cudaSources }, { compileOptions, Nvrtc }, { kernels }] = await Promise.all([
  load('backends/cuda/libraries.js'),
  load('backends/cuda/modules.js'),
  load('backends/cuda/nvrtc.js'),
  load('kernels/index.js'),
])
const [folder, part = '', names = 'sm_90a'] = process.argv.slice(2)
const architectures = names.split(',')
const stop = message => {
  console.error(message)
  process.exit(1)
}
const open = () => {
  try {
    return new Nvrtc(folder ? [folder] : libraryDirectories())
  } catch (error) {
    return stop(error.message)
  }
}
const nvrtc = open()
let failed = 0
const sources = cudaSources(join(root, 'src', 'kernels'), kernels).filter(({ name }) => name.includes(part))
if (sources.length === 0) stop(`no .cu has "${part}" in its name`)
const wanted = architectures.flatMap(name => ['f32', 'bf16'].map(act => compileOptions(name, act)))
for (const source of sources)
  for (const options of wanted)
    try {
      nvrtc.compile(source, options)
    } catch (error) {
      failed++
      console.log(error.message.split('\n').slice(0, 6).join('\n'))
    }
const count = sources.length * wanted.length
console.log(`NVRTC ${nvrtc.version / 1000} for ${architectures.join(', ')}: ${count - failed} of ${count} compile`)
process.exit(failed === 0 ? 0 : 1)
