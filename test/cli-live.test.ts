import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { createDisplay, formatDuration, History, type Progress, sparkline } from '../src/cli/live.ts'
import { formatCount } from '../src/run/quantities.ts'

const esc = String.fromCharCode(27)

class FakeStream {
  columns = 80
  readonly written: string[] = []
  write(text: string) {
    this.written.push(text)
  }
  get text() {
    return this.written.join('')
  }
}

/** What a terminal would show in the end, control sequences obeyed: a carriage return with a cleared line starts over. */
const screen = (text: string): string[] =>
  text
    .replaceAll(`${esc}[?25l`, '')
    .replaceAll(`${esc}[?25h`, '')
    .split('\n')
    .map(line => line.split(`\r${esc}[2K`).at(-1)!)

const progress = (step: number, loss = 5 / step): Progress => ({
  step,
  loss,
  tokensPerSecond: 2000,
  lr: 1e-3,
  gradNorm: 0.5,
})

describe('live display on a terminal', () => {
  const start = (columns = 80, environment = { NO_COLOR: '1' } as Record<string, string>) => {
    const stream = new FakeStream()
    stream.columns = columns
    const clock = { time: 0 }
    const display = createDisplay({
      steps: 400,
      tokensPerStep: 1000,
      stream,
      isTTY: true,
      now: () => clock.time,
      environment,
    })
    return { stream, clock, display }
  }

  it('shows step, loss, speed, time left and the history of the loss', () => {
    const { stream, clock, display } = start()
    for (let step = 1; step <= 200; step++) {
      clock.time += 500
      display.update(progress(step))
    }
    display.done()
    const line = screen(stream.text)[0]!
    assert.match(line, /^200\/400 {2}loss 0\.025 {2}2\.00k tokens\/s {2}1:40 left {2}█▃?[▁▂]/)
    assert.equal(line.length, 79)
  })

  it('redraws at most 10 times a second, and the last state always', () => {
    const { stream, clock, display } = start()
    for (let step = 1; step <= 400; step++) {
      clock.time += 1
      display.update(progress(step))
    }
    assert.equal(stream.written.length, 4)
    display.done()
    assert.match(screen(stream.text)[0]!, /^400\/400/)
  })

  it('never writes a line as wide as the terminal', () => {
    for (const columns of [1, 8, 9, 24, 25, 41, 60, 200]) {
      const { stream, display } = start(columns)
      display.update(progress(100))
      display.done()
      const line = screen(stream.text)[0]!
      assert.ok(line.length < Math.max(columns, 2), `${columns} columns: ${line}`)
      if (columns >= 9) assert.ok(line.startsWith('100/400'))
    }
  })

  it('keeps notes above the live line', () => {
    const { stream, display } = start()
    display.update(progress(1))
    display.note('step 1: validation loss 4.321')
    display.done()
    const lines = screen(stream.text)
    assert.equal(lines[0], 'step 1: validation loss 4.321')
    assert.match(lines[1]!, /^ {2}1\/400/)
  })

  it('hides the cursor and gives it back once', () => {
    const { stream, display } = start()
    display.update(progress(1))
    display.done()
    display.done()
    assert.equal(stream.text.split(`${esc}[?25l`).length, 2)
    assert.equal(stream.text.split(`${esc}[?25h`).length, 2)
    assert.ok(stream.text.endsWith(`\n${esc}[?25h`))
  })

  it('writes nothing at all if there was nothing to show', () => {
    const { stream, display } = start()
    display.done()
    assert.equal(stream.text, '')
  })

  it('colours unless NO_COLOR is set', () => {
    const colourful = start(80, {})
    colourful.display.update(progress(1))
    colourful.display.done()
    assert.ok(colourful.stream.text.includes(`${esc}[1m`))
    const plain = start()
    plain.display.update(progress(1))
    plain.display.done()
    assert.ok(!plain.stream.text.includes(`${esc}[1m`))
  })
})

