import { formats } from '../formats/formats.ts'
import type { FormatName } from '../recipes/recipe.ts'
import { divisor, inputBound, type PackedLayout, scalar } from './packed.ts'

/**
 * compressed-tensors, as vLLM and transformers read it: `nvfp4-pack-quantized` and `mxfp4-pack-quantized`. Global scales divide:
 * w = code * block scale / weight_global_scale (docs/export.md, "compressed-tensors").
 */

interface Scheme {
  readonly format: string
  readonly scaleDtype: 'F8_E4M3' | 'U8'
  readonly weights: object
  readonly inputs: object
}

const common = { num_bits: 4, type: 'float', symmetric: true }
const nvfp4 = { ...common, strategy: 'tensor_group', group_size: 16, scale_dtype: 'torch.float8_e4m3fn' }
const mxfp4 = { ...common, strategy: 'group', group_size: 32, scale_dtype: 'torch.uint8' }

const schemes: Partial<Record<FormatName, Scheme>> = {
  nvfp4: {
    format: 'nvfp4-pack-quantized',
    scaleDtype: 'F8_E4M3',
    weights: { ...nvfp4, dynamic: false, observer: 'static_minmax' },
    inputs: { ...nvfp4, dynamic: 'local', observer: 'static_minmax' },
  },
  mxfp4: {
    format: 'mxfp4-pack-quantized',
    scaleDtype: 'U8',
    weights: { ...mxfp4, dynamic: false },
    inputs: { ...mxfp4, dynamic: true },
  },
}

export const compressedTensors: PackedLayout = {
  name: 'compressed-tensors',
  formats: Object.keys(schemes) as FormatName[],
  weightOnly: true,
  tensors(format, image, [rows, cols], { amax, bound, input }) {
    const { block, tensorScale } = formats[format]
    return {
      weight_packed: { dtype: 'U8', shape: [rows!, cols! / 2], data: () => image().codes },
      weight_scale: { dtype: schemes[format]!.scaleDtype, shape: [rows!, cols! / block], data: () => image().scales },
      ...(tensorScale && {
        weight_global_scale: scalar(() => divisor(amax(), bound), [1]),
        ...(input !== undefined && { input_global_scale: scalar(() => divisor(input, inputBound), [1]) }),
      }),
    }
  },
  config(name, inputs, ignore) {
    const { format, weights, inputs: activations } = schemes[name]!
    const group = {
      targets: ['Linear'],
      weights,
      input_activations: inputs ? activations : null,
      output_activations: null,
      format,
    }
    return {
      config: {
        quantization_config: {
          quant_method: 'compressed-tensors',
          format,
          quantization_status: 'compressed',
          config_groups: { group_0: group },
          ignore,
          kv_cache_scheme: null,
          global_compression_ratio: null,
        },
      },
      files: {},
    }
  },
}
