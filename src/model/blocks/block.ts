import type { Linear } from '../../ops/linear.ts'
import type { Parameter, Tape, Var } from '../../ops/tape.ts'
import type { DType } from '../../tensor/dtype.ts'
import type { Tensor } from '../../tensor/tensor.ts'
import type { ModelConfig } from '../config.ts'
import type { Initialiser } from '../initialise.ts'

export interface ParameterSpec {
  /** Within its block, such as `mixer.in_proj.weight`; in a model, the full name. */
  readonly name: string
  /** As in a checkpoint. */
  readonly shape: readonly number[]
  readonly initialise: Initialiser
  /** Whether weight decay applies. */
  readonly decay: boolean
  /** The weight of a linear layer: the first micro-batch of a step overwrites its gradient. In a block, the recipe rules it. */
  readonly linear?: true
  /**
   * Whether the layer may have more outputs than the weight has rows, so that their number suits the recipe's blocks: zero columns that
   * the block leaves alone.
   */
  readonly padded?: true
}

/** What a block computes with. Names are those of `parameters`; a linear's is that of its weight without `.weight`. */
export interface BlockContext {
  readonly config: ModelConfig
  parameter(name: string): Parameter
  linear(name: string): Linear
  /** Tokens in a sequence; rows of activations are whole sequences one after another. */
  readonly sequence: number
  /** i32[rows]: the first position of its sequence that each row may see; not read where there is `memory`. */
  readonly starts: Tensor
  /** Of the tokens before, where rows continue one sequence; absent where they are whole sequences. */
  readonly memory?: BlockMemory | undefined
}

/** What a block keeps of the tokens that it has seen. */
export interface BlockMemory {
  /** i32[1]: position of the first row in the sequence. */
  readonly position: Tensor
  /** By the names of `remembers`. */
  readonly tensors: Readonly<Record<string, Tensor>>
}

/** Keys of a model's config that are numbers. */
type SizeKey = { [Key in keyof ModelConfig]-?: ModelConfig[Key] extends number ? Key : never }[keyof ModelConfig]

/** A kind of block: one mixer, `h + mixer(norm(h))`. */
export interface BlockKind {
  readonly title: string
  /** Sizes that a config may leave 0 where its pattern has no such block. */
  readonly sizes: readonly SizeKey[]
  /** Sizes that must be multiples of others. */
  readonly multiples?: readonly (readonly [size: SizeKey, of: SizeKey])[]
  /** Parameters of the mixer, in the order of a checkpoint. */
  parameters(config: ModelConfig): ParameterSpec[]
  /** From the normalised stream [rows, hidden] to what is added to it. */
  forward(tape: Tape, x: Var, context: BlockContext): Var
  /** What it keeps of the tokens before where a sequence is continued, at most `capacity` tokens back; absent: nothing. */
  remembers?(
    config: ModelConfig,
    capacity: number,
  ): Readonly<Record<string, { dtype: DType; shape: readonly number[] }>>
  /** Floating-point operations of a token's forward pass besides linear layers. */
  flops(config: ModelConfig, sequence: number): number
  /** Activations that a token keeps for the backward pass besides inputs of linear layers: elements of the dtype of activations. */
  saved(config: ModelConfig, sequence: number): number
}

/** Of linear layers that write to the residual stream: divided by the root of the number of blocks. */
export const residualDeviation = (config: ModelConfig): number => config.init_std / Math.sqrt(config.pattern.length)
