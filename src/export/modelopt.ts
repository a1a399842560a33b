import { formats } from '../formats/formats.ts'
import { json } from './folder.ts'
import { inputBound, multiplier, type PackedLayout, scalar } from './packed.ts'

/**
 * ModelOpt's unified Hugging Face checkpoint, as TensorRT-LLM, vLLM and SGLang read it. Outer scales multiply: w = code * block scale *
 * weight_scale_2 (docs/export.md, "ModelOpt").
 */
export const modelopt: PackedLayout = {
  name: 'modelopt',
  formats: ['nvfp4'],
  weightOnly: false,
  tensors: (format, image, [rows, cols], { amax, bound, input }) => ({
    weight: { dtype: 'U8', shape: [rows!, cols! / 2], data: () => image().codes },
    weight_scale: { dtype: 'F8_E4M3', shape: [rows!, cols! / formats[format].block], data: () => image().scales },
    weight_scale_2: scalar(() => multiplier(amax(), bound), []),
    input_scale: scalar(() => multiplier(input!, inputBound), []),
  }),
  config(_, __, ignore) {
    const algorithm = { quant_algo: 'NVFP4', group_size: 16 }
    const producer = { name: 'modelopt', version: '0.29.0' }
    const weights = { dynamic: false, num_bits: 4, type: 'float', group_size: 16 }
    return {
      config: {
        quantization_config: {
          quant_method: 'modelopt',
          quant_algo: 'NVFP4',
          config_groups: { group_0: { input_activations: weights, weights, targets: ['Linear'] } },
          ignore,
          producer,
        },
      },
      files: {
        'hf_quant_config.json': json({
          producer,
          quantization: { ...algorithm, kv_cache_quant_algo: null, exclude_modules: ignore },
        }),
      },
    }
  },
}
