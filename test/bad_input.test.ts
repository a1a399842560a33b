import assert from 'node:assert/strict'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { before, describe, it } from 'node:test'
import { execute } from '../src/cli/main.ts'
import { runCli } from './cli.ts'
import { configFile, testFolder } from './training.ts'

/** Each mistake is told in one sentence on stderr with the right exit code, and costs nothing that was there before. */

const folder = testFolder()
const config = configFile(folder, 'steps=12', 'checkpoint.every=4', 'validation.every=0')
const at = (name: string): string => join(folder, name)

/** Runs a command that must fail, in this process. `FOLDER` in the sentence stands for the test's folder. */
async function refuses(args: readonly string[], sentence: RegExp | string, exitCode: 1 | 2): Promise<void> {
  const { write } = process.stderr
  let stderr = ''
  process.stderr.write = ((text: string) => {
    stderr += text
    return true
  }) as typeof write
  let code: number
  try {
    code = await execute(args)
  } finally {
    process.stderr.write = write
  }
  const said = stderr.replaceAll(folder, 'FOLDER')
  assert.match(said, /^halfbyte: [^\n]+\n$/, `not one sentence: ${said}`)
  if (typeof sentence === 'string') assert.equal(said, `halfbyte: ${sentence}\n`)
  else assert.match(said, sentence)
  assert.equal(code, exitCode, said)
}

/** A run of 12 steps with checkpoints of steps 8 and 12. */
const finished = at('finished')

before(() => {
  // Kernels that are not built yet are announced on stderr: here, not in what the tests read.
  assert.equal(runCli(['train', config, '--run', finished]).status, 0)
  process.chdir(folder)
})

describe('a command that is wrong', () => {
  it('names what is unknown, and what was meant', async () => {
    await refuses(['train', 'tinny'], /preset "tinny" is unknown; did you mean "tiny"\?/, 2)
    await refuses(['train', config, 'recipee=bf16'], 'unknown key "recipee"; did you mean "recipe"?', 2)
    await refuses(['train', config, 'recipe=nvfp5'], /recipe "nvfp5" is unknown; did you mean "nvfp4"\?/, 2)
    await refuses(['validate', finished, '--recipe', 'fb16'], /recipe "fb16" is unknown; did you mean "bf16"\?/, 2)
    await refuses(['train', config, 'level=avx1024'], /instruction level "avx1024" is unknown; use one of avx512, /, 1)
  })

  it('names numbers of threads that cannot be', async () => {
    for (const threads of ['0', '-1', '1.5', 'many', '5000'])
      await refuses(['train', config, `threads=${threads}`], /threads: found .*, wanted a whole number, 1 to 1024/, 2)
  })

  it('names the option, what was found there and what is wanted', async () => {
    const cases: [command: string, sentence: string][] = [
      ['train-tokenizer text.txt --out x.json --vocab 0', '--vocab: found 0, wanted a whole number from 257'],
      [
        'train-tokenizer text.txt --out x.json --vocab 300 --special a a',
        '--special: found "a" twice, wanted words that differ',
      ],
      ['sample run --length many', '--length: found many, wanted a whole number from 1'],
      ['sample run --seed 1e99', '--seed: found 1e99, wanted a whole number from 0'],
      ['sample run --length', "option '--length <tokens>' argument missing"],
      ['sample run --top-p 2', '--top-p: found 2, wanted a number, 0 to 1'],
      ['quantize a b --seed -1', '--seed: found -1, wanted a whole number from 0, below 9007199254740992'],
      ['quantize a b --headroom 2', '--headroom: found 2, wanted a number above 0 and at most 1'],
      ['quantize a b --format fp3', '--format: found "fp3", wanted one of nvfp4, '],
      ['export run --to pdf --out x', '--to: found "pdf", wanted one of hf, '],
    ]
    for (const [command, sentence] of cases) {
      const start = `halfbyte: ${sentence}`.replace(/[.*+?()[\]{}|]/g, '\\$&')
      await refuses(command.split(' '), new RegExp(`^${start}`), 2)
    }
  })

  it('names layer, dimension and nearest size where a recipe cannot run the model', async () => {
    for (const dryRun of [[], ['--dry-run']])
      await refuses(
        ['train', config, 'model.hidden=40', ...dryRun],
        'layers.0.mixer.in_proj: 40 input features are not a multiple of 16, which nvfp4 needs; the nearest that works is 48',
        2,
      )
    await refuses(
      ['train', config, 'model.ffn=90'],
      /layers\.1\.mixer\.up_proj: 90 output features .* nearest that works is 96/,
      2,
    )
    const odd = at('odd.json')
    writeFileSync(odd, JSON.stringify({ ...JSON.parse(readFileSync(config, 'utf8')), recipe: 'mxfp8' }))
    await refuses(
      ['train', odd, 'data.batch=1', 'data.micro_batch=1', 'data.sequence=48'],
      /48 tokens of a micro-batch are not a multiple of 32/,
      2,
    )
    await refuses(
      ['train', config, 'data.sequence=24', 'data.micro_batch=1'],
      /data\.sequence: found 24, .* the nearest is 32/,
      2,
    )
  })
})

