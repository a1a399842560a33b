import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageRoot } from '../src/backends/open.ts'
import { floatsOf, readSafetensors, type SafetensorsContents, type StoredTensor } from '../src/tensor/safetensors.ts'

/** An entry of test/golden/index.json. */
export interface GoldenCase {
  readonly case: string
  readonly file: string
  readonly kind: string
  readonly dtype: 'f32' | 'bf16'
  readonly rows: number
  readonly cols: number
  readonly tile: string
  readonly scale_order: 'q6' | 'm6'
  readonly rht_on_transpose: boolean
  readonly error: 'MAE' | 'MSE'
  readonly pow2_scales: boolean
  readonly tokens: number
  readonly in_features: number
  readonly out_features: number
}

const folder = join(packageRoot(), 'test', 'golden')
export const index: readonly GoldenCase[] = JSON.parse(readFileSync(join(folder, 'index.json'), 'utf8'))
const files = new Map<string, SafetensorsContents>()

/** A part of a case; undefined if it has none such. */
export function storedOf({ file, case: name }: GoldenCase, part: string): StoredTensor | undefined {
  if (!files.has(file)) files.set(file, readSafetensors(readFileSync(join(folder, file))))
  return files.get(file)!.tensors.get(`${name}/${part}`)
}

/** The same as FP32 if it is of floats. */
export function tensorOf(golden: GoldenCase, part: string): Float32Array | Uint8Array | undefined {
  const stored = storedOf(golden, part)
  return stored && (floatsOf(stored) ?? stored.data)
}

/** A floating-point part of a case. */
export const floats = (golden: GoldenCase, part: string): Float32Array => tensorOf(golden, part) as Float32Array

const bytes = (array: Float32Array | Uint8Array): Buffer =>
  Buffer.from(array.buffer, array.byteOffset, array.byteLength)

/** The bytes of a part agree, the sign of zero included. */
export function same(golden: GoldenCase, part: string, got: Float32Array | Uint8Array): void {
  const want = tensorOf(golden, part)
  assert.ok(want, `${golden.case} has no ${part}`)
  assert.ok(bytes(got).equals(bytes(want)), `${golden.case}: ${part} differs`)
}

/** All cases of a kind, of which there must be so many. */
export const cases = (kind: string, count: number): GoldenCase[] => {
  const found = index.filter(golden => golden.kind === kind)
  assert.equal(found.length, count)
  return found
}
