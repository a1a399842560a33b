import { type Arm, type Comparison, smoothing } from '../compare/comparison.ts'
import type { Interval, Pair } from '../compare/pairs.ts'
import { mean } from '../compare/statistics.ts'
import { formatCount } from './live.ts'
import { renderTable } from './table.ts'

/** What `compare` and `ablate` print at their end. */

const percent = (share: number, digits = 2): string => `${share > 0 ? '+' : ''}${(100 * share).toFixed(digits)} %`

const between = (interval: Interval['interval'] | undefined, digits = 2): string =>
  interval ? `${percent(interval[0], digits)} to ${percent(interval[1], digits)}` : ''

const average = (arms: readonly Arm[], key: 'loss' | 'validation_loss' | 'tokens_per_second'): number | undefined => {
  const values = arms.flatMap(arm => (arm[key] === null ? [] : [arm[key]]))
  return values.length > 0 ? mean(values) : undefined
}

const loss = (value: number | undefined): string => (value === undefined ? '' : value.toFixed(4))

function verdict(pair: Pair): string {
  if (pair.relative_difference === null) return ''
  if (pair.resolved) return 'yes'
  if (pair.interval === null) return 'one seed'
  return pair.seeds_to_resolve === null ? 'no' : `no, in ${pair.seeds_to_resolve} seeds`
}

function statusText(arms: readonly Arm[]): string {
  const counts = new Map<string, number>()
  for (const { status } of arms) counts.set(status, (counts.get(status) ?? 0) + 1)
  if (counts.size === 1 && counts.has('finished')) return String(arms.length)
  return [...counts].map(([status, count]) => `${count} ${status}`).join(', ')
}

function recipeTable({ recipes, arms, pairs, baseline }: Comparison): string {
  const right = { align: 'right' } as const
  const rows = recipes.map(recipe => {
    const own = arms.filter(arm => arm.recipe === recipe)
    const whole = own.filter(({ status }) => status === 'finished')
    const pair = pairs.find(candidate => candidate.recipe === recipe)
    const speed = average(own, 'tokens_per_second')
    const difference = pair?.relative_difference ?? null
    return [
      recipe,
      statusText(own),
      loss(average(whole, 'loss')),
      loss(average(whole, 'validation_loss')),
      difference === null ? '' : percent(difference),
      between(pair?.interval),
      pair ? verdict(pair) : '',
      speed === undefined ? '' : formatCount(speed),
      pair?.time_to_equal_loss ? `${pair.time_to_equal_loss.ratio.toFixed(2)}x` : '',
      pair?.extra_tokens ? percent(pair.extra_tokens.mean, 0) : '',
    ]
  })
  return renderTable(
    [
      { title: 'recipe' },
      { title: 'runs' },
      { title: 'loss', ...right },
      { title: 'validation', ...right },
      { title: `against ${baseline}`, ...right },
      { title: 'interval', ...right },
      { title: 'resolved' },
      { title: 'tokens/s', ...right },
      { title: 'time', ...right },
      { title: 'tokens', ...right },
    ],
    rows,
  )
}

/** What the columns are, for the end of what is printed. */
export const explanation = ({ window, confidence }: Comparison): string =>
  `loss: ${smoothing} (${window}), mean over seeds, nats per token. Against the baseline: (baseline - recipe) / baseline, negative is worse;
interval: ${100 * confidence} %, Student's t over paired seeds; resolved: it leaves out zero. time: to the loss that both reach, over the baseline's;
tokens: that the recipe needs beyond the baseline for the same loss, before the learning rate decays.
`

/** What was compared: the table, divergences, orders. */
export function comparisonText(comparison: Comparison): string {
  const { title, tokens, seeds, arms, expected, differences, note } = comparison
  const diverged = arms.filter(({ diverged }) => diverged)
  const lines = [
    `${title}: ${formatCount(tokens)} tokens a run, ${seeds.length === 1 ? 'one seed' : `${seeds.length} seeds`}`,
    '',
    recipeTable(comparison),
  ]
  if (diverged.length > 0) lines.push('')
  for (const { recipe, seed, diverged: place } of diverged)
    lines.push(`diverged: ${recipe}, seed ${seed}, at step ${place!.step}: ${place!.reason}`)
  if (expected.length > 0) {
    const rows = expected.map(
      ({ better, worse, found, relative_difference: difference, interval, seeds_to_resolve: needed }) => [
        `${better} before ${worse}`,
        found + (found === 'not resolved' && needed !== null ? `, in ${needed} seeds` : ''),
        difference === null ? '' : percent(difference),
        between(interval),
      ],
    )
    const columns = [
      { title: "the paper's order" },
      { title: 'found' },
      { title: 'by', align: 'right' },
      { title: 'interval', align: 'right' },
    ] as const
    lines.push('', renderTable(columns, rows))
  }
  if (differences.length > 0) lines.push('', `the runs also differ in ${differences.join(', ')}`)
  if (note) lines.push('', note)
  return `${lines.join('\n')}\n`
}
