import { closeSync, fsyncSync, openSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { crc32c } from '@aws-crypto/crc32c'
import { PbfWriter } from 'pbf'
import { UserError } from '../config/errors.ts'
import { makeDirectory, systemReason, writeAll } from './files.ts'
import type { RecordFile } from './layout.ts'
import type { RunRecord } from './records.ts'

/**
 * The records of a run as event files of TensorBoard. A file is a row of
 *
 *   u64 length | u32 masked CRC-32C of the length | protocol buffer `Event` | u32 masked CRC-32C of the event        little endian
 *
 *   masked = (crc >> 15 | crc << 17) + 0xa282ead8
 *
 * Field numbers are those of tensorflow/core/util/event.proto, framework/summary.proto and framework/tensor.proto. A run that goes on writes
 * a file of its own, which begins with the session's start at that step: TensorBoard then drops what an earlier file says of later steps.
 */

/** Receives what a run records, beside its own files. */
export interface RecordSink {
  record(file: RecordFile, record: RunRecord): void
  /** Flushes to the disk. */
  sync(): void
  close(): void
}

const masked = (bytes: Uint8Array): number => {
  const crc = crc32c(bytes)
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}

function frame(event: Uint8Array): Uint8Array {
  const framed = new Uint8Array(event.length + 16)
  const view = new DataView(framed.buffer)
  view.setBigUint64(0, BigInt(event.length), true)
  view.setUint32(8, masked(framed.subarray(0, 8)), true)
  framed.set(event, 12)
  view.setUint32(12 + event.length, masked(event), true)
  return framed
}

type Value = { readonly tag: string } & ({ readonly scalar: number } | { readonly text: string })

const TEXT = 7
const START = 1

/** A message whose one field is another message. */
const nested =
  (write: (pbf: PbfWriter) => void) =>
  (_: undefined, pbf: PbfWriter): void =>
    write(pbf)

function writeTensor(text: string, pbf: PbfWriter): void {
  const size = nested(dimension => dimension.writeVarintField(1, 1))
  pbf.writeVarintField(1, TEXT)
  pbf.writeMessage(
    2,
    nested(shape => shape.writeMessage(2, size, undefined)),
    undefined,
  )
  pbf.writeStringField(8, text)
}

function writeValue(value: Value, pbf: PbfWriter): void {
  pbf.writeStringField(1, value.tag)
  if ('scalar' in value) {
    pbf.writeFloatField(2, value.scalar)
    return
  }
  const plugin = nested(data => data.writeStringField(1, 'text'))
  pbf.writeMessage(
    9,
    nested(metadata => metadata.writeMessage(1, plugin, undefined)),
    undefined,
  )
  pbf.writeMessage(8, writeTensor, value.text)
}

function eventBytes(seconds: number, step: number, write: (pbf: PbfWriter) => void): Uint8Array {
  const pbf = new PbfWriter()
  pbf.writeDoubleField(1, seconds)
  pbf.writeVarintField(2, step)
  write(pbf)
  return pbf.finish()
}

/** Keys of records that are no curve of their own. */
const notCurves: ReadonlySet<string> = new Set(['step', 'linear', 'operand', 'tokens'])
/** What TensorBoard shows in one group. */
const groups: Readonly<Record<string, string>> = { loss: 'loss/training', validation_loss: 'loss/validation' }

function scalars({ linear, operand, ...record }: RunRecord): Value[] {
  const place = typeof linear === 'string' ? [linear, ...(typeof operand === 'string' ? [operand] : [])] : undefined
  return Object.entries(record).flatMap(([key, scalar]) => {
    if (typeof scalar !== 'number' || notCurves.has(key)) return []
    return [{ tag: place ? `${key}/${place.join('/')}` : (groups[key] ?? `training/${key}`), scalar }]
  })
}

const text = ({ step: _, event, ...rest }: RunRecord): Value[] => [
  { tag: `events/${event}`, text: `\`${JSON.stringify(rest)}\`` },
]

const valuesOf: Readonly<Record<RecordFile, (record: RunRecord) => Value[]>> = {
  'metrics.jsonl': scalars,
  'numerics.jsonl': scalars,
  'events.jsonl': text,
}

/**
 * Event files in <run>/tensorboard.
 * @param step of the checkpoint that the run goes on from; 0 for a new one.
 * @param now seconds since 1970.
 * @throws UserError if the folder cannot be written.
 */
function tensorboardSink(run: string, step: number, now: () => number = () => Date.now() / 1000): RecordSink {
  const folder = join(run, 'tensorboard')
  const path = join(folder, `events.out.tfevents.${Math.floor(now())}.${hostname()}.${process.pid}.${step}`)
  const writing = <T>(body: () => T): T => {
    try {
      return body()
    } catch (error) {
      throw new UserError(`${path} cannot be written: ${systemReason(error)}`)
    }
  }
  const file = writing(() => {
    makeDirectory(folder)
    return openSync(path, 'ax')
  })
  const put = (at: number, write: (pbf: PbfWriter) => void) =>
    writing(() => writeAll(file, frame(eventBytes(now(), at, write))))
  put(step, pbf => pbf.writeStringField(3, 'brain.Event:2'))
  put(step + 1, pbf =>
    pbf.writeMessage(
      7,
      nested(session => session.writeVarintField(1, START)),
      undefined,
    ),
  )
  return {
    record(name, record) {
      const values = valuesOf[name](record)
      if (values.length === 0) return
      const summary = nested(message => {
        for (const value of values) message.writeMessage(1, writeValue, value)
      })
      put(record.step, pbf => pbf.writeMessage(5, summary, undefined))
    },
    sync: () => fsyncSync(file),
    close: () => closeSync(file),
  }
}

/** Kinds of logs that `--log` names, beside the run's own files. */
export const logs: Readonly<Record<string, (run: string, step: number) => RecordSink>> = {
  tensorboard: tensorboardSink,
}
