import assert from 'node:assert/strict'
import { it } from 'node:test'
import { compileOptions } from '../src/backends/cuda/nvrtc.ts'

it('code for a GPU keeps every rounding: no contraction, no flush to zero, true division and square root', () => {
  const options = compileOptions('sm_90a', 'bf16')
  assert.deepEqual(options.filter(option => /fast|--(fmad|prec-\w+)=(true|false)|ftz/.test(option)).sort(), [
    '--fmad=false',
    '--ftz=false',
    '--prec-div=true',
    '--prec-sqrt=true',
  ])
})
