import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { referenceBackend } from '../src/backends/reference.ts'
import { UserError } from '../src/config/errors.ts'
import { Stream } from '../src/formats/philox.ts'
import {
  type CheckpointFiles,
  type CheckpointTensor,
  fromBackend,
  latestGood,
  listCheckpoints,
  pruneCheckpoints,
  readCheckpoint,
  removeRemains,
  setAside,
  writeCheckpoint,
} from '../src/run/checkpoint.ts'
import { restoreTensors, toBackend } from '../src/run/restore.ts'
import type { TypedArray } from '../src/tensor/dtype.ts'
import { readSafetensors } from '../src/tensor/safetensors.ts'
import { Tensor } from '../src/tensor/tensor.ts'

const root = mkdtempSync(join(tmpdir(), 'halfbyte-checkpoint-'))
after(() => rmSync(root, { recursive: true, force: true }))
let count = 0
const fresh = () => {
  const directory = join(root, `run-${++count}`)
  mkdirSync(directory)
  return directory
}

const random = new Stream(5, 0)
const values = (size: number) => Float32Array.from({ length: size }, () => random.normal())
const tensorOf = (name: string, array: Float32Array, shape = [array.length]): CheckpointTensor => ({
  name,
  dtype: 'f32',
  shape,
  read: (start, into) => (into as Float32Array).set(array.subarray(start, start + into.length)),
})
const weight = values(15)
const moment = values(15)
const files: CheckpointFiles = {
  model: [tensorOf('backbone.layers.0.norm.weight', weight, [3, 5])],
  optimizer: [tensorOf('exp_avg.backbone.layers.0.norm.weight', moment, [3, 5])],
}
const save = (run: string, ...steps: number[]) => {
  for (const step of steps) writeCheckpoint(run, files, { step, seed: 1, tokens: 64 * step, spikes: 2 })
}
const inside = (run: string, step: number, name: string) => join(run, 'checkpoints', String(step), name)

const refuses = (run: () => unknown, message: string) =>
  assert.throws(run, error => {
    assert.ok(error instanceof UserError, (error as Error).stack)
    assert.equal(error.message.replaceAll(root, 'ROOT'), message)
    return true
  })

function flip(path: string, byte: number, bit = 0): void {
  const bytes = readFileSync(path)
  assert.ok(byte < bytes.length)
  bytes[byte]! ^= 1 << bit
  writeFileSync(path, bytes)
}

