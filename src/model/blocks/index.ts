import { attention } from './attention.ts'
import type { BlockKind } from './block.ts'
import { ffn } from './ffn.ts'
import { mamba } from './mamba.ts'

/** The kinds of blocks, by their character in a pattern. */
export const blockKinds: Readonly<Record<string, BlockKind>> = { M: mamba, '*': attention, '-': ffn }
