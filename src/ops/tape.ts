import { Arena } from '../tensor/arena.ts'
import type { Backend, Memory } from '../tensor/backend.ts'
import type { Activation, DType } from '../tensor/dtype.ts'
import type { Tensor } from '../tensor/tensor.ts'

/**
 * Reverse-mode differentiation over coarse ops.
 *
 * An op runs its kernels, then records how to go back and which tensors it will read then. Memory is counted by references: a
 * scope holds what is allocated in it, a record holds what its backward pass reads, a Var holds its gradient; the last to let go
 * frees. A model opens one scope per block, so temporaries of the forward pass die with their block.
 */

/** A matrix that its reader may make of another, element by element, as it loads it: arguments of kernels (src/kernels/shared/mapping.ts). */
export interface Mapped {
  /** [rows, cols]. */
  readonly x: Tensor
  /** f32[rows] and f32[cols]: x is normalised. */
  readonly inverse?: Tensor | undefined
  readonly w?: Tensor | undefined
  /** 1: the square of x where it is positive, else 0. */
  readonly squared: 0 | 1
}

/** How to make a value that is not made before it is asked for. */
interface Deferred {
  readonly dtype: DType
  readonly shape: readonly number[]
  value(): Tensor
  /** What to read instead of the value; absent: nothing but the value. */
  mapped?(): Mapped
}

/** An activation on the tape. Its gradient has the shape and dtype of `value`. */
export class Var {
  readonly dtype: DType
  readonly shape: readonly number[]
  /** Absent until the first contribution arrives. */
  gradient: Tensor | undefined
  #value: Tensor | undefined
  readonly #deferred: Deferred | undefined

  constructor(value: Tensor | Deferred) {
    this.dtype = value.dtype
    this.shape = value.shape
    if ('memory' in value) this.#value = value
    else this.#deferred = value
  }

  /** Made now if it is deferred and nobody has asked for it before. */
  get value(): Tensor {
    this.#value ??= this.#deferred!.value()
    return this.#value
  }

  /** What the value is made of, for kernels that make it themselves; of a value that exists, itself. */
  get mapped(): Mapped {
    const mapped = this.#value ? undefined : this.#deferred?.mapped?.()
    return mapped ?? { x: this.value, squared: 0 }
  }
}

/**
 * A trained tensor. `value`, `gradient` are FP32 views into flat buffers that outlive steps; gradients are added up over the
 * micro-batches of a step.
 */
export interface Parameter {
  /** Flat dotted name, as in a checkpoint: `backbone.layers.3.mixer.in_proj.weight`. */
  readonly name: string
  readonly shape: readonly number[]
  readonly value: Tensor
  readonly gradient: Tensor
}

interface Record {
  readonly output: Var
  readonly reads: readonly Tensor[]
  readonly backward: (gradient: Tensor) => void
}

export class Tape {
  readonly backend: Backend
  readonly arena: Arena
  readonly activations: Activation
  /** False while only values are wanted: nothing is recorded and nothing is kept. */
  recording = true
  #records: Record[] = []
  readonly #references = new Map<Memory, number>()
  readonly #scopes: Memory[][] = []

  constructor(backend: Backend, activations: Activation, arena = new Arena(backend)) {
    this.backend = backend
    this.activations = activations
    this.arena = arena
  }

  /** Memory that dies at the end of the innermost scope unless something else holds it. Contents are undefined. */
  readonly allocate = (dtype: DType | 'act', shape: readonly number[]): Tensor =>
    this.#allocateIn(this.#scopes.at(-1), dtype, shape)

  /** A Var of activations whose value is made by `write` when it is asked for, in memory of what is now the innermost scope. */
  defer(shape: readonly number[], write: (value: Tensor) => void, mapped: () => Mapped): Var {
    const scope = this.#scopes.at(-1)
    const value = () => {
      const tensor = this.#allocateIn(scope, 'act', shape)
      write(tensor)
      return tensor
    }
    return new Var({ dtype: this.activations, shape, value, mapped })
  }

  #allocateIn(scope: Memory[] | undefined, dtype: DType | 'act', shape: readonly number[]): Tensor {
    if (!scope || !this.#scopes.includes(scope)) throw new Error('the tape allocates only inside a scope')
    const tensor = this.arena.alloc(dtype === 'act' ? this.activations : dtype, shape)
    this.#references.set(tensor.memory, 1)
    scope.push(tensor.memory)
    return tensor
  }