describe('checkpoint', () => {
  it('is safetensors with flat dotted names, and the state', () => {
    const run = fresh()
    save(run, 10)
    const { tensors } = readSafetensors(readFileSync(inside(run, 10, 'model.safetensors')))
    const stored = tensors.get('backbone.layers.0.norm.weight')!
    assert.deepEqual([stored.dtype, stored.shape], ['F32', [3, 5]])
    assert.deepEqual(Buffer.from(stored.data), Buffer.from(weight.buffer))
    const { state, files: paths } = readCheckpoint(run, 10)
    assert.deepEqual(state, { step: 10, seed: 1, tokens: 640, spikes: 2 })
    assert.deepEqual(Object.keys(paths), ['model', 'optimizer'])
    assert.deepEqual(readdirSync(join(run, 'checkpoints')), ['10'])
  })

  it('comes back from a backend and into one, bit for bit', () => {
    const run = fresh()
    const backend = referenceBackend()
    const tensor = (dtype: 'f32' | 'bf16' | 'u32', data: TypedArray) =>
      new Tensor(backend, backend.alloc(4096), 64, dtype, [data.length]).write(data)
    const sources = {
      w: tensor('f32', Float32Array.of(1, -0, Number.NaN, 1e-45)),
      b: tensor('bf16', Uint16Array.of(0x3f80, 0xff80, 1)),
      r: tensor('u32', Uint32Array.of(1, 0xffffffff)),
    }
    writeCheckpoint(
      run,
      { model: Object.entries(sources).map(([name, source]) => fromBackend(name, source)) },
      { step: 1, seed: 1, tokens: 0 },
    )
    const targets = {
      w: tensor('f32', new Float32Array(4)),
      b: tensor('bf16', new Uint16Array(3)),
      r: tensor('u32', new Uint32Array(2)),
    }
    restoreTensors(
      readCheckpoint(run, 1).files.model!,
      Object.entries(targets).map(([name, target]) => toBackend(name, target)),
    )
    for (const name of ['w', 'b', 'r'] as const)
      assert.deepEqual(new Uint8Array(targets[name].read().buffer), new Uint8Array(sources[name].read().buffer))
  })

  it('copies a part of a tensor from and to its place', () => {
    const backend = referenceBackend()
    const whole = new Tensor(backend, backend.alloc(64), 0, 'f32', [16]).write(values(16))
    const part = whole.part(4, [8])
    for (const start of [-1, 9]) assert.throws(() => whole.part(start, [8]), /part \[8\] at -?\d is outside f32\[16\]/)
    const [read, before] = [new Float32Array(3), whole.floats()]
    fromBackend('part', part).read(2, read)
    assert.deepEqual(read, before.subarray(6, 9))
    toBackend('part', part).write(5, Float32Array.of(7, 8, 9))
    before.set([7, 8, 9], 9)
    assert.deepEqual(whole.floats(), before)
  })

  it('is written and read in pieces of at most 64 MiB', () => {
    const run = fresh()
    const size = 2 ** 24 + 5
    let largest = 0
    let calls = 0
    const big: CheckpointTensor = {
      name: 'big',
      dtype: 'f32',
      shape: [size],
      read(start, into) {
        largest = Math.max(largest, into.byteLength)
        calls++
        for (let i = 0; i < into.length; i++) into[i] = start + i
      },
    }
    writeCheckpoint(run, { model: [big] }, { step: 1, seed: 1, tokens: 0 })
    assert.deepEqual([largest, calls], [64 * 2 ** 20, 2])
    let expected = 0
    restoreTensors(readCheckpoint(run, 1).files.model!, [
      {
        ...big,
        write(start, from) {
          assert.equal(start, expected)
          assert.ok(from.byteLength <= 64 * 2 ** 20)
          for (const i of [0, from.length - 1]) assert.equal(from[i], start + i)
          expected += from.length
        },
      },
    ])
    assert.equal(expected, size)
    rmSync(run, { recursive: true })
  })

  it('of the newest K stay', () => {
    const run = fresh()
    save(run, 5, 100, 20, 9)
    assert.deepEqual(listCheckpoints(run), [5, 9, 20, 100])
    pruneCheckpoints(run, 2)
    assert.deepEqual(listCheckpoints(run), [20, 100])
  })

  it('can be saved again at the same step', () => {
    const run = fresh()
    save(run, 10)
    writeCheckpoint(run, files, { step: 10, seed: 2, tokens: 0 })
    assert.equal(readCheckpoint(run, 10).state.seed, 2)
    assert.deepEqual(readdirSync(join(run, 'checkpoints')), ['10'])
  })

  it('that was being written or replaced when the process died is cleared up', () => {
    const run = fresh()
    save(run, 10, 20)
    const folder = join(run, 'checkpoints')
    renameSync(join(folder, '20'), join(folder, '.replaced-20'))
    mkdirSync(join(folder, '.writing-20'))
    mkdirSync(join(folder, '.deleted-5'))
    assert.deepEqual(listCheckpoints(run), [10])
    removeRemains(run)
    assert.deepEqual(readdirSync(folder).sort(), ['10', '20'])
    assert.equal(readCheckpoint(run, 20).state.step, 20)
  })

  it('refuses tensors that are not those of the model', () => {
    const run = fresh()
    save(run, 10)
    const path = readCheckpoint(run, 10).files.model!
    const named = path.replace(root, 'ROOT')
    const target = (name: string, shape: number[]) => ({
      name,
      dtype: 'f32' as const,
      shape,
      write: () => assert.fail('written before all was checked'),
    })
    const norm = 'backbone.layers.0.norm.weight'
    refuses(
      () => restoreTensors(path, [target(norm, [5, 3])]),
      `${named}: tensor ${norm}: found F32[3, 5], wanted F32[5, 3]`,
    )
    refuses(
      () => restoreTensors(path, [target(norm, [3, 5]), target('lm_head.weight', [2])]),
      `${named} has no tensor lm_head.weight, wanted F32[2]`,
    )
    refuses(() => restoreTensors(path, []), `${named} has a tensor ${norm} that the model does not have`)
  })
})

