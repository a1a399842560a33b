import { formatCount } from '../run/quantities.ts'
import type { Arm, Comparison } from './comparison.ts'
import type { Interval, Pair } from './pairs.ts'
import { mean } from './statistics.ts'

/** The final table of a comparison as text, cell by cell: what the terminal and the report both show. */

/** A signed share, as `-1.43 %`; what is rounded to zero has no sign. */
export const percent = (share: number, digits = 2): string => {
  const text = (100 * share).toFixed(digits)
  return `${Number(text) > 0 ? '+' : ''}${Number(text) === 0 ? text.replace('-', '') : text} %`
}

export const between = (interval: Interval['interval'] | undefined, digits = 2): string =>
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

/** One for each recipe; empty where nothing is known. */
export interface SummaryRow {
  readonly recipe: string
  /** How many, and their states unless all are finished. */
  readonly runs: string
  readonly loss: string
  readonly validation: string
  readonly difference: string
  readonly interval: string
  readonly resolved: string
  readonly speed: string
  readonly time: string
  readonly tokens: string
}

export interface SummaryColumn {
  readonly key: keyof SummaryRow
  readonly title: string
  readonly align?: 'right'
}

const right = { align: 'right' } as const

/** Titles of the columns, in order. */
export const summaryColumns = (baseline: string): readonly SummaryColumn[] => [
  { key: 'recipe', title: 'recipe' },
  { key: 'runs', title: 'runs' },
  { key: 'loss', title: 'loss', ...right },
  { key: 'validation', title: 'validation', ...right },
  { key: 'difference', title: `against ${baseline}`, ...right },
  { key: 'interval', title: 'interval', ...right },
  { key: 'resolved', title: 'resolved' },
  { key: 'speed', title: 'tokens/s', ...right },
  { key: 'time', title: 'time', ...right },
  { key: 'tokens', title: 'tokens', ...right },
]

export function summaryRows({ recipes, arms, pairs }: Comparison): SummaryRow[] {
  return recipes.map(recipe => {
    const own = arms.filter(arm => arm.recipe === recipe)
    const whole = own.filter(({ status }) => status === 'finished')
    const pair = pairs.find(candidate => candidate.recipe === recipe)
    const speed = average(own, 'tokens_per_second')
    const difference = pair?.relative_difference ?? null
    return {
      recipe,
      runs: statusText(own),
      loss: loss(average(whole, 'loss')),
      validation: loss(average(whole, 'validation_loss')),
      difference: difference === null ? '' : percent(difference),
      interval: between(pair?.interval),
      resolved: pair ? verdict(pair) : '',
      speed: speed === undefined ? '' : formatCount(speed),
      time: pair?.time_to_equal_loss ? `${pair.time_to_equal_loss.ratio.toFixed(2)}x` : '',
      tokens: pair?.extra_tokens ? percent(pair.extra_tokens.mean, 0) : '',
    }
  })
}
