/**
 * Which code served products: by kernel and sizes (`gemm_nvfp4 m=2048 n=1024 blocks=64`), by route (`gemm_nvfp4_expand_a, ..., cuBLASLt bf16
 * algorithm 66 ...`), how many times.
 */
export type Routes = Readonly<Record<string, Readonly<Record<string, number>>>>

export class RouteCounter {
  readonly #counts = new Map<string, Map<string, number>>()

  count(product: string, route: string, times = 1): void {
    let routes = this.#counts.get(product)
    if (!routes) {
      routes = new Map()
      this.#counts.set(product, routes)
    }
    routes.set(route, (routes.get(route) ?? 0) + times)
  }

  /** Counts all that `other` has. */
  add(other: RouteCounter): void {
    for (const [product, routes] of other.#counts)
      for (const [route, times] of routes) this.count(product, route, times)
  }

  /** All counts, sorted by name; counting begins anew. */
  take(): Routes {
    const sorted = <T>(map: ReadonlyMap<string, T>) => [...map].sort(([a], [b]) => (a < b ? -1 : 1))
    const routes = Object.fromEntries(
      sorted(this.#counts).map(([product, counts]) => [product, Object.fromEntries(sorted(counts))]),
    )
    this.#counts.clear()
    return routes
  }
}