describe('plain display', () => {
  it('prints about 20 lines, first and last step included, and every note', () => {
    const stream = new FakeStream()
    const display = createDisplay({ steps: 400, tokensPerStep: 1000, stream, now: () => 0, environment: {} })
    for (let step = 1; step <= 400; step++) {
      display.update(progress(step))
      if (step === 10) display.note('step 10: validation loss 0.6')
    }
    display.done()
    const lines = stream.text.trimEnd().split('\n')
    assert.equal(lines.length, 22)
    assert.equal(lines[0], 'step   1/400  loss 5.0000  lr 1.00e-3  grad 0.500  2.00k tokens/s  ? left')
    assert.equal(lines[1], 'step 10: validation loss 0.6')
    assert.match(lines.at(-1)!, /^step 400\/400 .* 0:00 left$/)
    assert.ok(!stream.text.includes(esc))
  })

  it('prints the speed of the training, not that of a step which took twice as long', () => {
    const stream = new FakeStream()
    const display = createDisplay({ steps: 200, tokensPerStep: 1000, stream, now: () => 0, environment: {} })
    for (let step = 1; step <= 200; step++)
      display.update({ ...progress(step), tokensPerSecond: step % 10 === 0 ? 1000 : 2000 })
    const speeds = stream.text.match(/\S+(?= tokens\/s)/g)!
    assert.equal(speeds.length, 21)
    assert.ok(
      speeds.every(speed => /^(2\.00|1\.[89]\d)k$/.test(speed)),
      speeds.join(),
    )
  })

  it('prints a line a minute where 5 % of the steps take longer', () => {
    const stream = new FakeStream()
    let time = 0
    const display = createDisplay({ steps: 100000, tokensPerStep: 1000, stream, now: () => time, environment: {} })
    for (let step = 1; step <= 13; step++, time += 10_000) display.update(progress(step))
    assert.deepEqual(
      stream.text.match(/step +\d+/g)!.map(match => Number(match.slice(4))),
      [1, 7, 13],
    )
  })

  it('is chosen for CI jobs, dumb terminals and pipes', () => {
    for (const [isTTY, environment, live] of [
      [true, {}, true],
      [true, { CI: 'true' }, false],
      [true, { TERM: 'dumb' }, false],
      [false, {}, false],
    ] as const) {
      const stream = Object.assign(new FakeStream(), { isTTY })
      const display = createDisplay({ steps: 4, tokensPerStep: 1, stream, environment })
      display.update(progress(1))
      display.done()
      assert.equal(stream.text.includes(esc), live)
    }
  })
})

describe('parts of the display', () => {
  it('formats durations and counts', () => {
    assert.deepEqual([0, 41.4, 61, 3725, -3].map(formatDuration), ['0:00', '0:41', '1:01', '1:02:05', '0:00'])
    assert.deepEqual(
      [0, 812, 999.6, 1234, 12345, 123456, 999_999, 2_500_000, 1_500_000_000, 10e12, 12_345e12].map(formatCount),
      ['0', '812', '1.00k', '1.23k', '12.3k', '123k', '1.00M', '2.50M', '1.50B', '10.0T', '12345T'],
    )
  })

  it('draws a sparkline from the smallest to the largest value', () => {
    assert.equal(sparkline([7, 6, 5, 4, 3, 2, 1, 0]), '█▇▆▅▄▃▂▁')
    assert.equal(sparkline([2, 2, 2]), '▁▁▁')
    assert.equal(sparkline([1, Number.NaN, 0]), '█ ▁')
    assert.equal(sparkline([]), '')
  })

  it('keeps a long history in bounded groups whose means are right', () => {
    const history = new History(8)
    for (let i = 0; i < 1000; i++) history.add(i)
    const means = history.resample(100)
    assert.ok(means.length <= 8)
    assert.equal(means[0], 63.5)
    const two = history.resample(2)
    assert.equal(two.length, 2)
    assert.ok(two[0]! < two[1]!)
  })
})
