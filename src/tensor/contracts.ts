import { dimNames } from './bind.ts'
import { dtypes } from './dtype.ts'
import type { Args, Kernel } from './kernel.ts'

/**
 * The C header that every .cpp and .cu includes, generated from the contracts, and the packing of a call's arguments to match.
 *
 * Each kernel has one struct of 8-byte slots: the arguments in the contract's order (a `float` tensor takes a pointer and a
 * slot that is 1 for BF16), then every dimension as int64. JavaScript fills the same slots, so native code is entered with one
 * pointer (CPU) or one by-value parameter (CUDA), and a drifted contract does not compile.
 */

const hasAct = (args: Args): boolean => Object.values(args).some(arg => arg.kind === 'tensor' && arg.dtype === 'act')

const scalarTypes = { f32: 'float', i32: 'int32_t', u32: 'uint32_t' }

function fields(args: Args): string[] {
  const lines: string[] = []
  for (const [name, arg] of Object.entries(args)) {
    if (arg.kind === 'scalar') lines.push(`${scalarTypes[arg.type]} ${name};`)
    else {
      const type = arg.dtype === 'act' ? 'Act' : arg.dtype === 'float' ? 'void' : dtypes[arg.dtype].c
      lines.push(`${arg.access === 'in' ? 'const ' : ''}${type}* ${name};`)
      if (arg.dtype === 'float') lines.push(`int64_t ${name}_is_bf16;`)
    }
  }
  for (const name of dimNames(args)) lines.push(`int64_t ${name};`)
  return lines
}

export function contractsHeader(kernels: readonly Kernel[]): string {
  const structs = kernels.map(kernel => {
    const members = fields(kernel.args).map(line => `  alignas(8) ${line}\n`)
    const template = hasAct(kernel.args) ? 'template <class Act> ' : ''
    return `${template}struct ${kernel.name}_args {\n${members.join('')}};\n`
  })
  return `#pragma once\n#include "number.h"\n\n${structs.join('\n')}`
}

/** C symbols of a kernel: one per activation dtype where the contract has `act` arguments. */
export const symbolOf = (kernel: Kernel, act: 'f32' | 'bf16'): string =>
  hasAct(kernel.args) ? `${kernel.name}_${act}` : kernel.name

/** Size of a kernel's argument struct in 8-byte slots. */
export const slotsOf = (kernel: Kernel): number => fields(kernel.args).length
