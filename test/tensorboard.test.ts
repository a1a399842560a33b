import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { PbfReader } from 'pbf'
import { readMetrics, readNumerics } from '../src/run/read.ts'
import { isTraining, isValidation } from '../src/run/records.ts'
import { runCli } from './cli.ts'
import { configFile, testFolder } from './training.ts'

/** Event files as TensorBoard reads them; test/oracle/read_tensorboard.py shows what its own reader finds. */

/** CRC-32C bit by bit, as RFC 3720 has it. */
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  }
  return ~crc >>> 0
}

interface Event {
  seconds: number
  step: number
  version?: string
  session?: number
  values: { tag?: string; scalar?: number; text?: string; plugin?: string }[]
}

/** A message as its fields by number, nested ones as bytes. */
function fields(
  bytes: Uint8Array,
  read: Readonly<Record<number, (pbf: PbfReader) => unknown>>,
): Map<number, unknown[]> {
  return new PbfReader(bytes).readFields((tag, found: Map<number, unknown[]>, pbf) => {
    const one = read[tag]
    assert.ok(one, `field ${tag}`)
    found.set(tag, [...(found.get(tag) ?? []), one(pbf)])
  }, new Map<number, unknown[]>())
}

const bytes = (pbf: PbfReader) => pbf.readBytes()
const string = (pbf: PbfReader) => pbf.readString()
const integer = (pbf: PbfReader) => pbf.readVarint()

function readValue(value: Uint8Array): Event['values'][number] {
  const parts = fields(value, { 1: string, 2: pbf => pbf.readFloat(), 8: bytes, 9: bytes })
  const [tensor] = (parts.get(8) ?? []) as Uint8Array[]
  const [metadata] = (parts.get(9) ?? []) as Uint8Array[]
  return {
    tag: parts.get(1)![0] as string,
    scalar: parts.get(2)?.[0] as number,
    ...(tensor && { text: fields(tensor, { 1: integer, 2: bytes, 8: string }).get(8)![0] as string }),
    ...(metadata && {
      plugin: fields(fields(metadata, { 1: bytes }).get(1)![0] as Uint8Array, { 1: string }).get(1)![0] as string,
    }),
  }
}

function readEvents(path: string): Event[] {
  const file = readFileSync(path)
  const unmasked = (masked: number) => {
    const rotated = (masked - 0xa282ead8) >>> 0
    return ((rotated << 15) | (rotated >>> 17)) >>> 0
  }
  const events: Event[] = []
  for (let at = 0; at < file.length; ) {
    const length = Number(file.readBigUInt64LE(at))
    assert.equal(unmasked(file.readUInt32LE(at + 8)), crc32c(file.subarray(at, at + 8)))
    const event = file.subarray(at + 12, at + 12 + length)
    assert.equal(unmasked(file.readUInt32LE(at + 12 + length)), crc32c(event))
    const parts = fields(event, { 1: pbf => pbf.readDouble(), 2: integer, 3: string, 5: bytes, 7: bytes })
    const [summary] = (parts.get(5) ?? []) as Uint8Array[]
    const [session] = (parts.get(7) ?? []) as Uint8Array[]
    events.push({
      seconds: parts.get(1)![0] as number,
      step: parts.get(2)![0] as number,
      ...(parts.has(3) && { version: parts.get(3)![0] as string }),
      ...(session && { session: fields(session, { 1: integer }).get(1)![0] as number }),
      values: summary ? ((fields(summary, { 1: bytes }).get(1) ?? []) as Uint8Array[]).map(readValue) : [],
    })
    at += length + 16
  }
  return events
}

describe('--log tensorboard', () => {
  const folder = testFolder()
  const run = (...args: string[]) => runCli(args, { cwd: folder })
  const directory = join(folder, 'r')
  const files = () => readdirSync(join(directory, 'tensorboard')).map(name => join(directory, 'tensorboard', name))

  it('writes the records of a run, and of its continuation in a file that starts a session', () => {
    const config = configFile(folder, 'steps=12')
    const first = run('train', config, '--run', 'r', '--log', 'tensorboard')
    assert.equal(first.status, 0, first.stderr)
    const [file] = files()
    assert.match(file!, /events\.out\.tfevents\.\d+\./)
    const events = readEvents(file!)
    assert.deepEqual(
      [events[0]!.version, events[0]!.step, events[1]!.session, events[1]!.step],
      ['brain.Event:2', 0, 1, 1],
    )
    assert.ok(events.every(({ seconds }) => Math.abs(seconds - Date.now() / 1000) < 600))
    const values = events.flatMap(({ step, values }) => values.map(value => ({ step, ...value })))
    const curve = (tag: string) => values.filter(value => value.tag === tag).map(({ step, scalar }) => [step, scalar])
    const records = [...readMetrics(directory)]
    assert.deepEqual(
      curve('loss/training'),
      records.filter(isTraining).map(({ step, loss }) => [step, Math.fround(loss)]),
    )
    assert.deepEqual(
      curve('loss/validation'),
      records.filter(isValidation).map(({ step, validation_loss: loss }) => [step, Math.fround(loss)]),
    )
    assert.equal(curve('training/lr').length, 12)
    const numerics = [...readNumerics(directory)].filter(({ operand }) => typeof operand === 'string')
    const { linear, operand } = numerics[0]!
    assert.ok(curve(`snr_db/${linear}/${operand}`).length > 0)
  })

  it('shows events as text, and refuses a viewer that it does not know', () => {
    const stopped = run(
      'train',
      configFile(folder, 'steps=8'),
      '--run',
      's',
      '--log',
      'tensorboard',
      'optimizer.lr=1e30',
      'schedule.warmup=0',
    )
    assert.equal(stopped.status, 1)
    const [file] = readdirSync(join(folder, 's', 'tensorboard'))
    const texts = readEvents(join(folder, 's', 'tensorboard', file!)).flatMap(({ values }) =>
      values.filter(({ plugin }) => plugin === 'text'),
    )
    assert.ok(texts.some(({ tag, text }) => tag === 'events/non_finite' && text!.includes('layer')))
    const { status, stderr } = run('train', 'tiny', '--log', 'wandb')
    assert.equal(status, 2)
    assert.match(stderr, /wandb.*tensorboard/)
  })
})