describe('a damaged checkpoint', () => {
  it('is named by its file: truncated, changed, missing, not there', () => {
    const run = fresh()
    save(run, 10, 20, 30, 40, 50, 60)
    const named = (step: number, name: string) => inside(run, step, name).replace(root, 'ROOT')
    const model = inside(run, 10, 'model.safetensors')
    const { length } = readFileSync(model)
    truncateSync(model, length - 3)
    refuses(
      () => readCheckpoint(run, 10),
      `${named(10, 'model.safetensors')} is truncated: found ${length - 3} bytes, wanted ${length}`,
    )
    flip(inside(run, 20, 'optimizer.safetensors'), length - 1, 7)
    refuses(
      () => readCheckpoint(run, 20),
      `${named(20, 'optimizer.safetensors')} is damaged: its SHA-256 is not the one in state.json`,
    )
    rmSync(inside(run, 30, 'model.safetensors'))
    refuses(() => readCheckpoint(run, 30), `${named(30, 'model.safetensors')} is missing`)
    truncateSync(inside(run, 40, 'state.json'), 20)
    refuses(() => readCheckpoint(run, 40), `${named(40, 'state.json')} is damaged: it is not JSON`)
    const state = inside(run, 50, 'state.json')
    writeFileSync(state, readFileSync(state, 'utf8').replace('"tokens": 3200', '"tokens": 3201'))
    refuses(
      () => readCheckpoint(run, 50),
      `${named(50, 'state.json')} is damaged: its SHA-256 is not the one written in it`,
    )
    rmSync(inside(run, 60, 'state.json'))
    refuses(
      () => readCheckpoint(run, 60),
      `${named(60, 'state.json')} cannot be read: ENOENT: no such file or directory`,
    )
    refuses(
      () => readCheckpoint(run, 70),
      `${run.replace(root, 'ROOT')} has no checkpoint of step 70; there are 10, 20, 30, 40, 50, 60`,
    )
    const empty = fresh()
    refuses(() => readCheckpoint(empty, 70), `ROOT/run-${count} has no checkpoint of step 70; there is none`)
    renameSync(join(run, 'checkpoints', '30'), join(run, 'checkpoints', '31'))
    refuses(
      () => readCheckpoint(run, 31),
      `${named(31, 'state.json')} is of step 30, wanted 31: the folder was renamed`,
    )
  })

  it('is found out whatever bit is flipped', () => {
    const run = fresh()
    save(run, 10)
    const wanted = readCheckpoint(run, 10).state
    let found = 0
    for (const name of ['model.safetensors', 'optimizer.safetensors', 'state.json'])
      for (let trial = 0; trial < 60; trial++) {
        const path = inside(run, 10, name)
        const byte = random.below(readFileSync(path).length)
        const bit = random.below(8)
        flip(path, byte, bit)
        try {
          assert.deepEqual(readCheckpoint(run, 10).state, wanted)
          assert.equal(name, 'state.json', 'only white space between the values of the state may change unnoticed')
        } catch (error) {
          assert.ok(error instanceof UserError, String(error))
          found++
        }
        flip(path, byte, bit)
      }
    assert.ok(found > 170, `${found} of 180`)
  })

  it('leaves the newest intact one, and says what it passed over', () => {
    const run = fresh()
    save(run, 10, 20, 30)
    flip(inside(run, 30, 'model.safetensors'), 30)
    const passed: [number, string][] = []
    assert.equal(latestGood(run, (step, reason) => passed.push([step, reason]))!.state.step, 20)
    assert.equal(passed.length, 1)
    assert.match(passed[0]![1], /30\/model\.safetensors is damaged/)
    setAside(run, 30)
    assert.deepEqual(listCheckpoints(run), [10, 20])
    assert.ok(existsSync(join(run, 'checkpoints', '.damaged-30', 'model.safetensors')))
  })

  it('is refused if no other is intact', () => {
    const run = fresh()
    assert.equal(
      latestGood(run, () => assert.fail()),
      undefined,
    )
    save(run, 10, 20)
    flip(inside(run, 10, 'model.safetensors'), 30)
    flip(inside(run, 20, 'model.safetensors'), 30)
    refuses(
      () => latestGood(run, () => {}),
      `${inside(run, 20, 'model.safetensors').replace(root, 'ROOT')} is damaged: its SHA-256 is not the one in state.json; no older checkpoint is intact`,
    )
  })
})

