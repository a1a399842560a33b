import { zeroColumns } from '../kernels/zero_columns/zero_columns.ts'
import type { Gemm, Operand, Quantized } from '../recipes/recipe.ts'
import { isQuantized, type ResolvedRecipe } from '../recipes/resolve.ts'
import { outputMultiple } from '../recipes/shapes.ts'
import type { Tensor } from '../tensor/tensor.ts'
import {
  type Allocate,
  areMadeTogether,
  bothImages,
  castTo,
  columnImage,
  dequantizeImage,
  forwardPair,
  type Image,
  type ImageRequest,
  type Pair,
  rowImage,
} from './image.ts'
import { multiply, type Source } from './multiply.ts'
import { Panels } from './panels.ts'
import { Store } from './store.ts'
import { type Parameter, type Tape, Var } from './tape.ts'
import { WorkingCopy } from './working_copy.ts'

/**
 * A linear layer without bias, y = x · wᵀ, whose three products are made as its recipe says (docs/numerics.md, "Which tensor gets
 * what" and "GEMM semantics"). Here, and only here, recipes meet kernels.
 *
 *   fprop   x by rows, w by rows             the image of x is dropped at once
 *   dgrad   dy by rows, w by columns
 *   wgrad   dy by columns, x by columns      the image of x is made in the forward pass and is all that is kept of x
 *
 * Weights are quantised from their BF16 rounding, once between two steps of the optimizer, whatever the number of micro-batches. Those that
 * enter a product unquantised are rounded as often where there is memory for it (working_copy.ts).
 */

/** What a layer quantises, each with its own random decisions and its own largest magnitude. */
export const roles = ['xRows', 'xColumns', 'wRows', 'wColumns', 'dyRows', 'dyColumns'] as const
export type Role = (typeof roles)[number]

export const gemms = ['fprop', 'dgrad', 'wgrad'] as const
type GemmName = (typeof gemms)[number]

/** An operand that a layer has just quantised, while its memory is alive. */
export interface Watched {
  readonly linear: string
  readonly role: Role
  /** What was quantised, before any rotation; the image is of its transpose where `transposed`. */
  readonly values: Tensor
  readonly transposed: boolean
  readonly image: Image
  readonly request: ImageRequest
  /** Lines of the image that are not padding. */
  readonly lines: number
}

/** Shared by all linear layers of a model. */
export interface LinearState {
  /** u32[3]: seed low, seed high, step. */
  readonly random: Tensor
  /** u32[4] each: sign vectors of rotations that are not drawn anew. */
  readonly signs: { readonly fixed: Tensor; readonly none: Tensor }
  /** Index of the micro-batch within its step, part of every random stream but those of weights. The first overwrites gradients of weights. */
  microBatch: number
  /** Whether images of weights are also kept as products read them, where the backend has a form for it; absent: no. */
  readonly keepsPanels?: boolean
  /** Shown every operand as it is quantised. */
  watch?: ((made: Watched) => void) | undefined
}

/** Of layers, and of micro-batches of a step, that a stream of 32 bits tells apart. */
const mostMicroBatches = 2 ** 16
const mostLayers = Math.floor(2 ** 16 / roles.length)

/**
 * Random stream of one role of one linear layer: no two images of a step share it.
 * @throws RangeError beyond 10,922 layers or 65,536 micro-batches.
 */
export function streamOf(index: number, role: Role, microBatch: number): number {
  if (index >= mostLayers) throw new RangeError(`linear layer ${index}: streams tell ${mostLayers} layers apart`)
  if (microBatch >= mostMicroBatches)
    throw new RangeError(`micro-batch ${microBatch}: streams tell ${mostMicroBatches} of a step apart`)
  return (index * roles.length + roles.indexOf(role)) * mostMicroBatches + microBatch
}

/** f32 [rows, inputs] each, rows being at least the outputs. */
export interface LinearMemory {
  readonly value: Tensor
  readonly gradient: Tensor
}

