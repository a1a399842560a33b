import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { UserError } from '../src/config/errors.ts'
import { firstDifference, loadConfig, overrideConfig, parseConfig } from '../src/config/load.ts'
import type { RunPreset } from '../src/config/schema.ts'

const hybrid: RunPreset = {
  name: 'hybrid',
  steps: 100,
  recipe: 'nvfp4',
  model: {
    pattern: 'M-*-',
    hidden: 64,
    ffn: 128,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    mamba_heads: 8,
    mamba_head_dim: 16,
    groups: 2,
    state: 16,
    vocab: 272,
    init_std: 0.02,
  },
  data: { sequence: 64, batch: 8, micro_batch: 4 },
  optimizer: { lr: 1e-3 },
}
const presets = { hybrid, dense: { ...hybrid, name: 'dense', model: { ...hybrid.model, pattern: '*-*-' } } }
const load = (...overrides: string[]) => loadConfig('hybrid', overrides, presets)

const folder = mkdtempSync(join(tmpdir(), 'halfbyte-config-'))
after(() => rmSync(folder, { recursive: true }))
const file = (name: string, text: string) => {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}

/** Asserts the whole message, with `FILE` for the path, and the exit code. */
function refuses(run: () => unknown, message: string, exitCode: 1 | 2): void {
  assert.throws(run, error => {
    assert.ok(error instanceof UserError, String(error))
    assert.equal(error.message.replaceAll(folder, 'FOLDER'), message)
    assert.equal(error.exitCode, exitCode)
    return true
  })
}

describe('a config that is right', () => {
  it('fills the defaults of the recipe for training', () => {
    const config = load()
    assert.deepEqual(config.optimizer, { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1 })
    assert.deepEqual(config.schedule, { warmup: 0.02, decay: 0.2, final: 0.01, shape: 'linear' })
    assert.equal(config.model.activations, 'f32')
    assert.equal(config.model.rope, false)
    assert.equal(config.data.files, 'embedded')
    assert.ok(!('threads' in config))
  })

  it('takes overrides as YAML, the last one winning', () => {
    const config = load('optimizer.lr=2e-3', 'steps=5', 'steps=7', 'model.rope=10000', 'data.files=[a.txt, b.jsonl]')
    assert.equal(config.optimizer.lr, 0.002)
    assert.equal(config.steps, 7)
    assert.equal(config.model.rope, 10000)
    assert.deepEqual(config.data.files, ['a.txt', 'b.jsonl'])
  })

  it('takes text as it stands where YAML would read something else', () => {
    assert.equal(load('model.pattern=*-*-').model.pattern, '*-*-')
    assert.equal(load('model.pattern=-').model.pattern, '-')
    assert.equal(load('name=2026').name, '2026')
    assert.equal(load('data.files=*.txt').data.files, '*.txt')
    assert.equal(load('data.files=a=b.txt').data.files, 'a=b.txt')
  })

  it('extends a preset from YAML and from JSON', () => {
    const yaml = file('mine.yaml', 'extends: hybrid\nsteps: 9\noptimizer: { lr: 0.004 }\nmodel:\n  pattern: "*-"\n')
    const config = loadConfig(yaml, ['seed=3'], presets)
    assert.deepEqual(
      [config.name, config.steps, config.seed, config.optimizer.lr, config.optimizer.beta2, config.model.pattern],
      ['mine', 9, 3, 0.004, 0.95, '*-'],
    )
    assert.equal(config.model.hidden, 64)
    const json = file('mine.json', JSON.stringify({ ...hybrid, name: 'other', steps: 11 }))
    assert.deepEqual([loadConfig(json, [], presets).name, loadConfig(json, [], presets).steps], ['other', 11])
  })

  it('survives a round trip through JSON', () => {
    const config = load('threads=3')
    assert.deepEqual(parseConfig(JSON.parse(JSON.stringify(config)), 'config.json'), config)
  })
})

