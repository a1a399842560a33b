import assert from 'node:assert/strict'
import { fromBf16, toBf16 } from '../src/formats/bf16.ts'
import { signWords } from '../src/formats/hadamard.ts'
import { gemms, Linear, type LinearState, linear, roles, streamOf } from '../src/ops/linear.ts'
import { Tape, Var } from '../src/ops/tape.ts'
import type { ResolvedRecipe } from '../src/recipes/resolve.ts'
import type { Backend } from '../src/tensor/backend.ts'
import type { Activation, DType } from '../src/tensor/dtype.ts'
import { sizeOf, Tensor } from '../src/tensor/tensor.ts'

/** One linear layer with its own memory. */
export class LinearLayer {
  readonly tape: Tape
  readonly layer: Linear
  readonly state: LinearState
  readonly #backend: Backend
  readonly #signs: Tensor

  constructor(
    backend: Backend,
    recipe: ResolvedRecipe,
    weight: Float32Array,
    shape: [number, number],
    act: Activation,
  ) {
    this.#backend = backend
    this.tape = new Tape(backend, act)
    this.#signs = this.tensor('u32', [gemms.length, 4])
    this.state = {
      random: this.tensor('u32', [3]),
      signs: {
        fixed: this.tensor('u32', [4]).write(signWords('fixed')),
        none: this.tensor('u32', [4]).write(signWords('none')),
      },
      microBatch: 0,
    }
    const parameter = {
      name: 'w',
      shape,
      value: this.tensor('f32', shape).write(weight),
      gradient: this.tensor('f32', shape),
    }
    const statistics = this.tensor('f32', [roles.length, 2])
    this.layer = new Linear({
      name: 'layer',
      index: 5,
      weight: parameter,
      memory: parameter,
      recipe,
      state: this.state,
      statistics,
      freshSigns: this.#signs,
    })
  }

  tensor(dtype: DType, shape: readonly number[]): Tensor {
    return new Tensor(this.#backend, this.#backend.alloc(Math.max(64, sizeOf(shape) * 4)), 0, dtype, shape).zero()
  }

  beginStep(step: number): void {
    const random = Uint32Array.of(7, 0, step)
    this.state.random.write(random)
    const fresh = gemms.flatMap((_, i) => [...signWords('fresh', random, streamOf(5, roles[[0, 4, 5][i]!]!, 0))])
    this.#signs.write(Uint32Array.from(fresh))
  }

  /** Output and both gradients in FP32 values; that of the weight starts from zero. The layer reads what `of` makes of x. */
  run(
    x: Float32Array,
    dy: Float32Array,
    of = (_: Tape, input: Var): Var => input,
  ): { y: Float32Array; dx: Float32Array; dw: Float32Array } {
    const { tape, layer } = this
    const inputs = layer.weight.shape[1]!
    const put = (shape: number[], values: Float32Array) => {
      const tensor = tape.allocate('act', shape)
      return tensor.write(tensor.dtype === 'bf16' ? toBf16(values) : values)
    }
    const take = (tensor: Tensor): Float32Array => {
      const raw = tensor.read()
      return raw instanceof Uint16Array ? fromBf16(raw) : (raw as Float32Array)
    }
    layer.weight.gradient.zero()
    const result = tape.scope(() => {
      const tokens = x.length / inputs
      const input = new Var(put([tokens, inputs], x))
      let dx = new Float32Array(0)
      tape.record(input, [], gradient => {
        dx = Float32Array.from(take(gradient))
      })
      const output = linear(tape, layer, of(tape, input))
      const y = take(output.value)
      const { tensor } = tape.gradientOf(output)
      tensor.write(tensor.dtype === 'bf16' ? toBf16(dy) : dy)
      tape.differentiate()
      return { y, dx, dw: layer.weight.gradient.floats() }
    })
    assert.equal(tape.arena.live, 0)
    return result
  }
}