export interface LinearOptions {
  /** As rules see it: `layers.3.mixer.in_proj`. */
  readonly name: string
  /** Which of the model's linear layers this is: it addresses random decisions. */
  readonly index: number
  /** [outputs, inputs]. */
  readonly weight: Parameter
  /** Memory of the weight and its gradient, with rows of zeros after its own if the layer may be padded. */
  readonly memory: LinearMemory
  /** bf16, as `memory.value`: where its rounding is kept, for products that read the weight in BF16; absent: they round it. */
  readonly rounded?: Tensor | undefined
  readonly recipe: ResolvedRecipe
  readonly state: LinearState
  /** f32[roles, 2]: receives the largest magnitude, and 1 if a value was not finite, of what was last quantised in each role. */
  readonly statistics: Tensor
  /** u32[gemms, 4]: sign vectors drawn anew for each step, of those GEMMs whose rotation wants it. */
  readonly freshSigns: Tensor
}

export class Linear {
  readonly name: string
  readonly weight: Parameter
  readonly statistics: Tensor
  readonly #options: LinearOptions
  readonly #stores: { readonly forward: Store; readonly backward: Store }
  readonly copy: WorkingCopy
  /** Of the weight's images along the inputs, for fprop, and along the outputs, for dgrad. */
  readonly panels: { readonly row: Panels; readonly column: Panels }
  #recipe: ResolvedRecipe
  /** [outputs, inputs], the outputs padded to what the recipe needs where there is memory for it. */
  #padded: LinearMemory
  /** The weight as the forward rules quantise it, and as dgrad does for itself. */
  #forward: Pair | undefined
  #backward: Image | undefined
  /** Parts of `statistics`, for each role, and of `freshSigns`, for each GEMM. */
  readonly #amaxes: ReadonlyMap<Role, Tensor>
  readonly #freshSigns: ReadonlyMap<GemmName, Tensor>

  constructor(options: LinearOptions) {
    const { name, weight, memory, recipe, state, statistics } = options
    this.name = name
    this.weight = weight
    this.statistics = statistics
    this.#options = options
    this.copy = new WorkingCopy(memory.value, options.rounded)
    const keepsPanels = state.keepsPanels === true
    this.panels = { row: new Panels(keepsPanels), column: new Panels(keepsPanels) }
    this.#recipe = recipe
    this.#padded = this.#pad()
    this.#amaxes = new Map(roles.map((role, i) => [role, statistics.part(2 * i, [2])]))
    this.#freshSigns = new Map(gemms.map((gemm, i) => [gemm, options.freshSigns.part(4 * i, [4])]))
    const { backend } = weight.value
    this.#stores = { forward: new Store(backend), backward: new Store(backend) }
  }

  get recipe(): ResolvedRecipe {
    return this.#recipe
  }

  set recipe(recipe: ResolvedRecipe) {
    if (recipe === this.#recipe) return
    this.#recipe = recipe
    this.#padded = this.#pad()
    this.dropImages()
  }

  /** Columns of the output; those beyond the weight's rows are zero. */
  get outputs(): number {
    return this.#padded.value.shape[0]!
  }

  /** f32 [outputs, inputs]. */
  get value(): Tensor {
    return this.#padded.value
  }

  get gradient(): Tensor {
    return this.#padded.gradient
  }

  /** Whether this micro-batch adds to the gradient that earlier ones of its step left. */
  get accumulate(): 0 | 1 {
    return this.#options.state.microBatch > 0 ? 1 : 0
  }

  #pad(): LinearMemory {
    const { memory, weight } = this.#options
    const [rows, inputs] = weight.shape as [number, number]
    const multiple = outputMultiple(this.#recipe)
    const outputs = Math.min(Math.ceil(rows / multiple) * multiple, memory.value.shape[0]!)
    const shape = [outputs, inputs]
    return { value: memory.value.part(0, shape), gradient: memory.gradient.part(0, shape) }
  }

  /** The weight as an operand that is not quantised, [outputs, inputs]: BF16 only where it is wanted so. */
  plain(operand: Operand): Tensor {
    return operand === 'bf16' ? this.copy.operand().part(0, this.value.shape) : this.value
  }

  /** What is made of the weight is made anew at its next use. */
  weightChanged(): void {
    this.copy.weightChanged()
    this.dropImages()
  }

  dropImages(): void {
    this.#forward = undefined
    this.#backward = undefined
    for (const panels of Object.values(this.panels)) panels.drop()
  }

  /** How to make the image of one role as an operand of `gemm`. */
  request(role: Role, spec: Quantized, gemm: GemmName): ImageRequest {
    const { index, state } = this.#options
    const { hadamard } = this.#recipe[gemm]
    const ofWeight = role === 'wRows' || role === 'wColumns'
    return {
      spec,
      hadamard: hadamard && {
        size: hadamard.size,
        signs: hadamard.signs === 'fresh' ? this.#freshSigns.get(gemm)! : state.signs[hadamard.signs],
      },
      amax: this.#amaxes.get(role)!,
      random: state.random,
      stream: streamOf(index, role, ofWeight ? 0 : state.microBatch),
    }
  }

  /** Shows an image of the value of `of`, or of its transpose, to whoever watches. Returns the image. */
  made(role: Role, of: { readonly value: Tensor }, transposed: boolean, image: Image, request: ImageRequest): Image {
    const { state, name } = this.#options
    const ofOutputs = role === 'wRows' || role === 'dyColumns'
    const lines = ofOutputs ? Math.min(image.rows, this.weight.shape[0]!) : image.rows
    state.watch?.({ linear: name, role, values: of.value, transposed, image, request, lines })
    return image
  }

  /** The weight as the forward rules quantise it. */
  forwardImages(tape: Tape): Pair {
    this.#forward ??= this.#make(tape, this.#stores.forward, this.#recipe.forward.w!, (w, allocate) => {
      const request = this.request('wRows', this.#recipe.forward.w!, 'fprop')
      const pair = forwardPair(tape.backend, allocate, w, request, request.spec.source ? undefined : this.value)
      this.made('wRows', w, false, pair.row, request)
      return pair
    })
    return this.#forward
  }

