import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { describe, it } from 'node:test'
import { presets } from '../presets/index.ts'
import { commandLine, commandWords } from '../src/compare/command.ts'
import type { Arm, Comparison } from '../src/compare/comparison.ts'
import type { Pair } from '../src/compare/pairs.ts'
import { percent } from '../src/compare/summary.ts'
import { loadConfig } from '../src/config/load.ts'
import { html, json, typeset } from '../src/report/html.ts'
import type { ReportedArm } from '../src/report/read.ts'
import { comparisonCommand, sourceOf } from '../src/report/reproduce.ts'
import { usesFourBits, verdictOf } from '../src/report/verdict.ts'

const pair = (recipe: string, difference: number | null, interval: [number, number] | null): Pair => ({
  baseline: 'bf16',
  recipe,
  relative_difference: difference,
  interval,
  resolved: interval !== null && (interval[0] > 0 || interval[1] < 0),
  spread: null,
  seeds: interval ? [1, 2, 3] : [1],
  per_seed: [],
  seeds_to_resolve: interval && interval[0] < 0 && interval[1] > 0 ? 7 : null,
  validation: null,
  speed_ratio: null,
  time_to_equal_loss: null,
  extra_tokens: null,
})

const comparisonOf = (pairs: Pair[], arms: Partial<Arm>[] = []): Comparison => ({
  format: 1,
  title: 'test',
  baseline: 'bf16',
  recipes: ['bf16', ...pairs.map(({ recipe }) => recipe)],
  seeds: [1, 2, 3],
  tokens: 1000,
  confidence: 0.95,
  window: 1,
  command: '',
  arms: arms as Arm[],
  pairs,
  expected: [],
  differences: [],
})

const headline = (pairs: Pair[], arms?: Partial<Arm>[]) => verdictOf(comparisonOf(pairs, arms)).headline

describe('the verdict', () => {
  it('goes by interval and yardstick', () => {
    const cases: [Pair, string][] = [
      [
        pair('nvfp4', -0.01, [-0.012, -0.008]),
        '4-bit training holds here, at a small price: nvfp4 ends 1.0 % above bf16.',
      ],
      [pair('nvfp4', -0.02, [-0.03, -0.01]), '4-bit training has a price here: nvfp4 ends 2.0 % above bf16.'],
      [pair('nvfp4', -0.044, [-0.05, -0.04]), '4-bit training has a price here: nvfp4 ends 4.4 % above bf16.'],
      [pair('nvfp4', -0.08, [-0.09, -0.07]), '4-bit training does not hold here: nvfp4 ends 8.0 % above bf16.'],
      [pair('nvfp4', 0.01, [0.005, 0.015]), '4-bit training holds here: nvfp4 ends 1.0 % below bf16.'],
      [
        pair('nvfp4', -0.002, [-0.01, 0.006]),
        '4-bit training holds here, as far as 3 seeds can tell: nvfp4 is at worst 1.0 % above bf16.',
      ],
      [
        pair('nvfp4', -0.01, [-0.05, 0.03]),
        'Not decided: with 3 seeds nvfp4 may end anywhere from 5.0 % above bf16 to 3.0 % below.',
      ],
      [pair('nvfp4', -0.01, null), 'One seed gives no verdict: nvfp4 ends 1.0 % above bf16.'],
      [pair('nvfp4', null, null), 'Not answered yet: nvfp4 and bf16 have no finished run in common.'],
      [
        pair('fp8', -0.001, [-0.002, -0.0005]),
        'Training in fp8 holds here, at a small price: fp8 ends 0.1 % above bf16.',
      ],
    ]
    for (const [each, wanted] of cases) assert.equal(headline([each]), wanted)
  })

  it('is of the first recipe in 4 bits that was asked for, and puts a divergence before everything else', () => {
    const pairs = [
      pair('fp8', 0, [-0.001, 0.001]),
      pair('nvfp4', -0.01, [-0.012, -0.008]),
      pair('nvfp4-no-2d', -0.005, [-0.006, -0.004]),
    ]
    assert.match(headline(pairs), /^4-bit training holds here, at a small price: nvfp4/)
    const diverged = { step: 40, event: 'non_finite', reason: 'NaN' }
    const arms = [
      { recipe: 'nvfp4', status: 'diverged', diverged } as const,
      { recipe: 'nvfp4', status: 'finished' } as const,
    ]
    assert.equal(
      headline(pairs, arms),
      '4-bit training does not hold here: nvfp4 diverged with 1 of 2 seeds, first at step 40.',
    )
    assert.deepEqual(['nvfp4', 'mxfp4', 'fp8', 'bf16', 'unheard-of', 'nvfp4-no-sr'].map(usesFourBits), [
      true,
      true,
      false,
      false,
      false,
      true,
    ])
  })

  it('says the interval in the direction of the loss, and what would resolve it', () => {
    const [worse, open] = [pair('nvfp4', -0.02, [-0.03, -0.01]), pair('mxfp4', -0.03, [-0.07, 0.01])].map(
      each => verdictOf(comparisonOf([each])).sentences[0],
    )
    assert.equal(worse, 'nvfp4 ends 2.00 % above bf16 in loss (95 % interval: 1.00 to 3.00 %; 3 seeds): resolved.')
    assert.equal(
      open,
      'mxfp4 ends 3.00 % above bf16 in loss (95 % interval: 7.00 % above to 1.00 % below; 3 seeds): not resolved. 7 seeds would resolve a difference of this size and spread.',
    )
  })
})

