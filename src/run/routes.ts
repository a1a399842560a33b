import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { UserError } from '../config/errors.ts'
import type { Routes } from '../tensor/routes.ts'
import { replaceFile } from './files.ts'
import { names } from './layout.ts'

/** What served the products of every step from `from` on, until another entry of the same phase and device. */
export interface RoutesEntry {
  /** Counted from 1. */
  readonly from: number
  /** The first step of the recipe's phase, from 0. */
  readonly phase: number
  readonly device: Readonly<Record<string, string | number>>
  /** Of one step. */
  readonly products: Routes
}

/** @throws UserError if the file is no list of entries. */
export function readRoutes(directory: string): RoutesEntry[] {
  const path = join(directory, names.routes)
  if (!existsSync(path)) return []
  try {
    const entries = JSON.parse(readFileSync(path, 'utf8')) as RoutesEntry[]
    if (Array.isArray(entries) && entries.every(({ from, phase }) => Number.isInteger(from) && Number.isInteger(phase)))
      return entries
  } catch {}
  throw new UserError(`${path}: found no list of routes; delete it to have it written anew`)
}

function firstDifference(before: Routes, now: Routes): string {
  const text = (routes: Routes[string] | undefined): string =>
    Object.entries(routes ?? {})
      .map(([route, times]) => `${times} x ${route}`)
      .join(' and ') || 'nothing'
  for (const product of new Set([...Object.keys(before), ...Object.keys(now)]))
    if (!isDeepStrictEqual(before[product], now[product]))
      return `${product} was served by ${text(before[product])}, now by ${text(now[product])}`
  return 'no product'
}

/** Sees to it that the products of a run are served alike in all steps of a phase, because another algorithm sums in another order. */
export class RouteLog {
  readonly #directory: string
  readonly #device: RoutesEntry['device']
  #entries: RoutesEntry[]
  #last: { readonly phase: number; readonly text: string } | undefined

  /** @param step steps done; what is on record of later ones is dropped. */
  constructor(directory: string, device: RoutesEntry['device'], step: number) {
    this.#directory = directory
    this.#device = device
    this.#entries = readRoutes(directory).filter(({ from }) => from <= step)
  }

  /** @throws UserError naming a product that is not served as in the phase's steps before. */
  check(step: number, phase: number, products: Routes): void {
    const text = JSON.stringify(products)
    if (this.#last?.phase === phase && this.#last.text === text) return
    const before = this.#entries.findLast(
      entry => entry.phase === phase && isDeepStrictEqual(entry.device, this.#device),
    )
    if (before && !isDeepStrictEqual(before.products, products))
      throw new UserError(
        `training stopped at step ${step}: ${firstDifference(before.products, products)}, which may change sums in their last bits; to go on with it, delete ${join(this.#directory, names.routes)}`,
      )
    this.#last = { phase, text }
    if (before) return
    this.#entries = [...this.#entries, { from: step, phase, device: this.#device, products }]
    replaceFile(join(this.#directory, names.routes), `${JSON.stringify(this.#entries, undefined, 2)}\n`)
  }
}