  /** The values of the weight's forward image in FP32, [outputs, inputs]. */
  forwardValues(tape: Tape): Tensor {
    return dequantizeImage(tape.backend, tape.allocate, this.forwardImages(tape).row, 'f32')
  }

  /** The weight along the outputs as dgrad quantises it for itself. */
  backwardImage(tape: Tape, spec: Quantized): Image {
    this.#backward ??= this.#make(tape, this.#stores.backward, spec, (w, allocate) => {
      const values = spec.of === 'forward' ? this.forwardValues(tape) : w.value
      const request = this.request('wColumns', spec, 'dgrad')
      return this.made('wColumns', new Var(values), true, columnImage(tape.backend, allocate, values, request), request)
    })
    return this.#backward
  }

  /** `w` is the weight, rounded to BF16 once it is asked for unless `spec` wants it as it is. */
  #make<T>(tape: Tape, store: Store, spec: Quantized, make: (w: Var, allocate: Allocate) => T): T {
    const made: T[] = []
    store.rewind()
    tape.scope(() => {
      const value = () => castTo(tape.backend, tape.allocate, this.value, 'bf16')
      const w = spec.source ? this.value : ({ dtype: 'bf16', shape: this.value.shape, value } as const)
      made.push(make(new Var(w), store.allocate))
    })
    return made[0]!
  }
}

const plain = (tensor: Tensor, transposed: boolean, operand: Operand): Source => ({
  tensor,
  transposed,
  round: operand === 'bf16',
})

/** Whether `forward` in this GEMM means the forward image's values, because the other operand is not quantised. */
const readsValues = ({ a, b }: Gemm): boolean => b === 'forward' && !isQuantized(a)

/** The weight as fprop reads it, along the inputs. */
function forwardWeight(tape: Tape, layer: Linear): Source {
  const { b } = layer.recipe.fprop
  return isQuantized(b)
    ? { image: layer.forwardImages(tape).row, panels: layer.panels.row }
    : plain(layer.plain(b), false, b)
}

/** The weight as dgrad reads it, along the outputs. */
function backwardWeight(tape: Tape, layer: Linear): Source {
  const { dgrad } = layer.recipe
  if (readsValues(dgrad)) return plain(layer.forwardValues(tape), true, dgrad.a)
  if (dgrad.b === 'forward') return { image: layer.forwardImages(tape).column!, panels: layer.panels.column }
  if (isQuantized(dgrad.b)) return { image: layer.backwardImage(tape, dgrad.b), panels: layer.panels.column }
  return plain(layer.plain(dgrad.b), true, dgrad.b)
}

/** What is kept of x for wgrad. */
interface Kept {
  readonly tensors: readonly Tensor[]
  /** x along the tokens; called in the backward pass. */
  source(): Source
}

