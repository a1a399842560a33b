import { type Command, Option } from 'commander'
import { toBf16 } from '../formats/bf16.ts'
import { dequantize } from '../formats/prepare.ts'
import { inTurns } from '../run/files.ts'
import { openSafetensors, type TensorToWrite } from '../tensor/safetensors.ts'
import { showWork } from './progress.ts'
import { describeFile, readQuantized, writingTensors } from './quantized_file.ts'
import { stoppable } from './signals.ts'

async function dequantizeFile(input: string, output: string, { dtype }: { dtype: 'f32' | 'bf16' }): Promise<void> {
  const file = openSafetensors(input)
  const work = showWork()
  try {
    const description = describeFile(input, file)
    const written = new Map<string, TensorToWrite>()
    for (const [name, { shape }] of Object.entries(description.tensors)) {
      const values = () => dequantize(readQuantized(input, file, description, name))
      written.set(
        name,
        dtype === 'bf16'
          ? { dtype: 'BF16', shape, data: () => toBf16(values()) }
          : { dtype: 'F32', shape, data: values },
      )
    }
    await stoppable(signal => inTurns(writingTensors(output, written, {}, work), signal), work.done)
  } finally {
    file.close()
  }
}

export function registerDequantize(program: Command): void {
  program
    .command('dequantize')
    .description('Turn what "halfbyte quantize" wrote back into matrices of floats, of the shapes they had.')
    .argument('<input>', 'safetensors file of codes, scales and amaxes')
    .argument('<output>', 'safetensors file to write')
    .addOption(new Option('--dtype <name>', 'dtype of the values').choices(['f32', 'bf16']).default('f32'))
    .addHelpText(
      'after',
      `
Rotations are undone, transposes turned back and padding is cropped.

Examples:
  halfbyte dequantize model-nvfp4.safetensors model.safetensors
  halfbyte dequantize model-nvfp4.safetensors model.safetensors --dtype bf16`,
    )
    .action(dequantizeFile)
}
