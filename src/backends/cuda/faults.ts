import { UnavailableError } from '../errors.ts'
import type { DriverError } from './driver.ts'

/** What the driver's errors mean to someone who trains a model. */

/** The GPU, or the way to it, is gone for this process; what it computed since the last checkpoint is lost. */
const losses: Readonly<Record<number, string>> = {
  46: 'is in use by a process that allows no other, or not usable now; see what runs on it with nvidia-smi',
  101: 'is not there any more; see nvidia-smi',
  214: 'has an error in its memory that it could not correct; nvidia-smi -q -d ECC tells more',
  220: 'lost its NVLink; nvidia-smi nvlink --status tells more',
  226: "met an error of its hardware that it contained; nvidia-smi -q and the system's log tell more",
  304: "was lost: the operating system refused the driver's call; see the system's log",
  810: 'was taken from this process by the MPS server; see its log',
  999: 'was lost; the system\'s log (dmesg, lines with "Xid") says why',
}

/** A kernel did what it must not; nothing more can be computed by this process. */
const faults = new Set([700, 702, 710, 714, 715, 716, 717, 718, 719])

/** Whether nothing more can be asked of the driver after the error, not even to free memory. */
export const isFatal = ({ code }: DriverError): boolean => code in losses || faults.has(code)

/** A sentence for a GPU that is gone; undefined if the error does not say so. */
export function lossError({ code, message }: DriverError, device: string): UnavailableError | undefined {
  const meaning = losses[code]
  return meaning === undefined ? undefined : new UnavailableError(`the GPU ${device} ${meaning} (${message})`)
}

/**
 * Names the kernels that were under way when one of them faulted: it shows only when somebody waits, or at the next launch.
 * @param kernels since the last wait, those of replayed graphs included.
 */
export function faultError(error: DriverError, kernels: Iterable<string>): Error {
  if (!faults.has(error.code)) return error
  const names = [...new Set(kernels)]
  if (names.length === 0) return error
  if (names.length === 1) return new Error(`kernel ${names[0]} faulted: ${error.message}`)
  const some = names.length > 6 ? `${names.slice(0, 5).join(', ')} and ${names.length - 5} others` : names.join(', ')
  return new Error(
    `one of the kernels ${some} faulted: ${error.message}; with --profile they are waited for one by one, which names it`,
  )
}
