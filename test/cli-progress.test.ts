import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { createProgressBar } from '../src/cli/progress.ts'

/** A bar on a stream of 60 columns, with a clock that the test moves. */
function bar(isTTY: boolean) {
  const written: string[] = []
  const clock = { now: 0 }
  const stream = { isTTY, columns: 60, write: (text: string) => written.push(text) }
  return { written, clock, progress: createProgressBar({ stream, now: () => clock.now, environment: {} }) }
}

describe('a progress bar', () => {
  it('redraws one line on a terminal, with the time left, and takes it away at the end', () => {
    const { written, clock, progress } = bar(true)
    progress.update(0, 200, 'gradients')
    clock.now = 50
    progress.update(1, 200, 'gradients')
    clock.now = 30_000
    progress.update(50, 200, 'without square scaling')
    progress.done()
    assert.equal(written.length, 3)
    assert.equal(written[0], `\r\x1b[2Kgradients  ${'░'.repeat(20)}   0 %  ? left`)
    assert.equal(written[1], `\r\x1b[2Kwithout square scali  █████${'░'.repeat(15)}  25 %  1:30 left`)
    assert.equal(written[2], '\r\x1b[2K')
  })

  it('writes a line now and then elsewhere, and none for short work', () => {
    const { written, clock, progress } = bar(false)
    for (let second = 0; second < 50; second++) {
      clock.now = 1000 * second
      progress.update(second, 50, 'all layers')
    }
    progress.done()
    assert.deepEqual(written, [
      'all layers: 30 %, 0:35 left\n',
      'all layers: 60 %, 0:20 left\n',
      'all layers: 90 %, 0:05 left\n',
    ])
  })
})
