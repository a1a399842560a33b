import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Backend } from '../tensor/backend.ts'
import type { Kernel } from '../tensor/kernel.ts'
import { usableProcessors } from '../tensor/processors.ts'
import { cpuBackend } from './cpu.ts'
import { openCuda } from './cuda/open.ts'
import { UnavailableError } from './errors.ts'
import { chooseLevel } from './levels.ts'
import { buildNative } from './native.ts'
import { referenceBackend } from './reference.ts'

export interface BackendOptions {
  /** CPU threads; default: as many as this process may use of the machine's. */
  threads?: number
  /** Instruction level of the cpu backend; default: the best this processor has. */
  level?: string
  /** A folder with NVIDIA's libraries for the cuda backend, searched before the usual places. */
  libraries?: string
  /** Whether the cuda backend records steps and replays them, which changes no number; default: it does. */
  graphs?: boolean
  /** Receives progress lines, such as that kernels are being built; default: nothing. */
  report?: (message: string) => void
}

/** The folder of this package, found by its package.json. */
export function packageRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(directory, 'package.json'))) directory = dirname(directory)
  return directory
}

interface Kind {
  open(kernels: readonly Kernel[], options: BackendOptions): Promise<Backend> | Backend
  /** `Backend.panelColumns`, before it is open. */
  panelColumns?(level: string | undefined): number | undefined
}

/** Every backend by name. */
export const backends: Readonly<Record<string, Kind>> = {
  reference: { open: () => referenceBackend() },
  cpu: {
    async open(kernels, { threads = usableProcessors(), level, report = () => {} }) {
      const chosen = chooseLevel(level)
      const root = packageRoot()
      const library = await buildNative(kernels, join(root, 'src', 'kernels'), root, chosen, report)
      return cpuBackend(library, chosen, threads)
    },
    panelColumns: level => chooseLevel(level).panelColumns,
  },
  cuda: {
    open: (kernels, { libraries, graphs, report = () => {} }) =>
      openCuda(kernels, packageRoot(), { libraries, graphs, report }),
  },
}

/** @throws UnavailableError naming what is missing: an unknown backend, no compiler, an instruction level this processor lacks. */
export async function openBackend(
  name: string,
  kernels: readonly Kernel[],
  options: BackendOptions = {},
): Promise<Backend> {
  const kind = backends[name]
  if (!kind) throw new UnavailableError(`backend "${name}" is unknown; use one of ${Object.keys(backends).join(', ')}`)
  return kind.open(kernels, options)
}
