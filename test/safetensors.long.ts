import assert from 'node:assert/strict'
import { it } from 'node:test'
import { fuzz } from './safetensors_fuzz.ts'

it('the safetensors reader survives 10,000 mutated files within 200 MB', () => {
  const before = process.memoryUsage().rss
  const { refused, accepted } = fuzz(10_000, 2)
  assert.equal(refused + accepted, 10_000)
  assert.ok(refused > 5000 && accepted > 100, `${refused} refused, ${accepted} accepted`)
  assert.ok(process.memoryUsage().rss - before < 200e6)
})
