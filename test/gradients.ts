import assert from 'node:assert/strict'
import { referenceBackend } from '../src/backends/reference.ts'
import { fromBf16, toBf16 } from '../src/formats/bf16.ts'
import { Stream } from '../src/formats/philox.ts'
import { type Parameter, Tape, Var } from '../src/ops/tape.ts'
import type { Backend } from '../src/tensor/backend.ts'
import type { Activation } from '../src/tensor/dtype.ts'
import { sizeOf, type Tensor } from '../src/tensor/tensor.ts'

/**
 * Checks an op's backward pass against finite differences of its forward pass, and backends against each other.
 *
 * The objective is L = sum_i p[i] y[i] with a fixed random p, summed in FP64, so that one backward pass gives the whole gradient.
 * The numeric derivative along one element is Richardson's extrapolation of two central differences,
 *
 *   (8 (L(+h) - L(-h)) - (L(+2h) - L(-2h))) / 12h,
 *
 * whose truncation is O(h^4): with h = 1/32 it and the rounding of FP32 outputs are both near 1e-5.
 */
export interface OpCheck {
  /** Shapes of the activations that the op reads, and of its parameters. */
  readonly inputs: readonly (readonly number[])[]
  readonly parameters?: readonly (readonly number[])[]
  /** Values of inputs, then of parameters; standard normal where absent. */
  readonly values?: readonly (Float32Array | undefined)[]
  /** Whether an input has a gradient; all do by default. Elements of others stay fixed. */
  readonly fixed?: readonly number[]
  /**
   * Runs the op or the whole stack of ops. A Var is projected to the objective; an f32 tensor holds the objective in its first
   * element, for an op that ends the tape by itself. Other tensors (tokens, starts) are made here with `tape.allocate(...).write(...)`.
   */
  build(tape: Tape, inputs: Var[], parameters: Parameter[]): Var | Tensor
  /** Largest difference allowed, relative to the largest magnitude in the same tensor's gradient; default 1e-3. */
  readonly tolerance?: number
  /** h; default 1/32. */
  readonly step?: number
  /** At most so many elements of a tensor are differentiated, evenly spread; default 96. */
  readonly samples?: number
}

export interface OpResult {
  objective: number
  /** Values of the output Var, or of the f32 tensor. */
  output: Float32Array
  /** Of inputs, then of parameters. An activation that nothing flowed into has undefined. */
  gradients: (Float32Array | undefined)[]
}

const decoded = (tensor: Tensor): Float32Array => {
  const raw = tensor.read()
  return raw instanceof Uint16Array ? fromBf16(raw) : (raw as Float32Array)
}

const encoded = (tensor: Tensor, values: Float32Array): Tensor =>
  tensor.write(tensor.dtype === 'bf16' ? toBf16(values) : values)

const normals = (size: number, stream: number): Float32Array => {
  const random = new Stream(7, stream)
  return Float32Array.from({ length: size }, () => random.normal())
}

/** The values that a check starts from: inputs, then parameters. */
export const valuesOf = (check: OpCheck): Float32Array[] =>
  [...check.inputs, ...(check.parameters ?? [])].map(
    (shape, i) => check.values?.[i]?.slice() ?? normals(sizeOf(shape), i),
  )

/**
 * Runs a check once. With `preset`, every activation has a gradient already, so that the op must add to it; those of parameters
 * always have. What was there before is subtracted again. Fails if memory of the tape is left over.
 */