  /**
   * Runs `body`; what it allocated is freed, also where it throws, unless recorded. A Var (or array of Vars) that it returns lives on in the
   * enclosing scope.
   */
  scope<T>(body: () => T): T {
    const owned: Memory[] = []
    this.#scopes.push(owned)
    const escaping = new Set<Memory>()
    try {
      const result = body()
      for (const value of Array.isArray(result) ? result : [result])
        if (value instanceof Var) escaping.add(value.value.memory)
      return result
    } finally {
      this.#scopes.pop()
      const parent = this.#scopes.at(-1)
      for (const memory of owned)
        if (parent && escaping.has(memory)) parent.push(memory)
        else this.#drop(memory)
    }
  }

  /**
   * Records one op. `backward` is called once with the gradient of `output`, inside a scope; it adds to the gradients of the
   * inputs and of parameters. `reads` are the tensors it will read: they are kept until then.
   */
  record(output: Var, reads: readonly Tensor[], backward: (gradient: Tensor) => void): void {
    if (!this.recording) return
    for (const tensor of reads) this.#hold(tensor.memory)
    this.#records.push({ output, reads, backward })
  }

  /** Lets go of the value of `v` before its scope ends, where only what is recorded will read it again. */
  release(v: Var): void {
    const { memory } = v.value
    for (const owned of this.#scopes) {
      const at = owned.lastIndexOf(memory)
      if (at < 0) continue
      owned.splice(at, 1)
      this.#drop(memory)
      return
    }
  }

  /**
   * Where the gradient of `v` is to be written: `accumulate` is 0 for the first contribution, which overwrites, and 1 for later
   * ones, which add. A shared gradient that somebody else has still to read is copied first.
   */
  gradientOf(v: Var): { tensor: Tensor; accumulate: 0 | 1 } {
    const shared = v.gradient
    if (shared && (this.#references.get(shared.memory) ?? 1) === 1) return { tensor: shared, accumulate: 1 }
    const tensor = this.arena.alloc(v.dtype, v.shape)
    this.#references.set(tensor.memory, 1)
    v.gradient = tensor
    if (!shared) return { tensor, accumulate: 0 }
    this.backend.copy(shared.memory, shared.offset, tensor.memory, tensor.offset, tensor.bytes)
    this.#drop(shared.memory)
    return { tensor, accumulate: 1 }
  }

  /**
   * Makes `gradient` itself the first contribution to `v`, without a copy; returns false if `v` has a gradient already. In a residual
   * branch it is never copied, because all of the branch's ops run backwards before the one that starts it adds to the gradient.
   */
  shareGradient(v: Var, gradient: Tensor): boolean {
    if (v.gradient) return false
    this.#hold(gradient.memory)
    v.gradient = gradient
    return true
  }

  /** Runs the recorded ops backwards, from the last; an op whose output nothing gave a gradient is passed over. */
  differentiate(): void {
    for (let record = this.#records.pop(); record; record = this.#records.pop()) {
      const { output, backward } = record
      const { gradient } = output
      try {
        if (gradient) this.scope(() => backward(gradient))
      } finally {
        this.#forget(record)
      }
    }
  }

  /** Runs `body` in a scope, recording nothing of it. */
  unrecorded<T>(body: () => T): T {
    const before = this.recording
    this.recording = false
    try {
      return this.scope(body)
    } finally {
      this.recording = before
    }
  }

  /** In a backward pass: runs `body` again, recording it, and differentiates it from `gradient`, that of the Var it returns. */
  replay(body: () => Var, gradient: Tensor): void {
    const earlier = this.#records
    this.#records = []
    try {
      let output: Var | undefined
      this.scope(() => {
        output = body()
      })
      this.shareGradient(output!, gradient)
      this.differentiate()
    } finally {
      this.reset()
      this.#records = earlier
    }
  }

  /** Lets go of a gradient that no record will read. */
  dropGradient(v: Var): void {
    if (v.gradient) this.#drop(v.gradient.memory)
    v.gradient = undefined
  }

  /** Forgets all records and frees what they hold: after an error, or where only the forward pass was wanted. */
  reset(): void {
    for (const record of this.#records) this.#forget(record)
    this.#records = []
  }

  #forget({ output, reads }: Record): void {
    this.dropGradient(output)
    for (const tensor of reads) this.#drop(tensor.memory)
  }

  #hold(memory: Memory): void {
    const count = this.#references.get(memory)
    if (count !== undefined) this.#references.set(memory, count + 1)
  }

  #drop(memory: Memory): void {
    const count = this.#references.get(memory)
    if (count === undefined) return
    if (count > 1) this.#references.set(memory, count - 1)
    else {
      this.#references.delete(memory)
      this.arena.free(memory)
    }
  }
}