describe('a config that is wrong', () => {
  it('names an unknown preset, file, recipe or tokenizer', () => {
    refuses(
      () => loadConfig('hybird', [], presets),
      'preset "hybird" is unknown; did you mean "hybrid"? (use one of hybrid, dense)',
      2,
    )
    refuses(() => loadConfig('colossal', [], presets), 'preset "colossal" is unknown; use one of hybrid, dense', 2)
    refuses(() => loadConfig(join(folder, 'no.yaml'), [], presets), 'config file FOLDER/no.yaml does not exist', 2)
    assert.throws(
      () => load('recipe=nvfp5'),
      /^UserError: recipe "nvfp5" is unknown; did you mean "nvfp4"\? \(use one of .*bf16/,
    )
    refuses(
      () => load('data.tokenizer=words'),
      'data.tokenizer: found "words", wanted bytes, the path of a tokenizer.json, or tiktoken: and the path of a rank file',
      2,
    )
    refuses(
      () => loadConfig(file('base.yaml', 'extends: hybrd\n'), [], presets),
      'FOLDER/base.yaml: extends: preset "hybrd" is unknown; did you mean "hybrid"? (use one of hybrid, dense)',
      1,
    )
  })

  it('suggests the key that was meant', () => {
    refuses(() => load('optimizer.lrr=1'), 'unknown key "optimizer.lrr"; did you mean "optimizer.lr"?', 2)
    refuses(() => load('lr=1'), 'unknown key "lr"; did you mean "optimizer.lr"?', 2)
    refuses(() => load('model.hiden=64'), 'unknown key "model.hiden"; did you mean "model.hidden"?', 2)
    refuses(
      () => loadConfig(file('typo.yaml', 'extends: hybrid\nchekpoint: { every: 5 }\n'), [], presets),
      'FOLDER/typo.yaml: unknown key "chekpoint"; did you mean "checkpoint"?',
      1,
    )
    refuses(
      () => loadConfig(file('deep.yaml', 'extends: hybrid\ndata: { sequense: 5 }\n'), [], presets),
      'FOLDER/deep.yaml: unknown key "data.sequense"; did you mean "data.sequence"?',
      1,
    )
    assert.throws(() => load('zzzzzzzzzzzz=1'), /unknown key "zzzzzzzzzzzz"; the keys are name, seed, steps, /)
  })

  it('names key, value found and value wanted', () => {
    refuses(() => load('steps=many'), 'steps: found "many", wanted a whole number, 1 to 4294967295', 2)
    refuses(() => load('steps=0'), 'steps: found 0, wanted a whole number, 1 to 4294967295', 2)
    refuses(() => load('steps=1.5'), 'steps: found 1.5, wanted a whole number, 1 to 4294967295', 2)
    refuses(() => load('optimizer.beta1=1'), 'optimizer.beta1: found 1, wanted a number from 0, below 1', 2)
    refuses(() => load('model.rope=true'), 'model.rope: found true, wanted false or a base above 0, such as 10000', 2)
    refuses(
      () => load('model.pattern=MX'),
      'model.pattern: found "MX", wanted one or more of M (Mamba-2), * (attention) and - (FFN)',
      2,
    )
    refuses(() => load('backend=gpu'), 'backend: found "gpu", wanted reference or cpu or cuda', 2)
    refuses(() => load('steps'), '"steps" is not an override; write key=value, such as steps=100', 2)
    assert.throws(() => load('model=3'), /^UserError: model: found 3, wanted the keys pattern, hidden, /)
    refuses(
      () => loadConfig(file('type.yaml', 'extends: hybrid\noptimizer: { lr: fast }\n'), [], presets),
      'FOLDER/type.yaml: optimizer.lr: found "fast", wanted a number above 0',
      1,
    )
    refuses(
      () => loadConfig(file('short.yaml', 'recipe: nvfp4\n'), [], presets),
      'FOLDER/short.yaml: steps: missing, wanted a whole number, 1 to 4294967295',
      1,
    )
  })

  it('names the line of a file that is not YAML', () => {
    assert.throws(
      () => loadConfig(file('broken.yaml', 'steps: 4\nmodel: { hidden: 5\n'), [], presets),
      (error: UserError) =>
        error.exitCode === 1 && /broken\.yaml, line \d: \S/.test(error.message) && !error.message.includes('\n'),
    )
    refuses(
      () => loadConfig(file('list.yaml', '- 1\n'), [], presets),
      'FOLDER/list.yaml: found [1], wanted keys and values such as "steps: 100"',
      1,
    )
  })

  it('names the file that cannot be read, or that means what YAML does not say', () => {
    const cases: [text: string | Uint8Array, message: string | RegExp, exitCode?: 2][] = [
      ['', ': found nothing, wanted keys and values such as "steps: 100"'],
      ['# nothing\n', ': found nothing, wanted keys and values such as "steps: 100"'],
      ['steps: 1\nsteps: 2\n', ', line 2: Map keys must be unique'],
      ['steps: 1\n---\nsteps: 2\n', ', line 2: found a second document (---), wanted one'],
      ['steps: !!js/function "x"\n', ', line 1: Unresolved tag: tag:yaml.org,2002:js/function'],
      ['%YAML 9.9\n---\nsteps: 1\n', ', line 1: Unsupported YAML version 9.9'],
      ['? [1, 2]\n: 3\n', ', line 1: found a key that is a list or a section, wanted a word'],
      ['model: &m\n  hidden: *m\n', ': found a section that contains itself'],
      ['['.repeat(20_000), ', line 1: found lists or sections nested too deeply'],
      ['steps: *none\n', /: Unresolved alias .*none$/],
      [`steps: "${'x'.repeat(2 ** 20)}"\n`, / config file \S+: found \d+ bytes, wanted at most 1048576$/, 2],
      [Buffer.from('name: caf\xe9\n', 'latin1'), ' is not UTF-8: byte 9 (counted from 0) begins no valid character'],
      ['extends: hybrid\n__proto__: { steps: 3 }\n', /: unknown key "__proto__"; the keys are /],
      ['extends: hybrid\n"a\\nb": 3\n', /: unknown key "a\\nb"; the keys are /],
      ['extends: hybrid\na: 3\n', /: unknown key "a"; the keys are /],
      ['extends: hybrid\nmodel.hidden: 32\n', ': unknown key "model.hidden"; in a file it is hidden under "model:"'],
      ['extends: [hybrid]\n', ': extends: found ["hybrid"], wanted the name of a preset'],
      ['extends: bad.yaml\n', ': extends: preset "bad.yaml" is unknown; use one of hybrid, dense'],
      ['extends: hybrid\noptimizer: { lr: .inf }\n', ': optimizer.lr: found Infinity, wanted a number above 0'],
      ['extends: hybrid\nsteps: [.nan]\n', ': steps: found ["NaN"], wanted a whole number, 1 to 4294967295'],
    ]
    for (const [text, message, exitCode = 1] of cases) {
      const path = join(folder, 'bad.yaml')
      writeFileSync(path, text)
      assert.throws(
        () => loadConfig(path, [], presets),
        (error: UserError) => {
          const said = ` ${error.message}`
          if (typeof message === 'string') assert.equal(said, ` ${path}${message}`)
          else assert.match(said, message)
          assert.ok(said.includes(path) && !said.includes('\n'), said)
          assert.equal(error.exitCode, exitCode, said)
          return true
        },
      )
    }
    mkdirSync(join(folder, 'folder.yaml'))
    refuses(
      () => loadConfig(join(folder, 'folder.yaml'), [], presets),
      'config file FOLDER/folder.yaml is a folder, wanted a file of text',
      2,
    )
    refuses(() => load(`rules=${folder}`), 'file of rules FOLDER is a folder, wanted a file of text', 2)
  })

  it('names numbers that what computes cannot hold', () => {
    const cases: [string, string][] = [
      ['seed=9007199254740993', 'seed: found 9007199254740992, wanted a whole number, 0 to 9007199254740991'],
      ['steps=1e15', 'steps: found 1000000000000000, wanted a whole number, 1 to 4294967295'],
      ['model.chunk=1e15', 'model.chunk: found 1000000000000000, wanted a whole number, 1 to 16777216'],
      ['data.batch=1e15', 'data.batch: found 1000000000000000, wanted a whole number, 1 to 16777216'],
      ['optimizer.lr=.nan', 'optimizer.lr: found NaN, wanted a number above 0'],
      [
        'optimizer.eps=1e-300',
        'optimizer.eps: found 1e-300, wanted a number above 0 that FP32 holds, 1.5e-45 to 3.4e38',
      ],
      [
        'optimizer.weight_decay=1e300',
        'optimizer.weight_decay: found 1e+300, wanted a number from 0 that FP32 holds, up to 3.4e38',
      ],
      [
        'optimizer.beta2=0.9999999999',
        'optimizer.beta2: found 0.9999999999, wanted a number from 0, below 1 that FP32 holds, up to 0.99999994',
      ],
      [`model.pattern=${'-'.repeat(2000)}`, `model.pattern: found "${'-'.repeat(56)}..., wanted at most 1024 blocks`],
    ]
    for (const [override, message] of cases) refuses(() => load(override), message, 2)
  })

  it('names the nearest value that goes with the others', () => {
    const cases: [string, string][] = [
      ['data.batch=10', 'data.batch: found 10, wanted a multiple of data.micro_batch (4); the nearest is 12'],
      [
        'data.sequence=63',
        'data.sequence: found 63, wanted data.sequence x data.micro_batch (4) to be a multiple of 16, so that tokens fill whole blocks; the nearest is 64',
      ],
      ['model.heads=5', 'model.heads: found 5, wanted a multiple of model.kv_heads (2); the nearest is 6'],
      ['model.mamba_heads=9', 'model.mamba_heads: found 9, wanted a multiple of model.groups (2); the nearest is 10'],
      [
        'model.vocab=256',
        'model.vocab: found 256, wanted at least 257, the tokens of tokenizer bytes; the nearest multiple of 16 is 272',
      ],
      ['model.ffn=0', 'model.ffn: found 0, wanted a number above 0, because model.pattern has FFN blocks (-)'],
      [
        'schedule.warmup=0.9',
        'schedule.warmup + schedule.decay: found 0.9 + 0.2, wanted shares of the steps that add up to at most 1',
      ],
    ]
    for (const [override, message] of cases) refuses(() => load(override), message, 2)
    refuses(
      () => load('model.rope=10000', 'model.head_dim=15'),
      'model.head_dim: found 15, wanted an even number, because model.rope rotates pairs; the nearest is 16',
      2,
    )
    assert.equal(load('model.pattern=-', 'model.heads=5').model.heads, 5)
  })
})

describe('two configs', () => {
  it('differ in the first key that changes numbers', () => {
    const config = load()
    assert.equal(firstDifference(config, load()), undefined)
    assert.equal(firstDifference(config, load('optimizer.lr=0.002', 'data.batch=4')), 'data.batch: 8 there, 4 here')
    assert.equal(firstDifference(config, load('optimizer.lr=0.002')), 'optimizer.lr: 0.001 there, 0.002 here')
    assert.equal(firstDifference(config, load('threads=2', 'backend=reference', 'level=avx2', 'name=other')), undefined)
    assert.equal(firstDifference(config, load('data.files=[x.txt]')), 'data.files: "embedded" there, ["x.txt"] here')
  })

  it('can be one with keys changed', () => {
    assert.equal(overrideConfig(load(), ['threads=4']).threads, 4)
    refuses(() => overrideConfig(load(), ['threads=0']), 'threads: found 0, wanted a whole number, 1 to 1024', 2)
  })
})
