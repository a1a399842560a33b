// Compiles every .cu for every GPU architecture that halfbyte names, where nvcc is installed; nothing is run. Needs dist/.
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const architectures = ['80', '90a', '100a', '120a']
const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const folder = join(root, 'src', 'kernels')
const sources = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  .filter(name => name.endsWith('.cu'))
  .sort()

if (sources.length === 0) {
  console.log('CUDA compile check: there are no .cu files')
  process.exit(0)
}
if (spawnSync('nvcc', ['--version']).status !== 0) {
  console.log(`CUDA compile check: SKIPPED, nvcc is not installed (${sources.length} .cu files not checked)`)
  process.exit(0)
}

const load = path => import(pathToFileURL(join(root, 'dist', 'src', path)).href)
const [{ contractsHeader }, { kernels }] = await Promise.all([load('tensor/contracts.js'), load('kernels/index.js')])
const work = mkdtempSync(join(tmpdir(), 'halfbyte-cuda-'))
writeFileSync(join(work, 'contracts.h'), contractsHeader(kernels))

const targets = architectures.flatMap(name => ['-gencode', `arch=compute_${name},code=sm_${name}`])
const flags = ['-std=c++17', '-fmad=false', '-I', work, '-I', join(folder, 'shared'), ...targets]
const compile = (source, object) =>
  new Promise(resolve => {
    const child = spawn('nvcc', [...flags, '-c', join(folder, source), '-o', object])
    let output = ''
    child.stdout.on('data', chunk => (output += chunk))
    child.stderr.on('data', chunk => (output += chunk))
    child.on('close', code => resolve({ source, output, ok: code === 0 }))
  })

const queue = sources.map((source, i) => [source, join(work, `${i}.o`)])
let failed = 0
const worker = async () => {
  for (let job = queue.shift(); job; job = queue.shift()) {
    const { source, output, ok } = await compile(...job)
    if (!ok) failed++
    if (output.trim()) console.log(`${source}:\n${output.trim()}`)
  }
}
try {
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
} finally {
  rmSync(work, { recursive: true, force: true })
}
const names = architectures.map(name => `sm_${name}`).join(', ')
console.log(`CUDA compile check for ${names}: ${sources.length - failed} of ${sources.length} .cu files compile`)
process.exit(failed === 0 ? 0 : 1)
