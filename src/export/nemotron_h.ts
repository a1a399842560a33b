import type { ModelConfig } from '../model/config.ts'
import { mambaSizes } from '../model/config.ts'
import type { Architecture, HfConfig } from './architectures.ts'
import { expect, expectThat, positiveOf, wholeOf } from './hf_keys.ts'

/**
 * NemotronHForCausalLM: any pattern of Mamba-2, attention without positions, and squared-ReLU FFN (docs/numerics.md, "HF config and
 * tensors"). `time_step_min` is 1e-30, because transformers clamps the time step there and training does not; `time_step_limit` is left out,
 * its default being [0, infinity], which JSON cannot say.
 */

/** Block types as lists name them, in transformers 5 and before, to the characters of a pattern. */
const blockTypes: Readonly<Record<string, string>> = {
  linear_attention: 'M',
  mamba: 'M',
  full_attention: '*',
  attention: '*',
  mlp: '-',
}

function patternOf(config: HfConfig): string {
  const { hybrid_override_pattern: pattern, layers_block_type: list = config.layer_types } = config
  if (list === undefined || list === null) {
    expectThat(
      typeof pattern === 'string' && /^[M*-]+$/.test(pattern),
      config,
      'hybrid_override_pattern',
      'a string of M (Mamba-2), * (attention) and - (FFN)',
    )
    return pattern as string
  }
  const kinds = Array.isArray(list) ? list.map(name => blockTypes[String(name)]) : []
  expectThat(
    kinds.length > 0 && kinds.every(kind => kind !== undefined),
    config,
    config.layers_block_type === undefined ? 'layer_types' : 'layers_block_type',
    `a list of ${Object.keys(blockTypes).join(', ')}`,
  )
  return kinds.join('')
}

/** Whether the limits bind no time step that training may make. */
const unlimited = (limit: unknown): boolean =>
  limit === undefined ||
  limit === null ||
  (Array.isArray(limit) && limit.length === 2 && !(limit[0] > 1e-20) && limit[1] >= 1e30)

export const nemotronH: Architecture = {
  name: 'NemotronHForCausalLM',
  modelType: 'nemotron_h',
  refuses: ({ rope }) => (rope === false ? undefined : 'has no rotary positions'),
  tensorName: name => name,
  config(model, { sequence, bos, eos, dtype }) {
    const mambaHeads = model.mamba_heads || model.groups
    const headDim = model.mamba_head_dim || 64
    const { inner } = mambaSizes(model)
    return {
      architectures: ['NemotronHForCausalLM'],
      model_type: 'nemotron_h',
      vocab_size: model.vocab,
      hidden_size: model.hidden,
      intermediate_size: model.ffn || model.hidden,
      num_hidden_layers: model.pattern.length,
      hybrid_override_pattern: model.pattern,
      num_attention_heads: model.heads || 1,
      num_key_value_heads: model.kv_heads || 1,
      head_dim: model.head_dim || model.hidden,
      max_position_embeddings: sequence,
      attention_bias: false,
      mlp_bias: false,
      use_bias: false,
      mlp_hidden_act: 'relu2',
      mamba_num_heads: mambaHeads,
      mamba_head_dim: headDim,
      ssm_state_size: model.state,
      n_groups: model.groups,
      conv_kernel: model.conv,
      expand: Math.max(1, Math.round(inner / model.hidden)),
      chunk_size: model.chunk,
      mamba_hidden_act: 'silu',
      mamba_proj_bias: false,
      use_conv_bias: true,
      time_step_min: 1e-30,
      time_step_max: 0.1,
      time_step_floor: 1e-4,
      layer_norm_epsilon: model.eps,
      initializer_range: model.init_std,
      residual_in_fp32: false,
      tie_word_embeddings: false,
      num_logits_to_keep: 1,
      bos_token_id: bos,
      eos_token_id: eos,
      pad_token_id: eos,
      torch_dtype: dtype,
    }
  },
  model(config) {
    expect(config, {
      attention_bias: [false],
      mlp_bias: [false],
      use_bias: [false],
      mamba_proj_bias: [false],
      use_conv_bias: [true],
      tie_word_embeddings: [false],
      mlp_hidden_act: ['relu2'],
      mamba_hidden_act: ['silu', 'swish'],
      sliding_window: [null],
    })
    expectThat(unlimited(config.time_step_limit), config, 'time_step_limit', '[0, Infinity]')
    const pattern = patternOf(config)
    const where = (kind: string, value: () => number): number => (pattern.includes(kind) ? value() : 0)
    const mamba: Pick<ModelConfig, 'groups' | 'state' | 'conv' | 'chunk'> = {
      groups: wholeOf(config, 'n_groups', 'mamba_n_groups'),
      state: wholeOf(config, 'ssm_state_size'),
      conv: wholeOf(config, 'conv_kernel', 'mamba_d_conv'),
      chunk: wholeOf(config, 'chunk_size', 'mamba_chunk_size'),
    }
    return {
      pattern,
      hidden: wholeOf(config, 'hidden_size'),
      ffn: where('-', () => wholeOf(config, 'intermediate_size')),
      heads: where('*', () => wholeOf(config, 'num_attention_heads')),
      kv_heads: where('*', () => wholeOf(config, 'num_key_value_heads', 'num_attention_heads')),
      head_dim: where('*', () => wholeOf(config, 'head_dim', 'attention_head_dim')),
      mamba_heads: where('M', () => wholeOf(config, 'mamba_num_heads')),
      mamba_head_dim: where('M', () => wholeOf(config, 'mamba_head_dim')),
      ...mamba,
      vocab: wholeOf(config, 'vocab_size'),
      rope: false,
      eps: positiveOf(config, ['layer_norm_epsilon', 'rms_norm_eps'], 1e-5),
      init_std: positiveOf(config, ['initializer_range'], 0.02),
    }
  },
}
