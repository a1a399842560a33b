import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { UserError } from '../src/config/errors.ts'
import { firstDifference, overrideConfig } from '../src/config/load.ts'
import { recipeOf } from '../src/config/rules.ts'
import { findRecipe } from '../src/recipes/recipes.ts'
import { readRun } from '../src/run/read.ts'
import { runCli } from './cli.ts'
import { configFile, openTrainer, smallConfig, testFolder } from './training.ts'

const folder = testFolder()
const run = (...args: string[]) => runCli(args, { cwd: folder })
const policy = (text: string, name = 'policy.yaml'): string => {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}
const ofOneLayer = policy(`
rules:
  - { where: { blocks: [-1] }, use: nvfp4 }
  - { where: { name: layers.0.mixer.in_proj }, use: bf16 }
`)

/** Formats of the linear layers by name, as `--dry-run` finds them. */
function formatsOf(...args: string[]): Record<string, string> {
  const { status, stdout, stderr } = run('train', configFile(folder), '--dry-run', '--json', ...args)
  assert.equal(status, 0, stderr)
  const { linears }: { linears: { name: string; format: string }[] } = JSON.parse(stdout)
  return Object.fromEntries(linears.map(({ name, format }) => [name, format]))
}

const refuses = (override: string, message: RegExp, exitCode: 1 | 2): void =>
  assert.throws(
    () => smallConfig(folder, override),
    error => {
      assert.ok(error instanceof UserError)
      assert.match(error.message, message)
      return error.exitCode === exitCode
    },
  )

describe('rules of a config', () => {
  it('hold on top of its recipe, in their order', () => {
    const config = smallConfig(
      folder,
      'rules=[{where: all, use: mxfp4}, {where: {name: "*.in_proj"}, use: fp32}, {where: {blocks: [1, 2]}, use: bf16}]',
    )
    const { name, rules } = recipeOf(config)
    assert.equal(name, 'nvfp4 with rules')
    assert.deepEqual(rules.slice(0, 2), findRecipe('nvfp4').rules)
    assert.deepEqual(
      rules.slice(2).map(({ where, use }) => [where, use.fprop]),
      [
        ['all', findRecipe('mxfp4').rules[0]!.use.fprop],
        [{ name: '*.in_proj' }, { a: 'f32', b: 'f32' }],
        [{ blocks: [1, 2] }, { a: 'bf16', b: 'bf16' }],
      ],
    )
    assert.equal(recipeOf(config, 'bf16').rules.length, 4)
    assert.equal(recipeOf(smallConfig(folder)), findRecipe('nvfp4'))
  })

  it('may stand in a file of their own', () => {
    const own = formatsOf()
    const ruled = formatsOf('--policy', ofOneLayer)
    assert.deepEqual([own['layers.0.mixer.in_proj'], own['layers.3.mixer.up_proj']], ['nvfp4', 'bf16'])
    assert.deepEqual(ruled, {
      ...own,
      'layers.0.mixer.in_proj': 'bf16',
      'layers.3.mixer.up_proj': 'nvfp4',
      'layers.3.mixer.down_proj': 'nvfp4',
    })
    assert.deepEqual(formatsOf(`rules=${ofOneLayer}`), ruled)
    assert.match(run('train', configFile(folder), '--dry-run', '--policy', ofOneLayer).stdout, /nvfp4 and 2 rules for/)
  })

  it('are told apart however long they are', () => {
    const rules = (last: string) =>
      smallConfig(folder, `rules=[${'{where: all, use: nvfp4}, '.repeat(8)}{where: all, use: ${last}}]`)
    assert.match(firstDifference(rules('bf16'), rules('fp32'))!, /^rules: /)
    assert.equal(firstDifference(rules('bf16'), rules('bf16')), undefined)
  })

  it('are refused where they name what there is not', () => {
    const one = (where: string, use = 'bf16') => `rules=[{where: ${where}, use: ${use}}]`
    refuses(
      one('{name: layers.0.mixer.in_prj}'),
      /^rules\.0\.where\.name: the model has no linear layer "layers\.0\.mixer\.in_prj"; did you mean "layers\.0\.mixer\.in_proj"\?$/,
      2,
    )
    refuses(one('{name: head}'), /no linear layer "head"; its first is layers\.0\.mixer\.in_proj$/, 2)
    refuses(one('{blocks: [4]}'), /blocks: found \[4\], but no linear layer is there: the model has 4 blocks$/, 2)
    refuses(one('all', 'bf61'), /^rules\.0\.use: recipe "bf61" is unknown; did you mean "bf16"\?/, 2)
    refuses(one('everything'), /^rules\.0\.where: found "everything", wanted all, \{name: /, 2)
    refuses('rules=[{where: all, us: bf16}]', /^rules\.0\.use: missing, wanted the name of a recipe$/, 2)
    refuses('rules=[{where: all, use: bf16, to: 9}]', /^unknown key "rules\.0\.to"; the keys there are where, use$/, 2)
    refuses('rules=7', /^rules: found 7, wanted a list of rules such as/, 2)
  })

  it('are refused in a file with the name of the file', () => {
    const file = (text: string) => `rules=${policy(text, 'wrong.yaml')}`
    refuses(
      file('rules: [{where: {name: layers.9.mixer.q}, use: bf16}]'),
      /wrong\.yaml: rules\.0\.where\.name: the /,
      1,
    )
    refuses(file('rules: [{where: all}]'), /wrong\.yaml: rules\.0\.use: missing/, 1)
    refuses(file('steps: 5\nrules: []'), /wrong\.yaml: found the key "steps", wanted a list under "rules:" alone$/, 1)
    refuses(file('{}'), /wrong\.yaml: found no rules, wanted/, 1)
    refuses('rules=nowhere.yaml', /nowhere\.yaml does not exist/, 2)
  })

  it('are obeyed by training, and stored for whoever goes on with the run or branches from it', async () => {
    const config = smallConfig(folder, 'steps=2', 'validation.every=0', `rules=${ofOneLayer}`)
    const trainer = await openTrainer(config)
    const { numerics } = trainer.step(0, true)
    const quantised = new Set(numerics.flatMap(({ linear, operand }) => (operand ? [linear] : [])))
    assert.ok(!quantised.has('layers.0.mixer.in_proj') && quantised.has('layers.3.mixer.down_proj'))
    assert.equal(trainer.validate().loss, trainer.validate('nvfp4').loss)
    trainer.model.backend.close()

    const file = configFile(folder, 'steps=4', 'checkpoint.every=2', 'validation.every=0')
    assert.equal(run('train', file, '--policy', ofOneLayer, '--run', 'ruled').status, 0)
    const stored = readRun(join(folder, 'ruled')).config
    assert.deepEqual(JSON.parse(readFileSync(join(folder, 'ruled', 'config.json'), 'utf8')).rules, config.rules)
    assert.equal(overrideConfig(stored, ['threads=1']).rules.length, 2)
    const branched = run('branch', 'ruled', '--at', '2', '--recipe', 'nvfp4', '--run', 'unruled', 'rules=[]')
    assert.equal(branched.status, 0, branched.stderr)
    assert.deepEqual(readRun(join(folder, 'unruled')).config.rules, [])
  })
})