describe('a disk that is full', () => {
  it('at any write leaves the older checkpoint and nothing of the new one', () => {
    for (const good of [0, 1, 2, 3, 4, 5, 6]) {
      const run = fresh()
      save(run, 10)
      let left = good
      const failing = (file: number, bytes: Uint8Array, offset: number, length: number) => {
        if (left-- > 0) return writeSync(file, bytes, offset, length)
        throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })
      }
      refuses(
        () => writeCheckpoint(run, files, { step: 20, seed: 1, tokens: 0 }, { write: failing }),
        `the checkpoint of step 20 cannot be saved in ROOT/run-${count}/checkpoints: ENOSPC: no space left on device; the one of step 10 stays`,
      )
      assert.deepEqual(readdirSync(join(run, 'checkpoints')), ['10'])
      assert.equal(readCheckpoint(run, 10).state.step, 10)
    }
    const run = fresh()
    refuses(
      () =>
        writeCheckpoint(
          run,
          files,
          { step: 20, seed: 1, tokens: 0 },
          {
            write: () => {
              throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })
            },
          },
        ),
      `the checkpoint of step 20 cannot be saved in ROOT/run-${count}/checkpoints: ENOSPC: no space left on device; there is no older one`,
    )
  })

  it('is met on a real file system too', t => {
    const disk = join(fresh(), 'disk')
    mkdirSync(disk)
    const script = `
      import { readdirSync } from 'node:fs'
      const { readCheckpoint, writeCheckpoint } = await import(${JSON.stringify(new URL('../src/run/checkpoint.js', import.meta.url).href)})
      const run = process.argv[1]
      const save = (step, size) => writeCheckpoint(run, { model: [{ name: 'w', dtype: 'f32', shape: [size], read: (start, into) => into.fill(1) }] }, { step, seed: 1, tokens: 0 })
      save(1, 100_000)
      try { save(2, 400_000); console.log('saved') } catch (error) { console.log(error.message) }
      console.log(readdirSync(run + '/checkpoints').join(), readCheckpoint(run, 1).state.step)`
    const { status, stdout, stderr } = spawnSync(
      'unshare',
      [
        '--mount',
        '--map-root-user',
        'sh',
        '-c',
        'mount -t tmpfs -o size=1m tmpfs "$1" || exit 99; shift; exec "$@"',
        'sh',
        disk,
        process.execPath,
        '--input-type=module',
        '-e',
        script,
        disk,
      ],
      { encoding: 'utf8' },
    )
    if (stdout === null || status === 99 || /unshare/.test(stderr)) return t.skip('no file system can be mounted here')
    assert.deepEqual(
      stdout.trim().split('\n'),
      [
        `the checkpoint of step 2 cannot be saved in ${disk}/checkpoints: ENOSPC: no space left on device; the one of step 1 stays`,
        '1 1',
      ],
      stderr,
    )
  })
})
