import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { it } from 'node:test'
import { packageRoot } from '../src/backends/open.ts'
import * as source from '../src/index.ts'

const built = join(packageRoot(), 'dist', 'src', 'index.js')

it('the package exports what src/index.ts does, under its own name', {
  skip: !existsSync(built) && 'not built',
}, async () => {
  const name: string = 'halfbyte'
  const library: typeof source = await import(name)
  assert.deepEqual(Object.keys(library).sort(), Object.keys(source).sort())
  const values = Float32Array.from({ length: 6 * 5 }, (_, i) => i - 10)
  const image = library.quantize(values, [6, 5], { format: 'nvfp4' })
  assert.deepEqual([image.rows, image.cols, image.codes.length, image.scales.length], [6, 16, 48, 6])
  assert.equal(library.dequantize(image).length, 30)
  assert.throws(() => library.quantize(values, [6, 6], { format: 'nvfp4' }), /30 values are not a matrix of 6 x 6/)
  assert.throws(() => library.quantize(new Float32Array(0), [0, 6], { format: 'nvfp4' }), /nothing to quantise/)
})