/** x as fprop reads it, and what is kept of it; its forward image is made once if both want it. */
function inputOf(tape: Tape, layer: Linear, x: Var): { forward(): Source; keep(): Kept } {
  const { backend } = tape
  const { fprop, wgrad, forward } = layer.recipe
  const allocate = tape.allocate
  let made: Pair | undefined
  /** The rotated image along the tokens, if it was made with the other. */
  let alongTokens: Image | undefined
  const images = (): Pair => {
    if (made) return made
    const request = layer.request('xRows', forward.x!, 'fprop')
    const column = tape.recording && isQuantized(wgrad.b) ? layer.request('xColumns', wgrad.b, 'wgrad') : undefined
    if (column && areMadeTogether(request, column)) {
      const both = bothImages(backend, allocate, x, request, column)
      made = { row: both.row }
      alongTokens = both.column
    } else made = forwardPair(backend, allocate, x, request)
    layer.made('xRows', x, false, made.row, request)
    return made
  }
  const keepImage = (image: Image, source: () => Source): Kept => ({
    tensors: [image.codes, image.scales, image.amax],
    source,
  })
  const values = (image: Image) => dequantizeImage(backend, allocate, image, 'f32')
  return {
    forward: () => (isQuantized(fprop.a) ? { image: images().row } : plain(x.value, false, fprop.a)),
    keep() {
      const { a, b } = wgrad
      if (readsValues(wgrad)) {
        const { row } = images()
        return keepImage(row, () => plain(values(row), true, a))
      }
      if (b === 'forward') {
        const image = images().column!
        return keepImage(image, () => ({ image }))
      }
      if (!isQuantized(b)) {
        const copy = b === 'bf16' ? castTo(backend, allocate, x.value, 'bf16') : x.value
        return { tensors: [copy], source: () => plain(copy, true, b) }
      }
      const request = layer.request('xColumns', b, 'wgrad')
      if (b.of === 'forward') {
        const { row } = images()
        return keepImage(row, () => {
          const again = values(row)
          const image = columnImage(backend, allocate, again, request)
          return { image: layer.made('xColumns', new Var(again), true, image, request) }
        })
      }
      const image = alongTokens ?? columnImage(backend, allocate, x.value, request)
      layer.made('xColumns', x, true, image, request)
      return keepImage(image, () => ({ image }))
    },
  }
}

/** dy as dgrad reads it, along the outputs, and as wgrad does, along the tokens. Memory is of the scope at the time of the call. */
function gradientOf(tape: Tape, layer: Linear, dy: Var): { dgrad(): Source; wgrad(): Source } {
  const { backend, allocate } = tape
  const { dgrad, wgrad } = layer.recipe
  const row = isQuantized(dgrad.a) ? layer.request('dyRows', dgrad.a, 'dgrad') : undefined
  const column = isQuantized(wgrad.a) ? layer.request('dyColumns', wgrad.a, 'wgrad') : undefined
  const both =
    row && column && areMadeTogether(row, column) ? bothImages(backend, allocate, dy, row, column) : undefined
  return {
    dgrad() {
      if (!row) return plain(dy.value, false, dgrad.a)
      return { image: layer.made('dyRows', dy, false, both?.row ?? rowImage(backend, allocate, dy.value, row), row) }
    },
    wgrad() {
      if (!column) return plain(dy.value, true, wgrad.a)
      const image = both?.column ?? columnImage(backend, allocate, dy.value, column)
      return { image: layer.made('dyColumns', dy, true, image, column) }
    },
  }
}

/** y [tokens, outputs] = x [tokens, inputs] · wᵀ. Gradients of padded outputs are ignored, whatever they hold. */
export function linear(tape: Tape, layer: Linear, x: Var): Var {
  const { backend, allocate } = tape
  return tape.scope(() => {
    const y = new Var(tape.allocate('act', [x.shape[0]!, layer.outputs]))
    const input = inputOf(tape, layer, x)
    multiply(backend, allocate, y.value, input.forward(), forwardWeight(tape, layer), 0)
    if (!tape.recording) return y
    const kept = input.keep()
    tape.record(y, kept.tensors, dy => {
      const own = layer.weight.shape[0]!
      if (layer.outputs > own) backend.run(zeroColumns, { x: dy, first: own })
      const gradient = gradientOf(tape, layer, new Var(dy))
      tape.scope(() => {
        const { tensor: dx, accumulate } = tape.gradientOf(x)
        multiply(backend, allocate, dx, gradient.dgrad(), backwardWeight(tape, layer), accumulate)
      })
      tape.scope(() => multiply(backend, allocate, layer.gradient, gradient.wgrad(), kept.source(), layer.accumulate))
    })
    return y
  })
}