describe('a text that cannot be trained on', () => {
  it('is named, and what is wrong with it', async () => {
    writeFileSync(at('empty.txt'), '')
    writeFileSync(at('latin.txt'), Buffer.from('caf\xe9 au lait', 'latin1'))
    writeFileSync(at('short.txt'), 'a few words')
    const attempt = (file: string) => ['train', config, `data.files=${file}`, '--run', at('never')]
    await refuses(attempt('none.txt'), 'data.files: none.txt does not exist (looked from FOLDER)', 1)
    await refuses(attempt('empty.txt'), 'empty.txt is empty; a file of text is wanted', 1)
    await refuses(attempt('latin.txt'), 'latin.txt is not UTF-8: byte 3 (counted from 0) begins no valid character', 1)
    await refuses(attempt('short.txt'), /the training text has \d+ tokens, fewer than the 33 of one sequence/, 1)
    assert.ok(!existsSync(at('never')), 'a run directory was made for a text that cannot be used')
  })
})

describe('a run directory', () => {
  it('of another config is left alone, naming the first difference', async () => {
    const before = readFileSync(join(finished, 'metrics.jsonl'))
    await refuses(
      ['train', config, 'seed=2', 'optimizer.lr=1', '--run', finished],
      'run directory FOLDER/finished holds a run of another config: seed: 1 there, 2 here',
      1,
    )
    await refuses(['train', config, '--run', finished], /holds a finished run: 12 of 12 steps are done/, 1)
    assert.ok(readFileSync(join(finished, 'metrics.jsonl')).equals(before))
  })

  it('whose checkpoints are gone keeps its records', async () => {
    const run = at('emptied')
    cpSync(finished, run, { recursive: true })
    rmSync(join(run, 'checkpoints'), { recursive: true })
    const before = readFileSync(join(run, 'metrics.jsonl'))
    for (const args of [
      ['resume', run],
      ['train', config, '--run', run],
    ])
      await refuses(
        args,
        'run directory FOLDER/emptied has records of 12 steps, but no checkpoint any more; use another directory, or delete it to begin anew',
        1,
      )
    assert.ok(readFileSync(join(run, 'metrics.jsonl')).equals(before))
  })

  it('that cannot be written is named with the reason', async () => {
    writeFileSync(at('file'), '')
    symlinkSync(at('nowhere'), at('link'))
    await refuses(['train', config, '--run', at('file')], 'run directory FOLDER/file is a file', 1)
    await refuses(
      ['train', config, '--run', at('file/run')],
      /run directory FOLDER\/file\/run cannot be written: ENOTDIR/,
      1,
    )
    await refuses(
      ['train', config, '--run', at('link/run')],
      /run directory FOLDER\/link\/run cannot be written: ENOENT/,
      1,
    )
    if (process.platform === 'linux')
      await refuses(['train', config, '--run', '/proc/run'], /run directory \/proc\/run cannot be written: ENOENT/, 1)
  })

  it('of another format version is refused by training and by readers', async () => {
    const run = at('future')
    cpSync(finished, run, { recursive: true })
    const path = join(run, 'config.json')
    const text = readFileSync(path, 'utf8')
      .replace('"format": 1,', '"format": 7,')
      .replace(/"halfbyte": "[^"]*"/, '"halfbyte": "9.9.9"')
    writeFileSync(path, text)
    const sentence = 'FOLDER/future/config.json: found format 7, wanted 1: the run was written by halfbyte 9.9.9'
    for (const args of [
      ['resume', run],
      ['train', config, '--run', run],
      ['sample', run],
      ['validate', run],
    ])
      await refuses(args, sentence, 1)
    assert.equal(readFileSync(path, 'utf8'), text)
  })

  it('that is none is called so', async () => {
    await refuses(['resume', at('nothing')], 'FOLDER/nothing is not a run directory: it does not exist', 1)
    mkdirSync(at('full'))
    writeFileSync(at('full/letter.txt'), 'dear')
    await refuses(['train', config, '--run', at('full')], /holds no run, but is not empty: it has letter\.txt/, 1)
    assert.equal(readFileSync(at('full/letter.txt'), 'utf8'), 'dear')
  })
})
