import { readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { contractsHeader } from '../../tensor/contracts.ts'
import type { Activation } from '../../tensor/dtype.ts'
import type { Kernel } from '../../tensor/kernel.ts'
import type { CompiledCache } from './cache.ts'
import type { Driver } from './driver.ts'
import { compileOptions, type Nvrtc, type Source } from './nvrtc.ts'

/** The .cu files, compiled when a kernel of theirs first runs and kept as loaded modules. */

/** `EXPORT_CUDA(name)` and its kin, also with `_ENTRY(name, entry, threads)` (src/kernels/shared/cuda.h). */
const exported = /^EXPORT_CUDA(?:_ACT|_F32|_BF16)?(?:\(\s*(\w+)\s*\)|_ENTRY\(\s*(\w+)\s*,\s*(\w+)\s*,)/gm

const entryName = (kernel: string, entry: string): string => (entry ? `${kernel}_${entry}` : kernel)

/** Entry points of a .cu file, as `kernel` or `kernel_entry`. */
export const entriesOf = (text: string): string[] =>
  [...text.matchAll(exported)].map(([, plain, kernel, entry]) => plain ?? entryName(kernel!, entry!))

/** Every .cu file of a folder of kernels, with the headers that it may include. */
export function cudaSources(directory: string, kernels: readonly Kernel[]): Source[] {
  const files = readdirSync(directory, { recursive: true, encoding: 'utf8' }).sort()
  const headers = new Map(
    files
      .filter(file => file.endsWith('.h'))
      .map(file => [basename(file), readFileSync(join(directory, file), 'utf8')] as const),
  )
  headers.set('contracts.h', contractsHeader(kernels))
  return files
    .filter(file => file.endsWith('.cu'))
    .map(file => ({ name: file.replaceAll('\\', '/'), text: readFileSync(join(directory, file), 'utf8'), headers }))
}

/** The headers that a source includes, directly or through others. */
function included({ text, headers }: Source): Map<string, string> {
  const found = new Map<string, string>()
  const visit = (body: string) => {
    for (const [, name] of body.matchAll(/^\s*#include "(\w+\.h)"/gm)) {
      const header = headers.get(name!)
      if (header === undefined || found.has(name!)) continue
      found.set(name!, header)
      visit(header)
    }
  }
  visit(text)
  return found
}

/** Machine code of a .cu file for one dtype of activations, from the cache or compiled now. */
export function compileSource(
  source: Source,
  nvrtc: Nvrtc,
  cache: CompiledCache,
  architecture: string,
  act: Activation,
  report: (message: string) => void,
): Uint8Array {
  const headers = included(source)
  const options = compileOptions(architecture, act)
  const parts = [`nvrtc ${nvrtc.version}`, ...options, source.name, source.text, ...[...headers].flat()]
  return cache.get(parts, () => {
    report(`compiling ${source.name} for the GPU ...`)
    return nvrtc.compile({ ...source, headers }, options)
  })
}

export class Modules {
  readonly #driver: Driver
  readonly #nvrtc: Nvrtc
  readonly #cache: CompiledCache
  readonly #architecture: string
  readonly #files = new Map<string, Source>()
  /** By dtype of activations. */
  readonly #loaded = { f32: new Map<Source, bigint>(), bf16: new Map<Source, bigint>() }
  readonly #report: (message: string) => void

  constructor(
    driver: Driver,
    nvrtc: Nvrtc,
    cache: CompiledCache,
    architecture: string,
    sources: readonly Source[],
    report: (message: string) => void,
  ) {
    this.#driver = driver
    this.#nvrtc = nvrtc
    this.#cache = cache
    this.#architecture = architecture
    this.#report = report
    for (const source of sources) for (const entry of entriesOf(source.text)) this.#files.set(entry, source)
  }

  #load(source: Source, act: Activation): bigint {
    const known = this.#loaded[act].get(source)
    if (known !== undefined) return known
    const image = compileSource(source, this.#nvrtc, this.#cache, this.#architecture, act, this.#report)
    const module = this.#driver.loadModule(image, `${source.name}, compiled for ${this.#architecture}`)
    this.#loaded[act].set(source, module)
    return module
  }

  /**
   * The function of an entry point; `symbol` is the kernel's, with the dtype of activations where it has one.
   * @throws Error naming the kernel that has no CUDA source.
   */
  find(kernel: string, symbol: string, entry: string, act: Activation): bigint {
    const source = this.#files.get(entryName(kernel, entry))
    if (!source) throw new Error(`the cuda backend has no kernel ${entryName(kernel, entry)}: no .cu file exports it`)
    const wanted = entryName(symbol, entry)
    const fn = this.#driver.findFunction(this.#load(source, act), wanted)
    if (fn === undefined)
      throw new Error(`${source.name} exports ${entryName(kernel, entry)} but has no function ${wanted}`)
    return fn
  }

  close(): void {
    for (const modules of Object.values(this.#loaded)) {
      for (const module of modules.values()) this.#driver.call('cuModuleUnload', module)
      modules.clear()
    }
  }
}