export function runOp(
  backend: Backend,
  activations: Activation,
  check: OpCheck,
  values: readonly Float32Array[],
  { backward = true, preset = false } = {},
): OpResult {
  const tape = new Tape(backend, activations)
  tape.recording = backward
  const gradients: (Float32Array | undefined)[] = values.map(() => undefined)
  const before = values.map((v, i) => normals(v.length, 100 + i))
  const { objective, output } = tape.scope(() => {
    const inputs = check.inputs.map((shape, i) => {
      const input = new Var(encoded(tape.allocate('act', shape), values[i]!))
      if (check.fixed?.includes(i)) return input
      tape.record(input, [], gradient => {
        const found = decoded(gradient)
        gradients[i] = preset ? found.map((g, j) => g - before[i]![j]!) : found
      })
      if (backward && preset) encoded(tape.gradientOf(input).tensor, before[i]!)
      return input
    })
    const parameters = (check.parameters ?? []).map((shape, i) => {
      const at = inputs.length + i
      const value = tape.allocate('f32', shape).write(values[at]!)
      return { name: `parameter ${i}`, shape, value, gradient: tape.allocate('f32', shape).write(before[at]!) }
    })
    const result = check.build(tape, inputs, parameters)
    const output = decoded(result instanceof Var ? result.value : result)
    let objective = output[0]!
    if (result instanceof Var) {
      const projection = normals(output.length, 99)
      objective = output.reduce((sum, y, i) => sum + y * projection[i]!, 0)
      if (backward) encoded(tape.gradientOf(result).tensor, projection)
    }
    if (backward) {
      tape.differentiate()
      for (const [i, { gradient }] of parameters.entries()) {
        const at = inputs.length + i
        gradients[at] = gradient.floats().map((g, j) => g - before[at]![j]!)
      }
    }
    return { objective, output }
  })
  assert.equal(tape.arena.live, 0, 'memory of the tape is left over')
  tape.arena.release()
  return { objective, output, gradients }
}

const largest = (values: Float32Array): number => values.reduce((most, v) => Math.max(most, Math.abs(v)), 0)

/** Compares all gradients of a check with finite differences, on the reference backend in FP32, overwriting and adding. */
export function checkGradients(check: OpCheck): void {
  const { step = 1 / 32, samples = 96, tolerance = 1e-3 } = check
  const backend = referenceBackend()
  const values = valuesOf(check)
  const written = runOp(backend, 'f32', check, values)
  const added = runOp(backend, 'f32', check, values, { preset: true })
  const objective = () => runOp(backend, 'f32', check, values, { backward: false }).objective
  assert.equal(objective(), written.objective, 'the forward pass must not depend on recording')
  for (const [i, array] of values.entries()) {
    if (check.fixed?.includes(i)) continue
    const name = i < check.inputs.length ? `input ${i}` : `parameter ${i - check.inputs.length}`
    const got = written.gradients[i]
    const sum = added.gradients[i]
    assert.ok(got && sum, `no gradient reached ${name}`)
    const count = Math.min(samples, array.length)
    const at = Array.from({ length: count }, (_, k) => Math.floor((k * array.length) / count))
    const wanted = at.map(j => {
      const original = array[j]!
      const along = (distance: number) => {
        array[j] = original + distance
        return objective()
      }
      const derivative = (8 * (along(step) - along(-step)) - (along(2 * step) - along(-2 * step))) / (12 * step)
      array[j] = original
      return derivative
    })
    const scale = largest(Float32Array.from(wanted)) || 1
    for (const [k, j] of at.entries())
      for (const [kind, found] of [
        ['', got[j]!],
        [' when added', sum[j]!],
      ] as const)
        assert.ok(
          Math.abs(found - wanted[k]!) <= tolerance * scale,
          `gradient of ${name}[${j}]${kind} is ${found}, finite differences give ${wanted[k]}, largest is ${scale}`,
        )
  }
}

/**
 * Compares output and gradients of a check between two backends in both dtypes of activations.
 * `tolerance` is relative to the largest magnitude of a tensor in FP32; in BF16 a few roundings of 2^-8 are allowed.
 */
export function checkBackends(check: OpCheck, reference: Backend, other: Backend, tolerance = 1e-5, bf16 = 0.02): void {
  for (const activations of ['f32', 'bf16'] as const)
    for (const preset of [false, true]) {
      const values = valuesOf(check)
      const want = runOp(reference, activations, check, values, { preset })
      const got = runOp(other, activations, check, values, { preset })
      const limit = activations === 'f32' ? tolerance : bf16
      const pairs = [['output', got.output, want.output] as const].concat(
        want.gradients.map((g, i) => [`gradient ${i}`, got.gradients[i]!, g!] as const) as never,
      )
      for (const [name, a, b] of pairs) {
        if (!b) continue
        const scale = largest(b) || 1
        for (let j = 0; j < b.length; j++)
          assert.ok(
            Math.abs(a[j]! - b[j]!) <= limit * scale,
            `${activations} ${name}[${j}] is ${a[j]} on ${other.name}, ${b[j]} on ${reference.name}, largest is ${scale}`,
          )
      }
    }
}
