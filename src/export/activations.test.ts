import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { it } from 'node:test'
import { inputAmax } from './activations.ts'

it('inputs are as large as in the second half of the steps, or in the first where the second has none', () => {
  const directory = mkdtempSync(join(tmpdir(), 'halfbyte-activations-'))
  const record = (step: number, linear: string, amax: number, operand = 'xRows') =>
    JSON.stringify({ step, linear, operand, amax })
  const records = [
    record(1, 'a', 90),
    record(50, 'a', 80),
    record(51, 'a', 3),
    record(100, 'a', 2),
    record(101, 'a', 70),
    record(100, 'a', 60, 'wRows'),
    record(1, 'b', 4),
    record(50, 'b', 5),
  ]
  try {
    writeFileSync(join(directory, 'numerics.jsonl'), `${records.join('\n')}\n`)
    assert.deepEqual(
      [...inputAmax({ directory, step: 100 })],
      [
        ['a', 3],
        ['b', 5],
      ],
    )
  } finally {
    rmSync(directory, { recursive: true })
  }
})
