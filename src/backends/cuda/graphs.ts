import type { Memory } from '../../tensor/backend.ts'
import { RouteCounter } from '../../tensor/routes.ts'
import type { Driver } from './driver.ts'

/** What is launched, for whoever must know of it later. */
export class Launched {
  readonly kernels = new Set<string>()
  readonly routes = new RouteCounter()
  readonly memories = new Set<Memory>()
}

interface Graph extends Launched {
  readonly executable: bigint
}

/** Calls that are "potentially unsafe" while a stream is captured, such as allocations, are let through: none of ours touches the stream. */
const RELAXED = 2

/**
 * Work that is recorded once and replayed. The first call of a key runs kernel by kernel: modules are loaded, memory is taken, algorithms are
 * chosen. The second is recorded as a CUDA graph, with the addresses that its tensors have then; it and all later ones are replayed. A graph
 * whose memory is freed is forgotten, and its key begins anew.
 */
export class Graphs {
  readonly #driver: Driver
  readonly #graphs = new Map<string, Graph>()
  readonly #seen = new Set<string>()
  #recording: Launched | undefined

  constructor(driver: Driver) {
    this.#driver = driver
  }

  /** What is being recorded. */
  get recording(): Launched | undefined {
    return this.#recording
  }

  /** Returns what was replayed, or undefined where `body` ran kernel by kernel. */
  run(key: string, body: () => void): Launched | undefined {
    if (this.#recording) throw new Error(`${key} cannot be recorded within another recording`)
    let graph = this.#graphs.get(key)
    if (!graph) {
      if (!this.#seen.has(key)) {
        body()
        this.#seen.add(key)
        return undefined
      }
      graph = this.#record(body)
      this.#graphs.set(key, graph)
    }
    this.#driver.call('cuGraphLaunch', graph.executable, this.#driver.stream)
    return graph
  }

  #record(body: () => void): Graph {
    const driver = this.#driver
    const recording = new Launched()
    driver.call('cuStreamBeginCapture_v2', driver.stream, RELAXED)
    this.#recording = recording
    let graph: bigint
    try {
      body()
    } catch (error) {
      this.#recording = undefined
      try {
        driver.call('cuGraphDestroy', driver.endCapture())
      } catch {}
      throw error
    }
    this.#recording = undefined
    graph = driver.endCapture()
    try {
      return Object.assign(recording, { executable: driver.instantiate(graph) })
    } finally {
      driver.call('cuGraphDestroy', graph)
    }
  }

  /** Forgets the graphs that use `memory`, which is about to be freed. */
  forget(memory: Memory): void {
    if (this.#recording?.memories.has(memory)) throw new Error('a recorded step cannot free memory that it uses')
    for (const [key, graph] of this.#graphs) {
      if (!graph.memories.has(memory)) continue
      this.#driver.call('cuGraphExecDestroy', graph.executable)
      this.#graphs.delete(key)
      this.#seen.delete(key)
    }
  }

  close(): void {
    for (const { executable } of this.#graphs.values()) this.#driver.call('cuGraphExecDestroy', executable)
    this.#graphs.clear()
  }
}
