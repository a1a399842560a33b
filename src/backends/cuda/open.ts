import { join } from 'node:path'
import type { Kernel } from '../../tensor/kernel.ts'
import { cacheDirectory } from '../native.ts'
import { CudaBackend } from './backend.ts'
import { CompiledCache } from './cache.ts'
import { CublasLt } from './cublaslt.ts'
import { Driver } from './driver.ts'
import { libraryDirectories } from './libraries.ts'
import { cudaSources, Modules } from './modules.ts'
import { architectureOf, Nvrtc } from './nvrtc.ts'

export interface CudaOptions {
  /** A folder with NVIDIA's libraries, searched before the usual places. */
  readonly libraries?: string | undefined
  readonly report: (message: string) => void
  /** Whether steps are recorded and replayed; default: they are. */
  readonly graphs?: boolean | undefined
  /** Folder to keep compiled kernels in; default: that of the native kernels. */
  readonly cache?: string
}

/** @throws UnavailableError naming the driver, GPU or library that is missing or too old. */
export function openCuda(kernels: readonly Kernel[], root: string, options: CudaOptions): CudaBackend {
  const { libraries, report, graphs = true, cache = cacheDirectory(root) } = options
  const directories = [...(libraries ? [libraries] : []), ...libraryDirectories()]
  const driver = new Driver(directories)
  try {
    const driverMajor = Math.floor(driver.version / 1000)
    const { capability, name } = driver.device
    const nvrtc = new Nvrtc(directories, driverMajor, capability)
    const cublasLt = new CublasLt(directories, driverMajor, name)
    const sources = cudaSources(join(root, 'src', 'kernels'), kernels)
    const modules = new Modules(driver, nvrtc, new CompiledCache(cache), architectureOf(capability), sources, report)
    return new CudaBackend({ driver, nvrtc, cublasLt, modules, graphs })
  } catch (error) {
    if (!driver.failed) driver.close()
    throw error
  }
}