describe('commands that reproduce a run', () => {
  it('lead from a preset to the very config, through a shell', () => {
    const changes = [
      'steps=77',
      'seed=5',
      'recipe=mxfp4',
      'optimizer.lr=3e-4',
      'schedule.shape=cosine',
      "data.files=[a b.txt, it's.txt]",
    ]
    const config = loadConfig('tiny-dense', changes, presets)
    const { preset, overrides } = sourceOf({ ...config, name: 'mine' }, presets)!
    assert.equal(preset, 'tiny-dense')
    assert.equal(overrides.length, changes.length)
    const { stdout } = spawnSync('sh', ['-c', `printf '%s\\n' ${commandLine(overrides)}`], {
      encoding: 'utf8',
    })
    assert.deepEqual(loadConfig(preset, stdout.trimEnd().split('\n'), presets), config)
  })

  it('keep words with spaces whole', () => {
    const words = ['halfbyte', 'compare', "it's mine.yaml", '--seeds', '3', '--out', 'runs of *', '']
    assert.deepEqual(commandWords(commandLine(words)), words)
    const command = commandLine(['halfbyte', 'compare', 'tiny', '--seeds', '3', '--out', 'my runs', 'steps=7'])
    const arm = { run: { config: loadConfig('tiny', ['steps=7'], presets) } } as ReportedArm
    assert.equal(
      comparisonCommand({ ...comparisonOf([]), command }, [arm], presets),
      "halfbyte compare tiny --seeds 3 --out 'my runs' steps=7",
    )
  })

  it('name the preset that is nearest, and nothing for a config as it comes', () => {
    for (const name of ['tiny', 'small', 'base-dense'])
      assert.deepEqual(sourceOf(loadConfig(name, [], presets), presets), { preset: name, overrides: [] })
  })
})

describe('markup', () => {
  it('escapes what is put into it, and keeps what is markup', () => {
    assert.equal(
      html`<p title="${'"a"'}">${'<&>'}${[html`<b>1</b>`, false, undefined, 2]}</p>`.text,
      '<p title="&quot;a&quot;">&lt;&amp;&gt;<b>1</b>2</p>',
    )
    assert.equal(json({ a: '</script>' }).text, '{"a":"\\u003c/script>"}')
    assert.equal(typeset('-2.33 % to -1.80 %, nvfp4-plain'), '−2.33\u00a0% to −1.80\u00a0%, nvfp4-plain')
  })
})

it('shares have the sign of what is printed', () => {
  const shares = [0.0143, -0.0143, 0.00004, -0.00004, 0, -0]
  assert.deepEqual(
    shares.map(share => percent(share)),
    ['+1.43 %', '-1.43 %', '0.00 %', '0.00 %', '0.00 %', '0.00 %'],
  )
  assert.equal(percent(-0.004, 0), '0 %')
})
