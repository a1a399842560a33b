import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { cutRecords, readRecords } from './records.ts'

const root = mkdtempSync(join(tmpdir(), 'halfbyte-records-'))
after(() => rmSync(root, { recursive: true }))
let count = 0
function fresh(): string {
  const directory = join(root, String(++count))
  mkdirSync(directory)
  return directory
}

describe('records', () => {
  const lines = (...records: object[]) => records.map(record => `${JSON.stringify(record)}\n`).join('')

  it('are read without a torn last line', () => {
    const path = join(fresh(), 'metrics.jsonl')
    writeFileSync(path, `${lines({ step: 1 }, { step: 2 })}{"step":3,"lo`)
    assert.deepEqual([...readRecords(path)], [{ step: 1 }, { step: 2 }])
    assert.deepEqual([...readRecords(join(root, 'none.jsonl'))], [])
  })

  it('are cut after a step, torn lines too, in every file', () => {
    const directory = fresh()
    const path = (name: string) => join(directory, name)
    writeFileSync(
      path('metrics.jsonl'),
      lines({ step: 1, loss: 3 }, { step: 2, loss: 3 }, { step: 2, validation_loss: 'é' }, { step: 3, loss: 1 }),
    )
    writeFileSync(path('events.jsonl'), `${lines({ step: 2, event: 'a' })}{"step":`)
    writeFileSync(path('numerics.jsonl'), '{"st')
    cutRecords(directory, 2)
    assert.equal(
      readFileSync(path('metrics.jsonl'), 'utf8'),
      lines({ step: 1, loss: 3 }, { step: 2, loss: 3 }, { step: 2, validation_loss: 'é' }),
    )
    assert.equal(readFileSync(path('events.jsonl'), 'utf8'), lines({ step: 2, event: 'a' }))
    assert.equal(readFileSync(path('numerics.jsonl'), 'utf8'), '')
    cutRecords(directory, 2)
    assert.equal([...readRecords(path('metrics.jsonl'))].length, 3)
  })

  it('are read across the borders of what is read at once', () => {
    const directory = fresh()
    const path = join(directory, 'metrics.jsonl')
    const records = Array.from({ length: 5000 }, (_, step) => ({ step, text: 'ü'.repeat(step % 150) }))
    writeFileSync(path, lines(...records))
    assert.deepEqual([...readRecords(path)], records)
    cutRecords(directory, 4500)
    assert.equal(readFileSync(path, 'utf8'), lines(...records.slice(0, 4501)))
  })

  it('name a line that is none', () => {
    const path = join(fresh(), 'events.jsonl')
    writeFileSync(path, '{"step":1}\n{"ste\n{"step":3}\n')
    assert.throws(() => [...readRecords(path)], {
      name: 'UserError',
      message: `${path}, line 2: found no record, wanted {"step": ...}`,
    })
  })
})
