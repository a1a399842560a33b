import { axisX, dot, gridX, link, type Markish, ruleX, text } from '@observablehq/plot'
import type { Comparison } from '../compare/comparison.ts'
import { mean } from '../compare/statistics.ts'
import { between, percent } from '../compare/summary.ts'
import { formatCount } from '../run/quantities.ts'
import type { Drawing } from './drawing.ts'
import { inkOf, type Picture, paint } from './picture.ts'

/** One row a recipe: the difference at the end with its interval, and the speed. A row's words stand above its marks, so that long names fit a phone. */

const rowHeight = 46

const signed = (value: number): string => (value < 0 ? `−${-value}` : value > 0 ? `+${value}` : '0')

interface Row {
  /** Of the recipe, for its colour. */
  readonly index: number
  readonly name: string
  readonly words: string
}

interface Frame {
  readonly rows: readonly Row[]
  readonly label: string
  readonly domain: readonly [low: number, high: number]
  readonly format: (value: number) => string
  /** Marks of a row, at its place downwards. */
  readonly marks: (row: number) => Markish[]
  /** The line from which marks are measured. */
  readonly zero: Markish
}

/** Rows with names and figures above their marks, so that they keep their distance on every width. */
function paintRows(width: number, { rows, label, domain, format, marks, zero }: Frame): Drawing {
  const ticks = width > 500 ? 8 : 5
  const words = { y: (_: unknown, i: number) => i, dy: -15, fill: 'var(--ink)', stroke: 'var(--page)', strokeWidth: 5 }
  return paint(width, rows.length * rowHeight + 46, {
    marginLeft: 8,
    marginRight: 8,
    marginTop: 4,
    x: { domain },
    y: { type: 'linear', domain: [-0.62, rows.length - 0.5], reverse: true, axis: null },
    marks: [
      gridX({ stroke: 'var(--rule)', strokeOpacity: 1, ticks }),
      axisX({
        label,
        labelArrow: 'none',
        labelAnchor: 'right',
        ticks,
        tickSize: 4,
        tickFormat: format,
        color: 'var(--muted)',
      }),
      zero,
      ...rows.flatMap((_, i) => marks(i)),
      text(rows, { ...words, text: 'name', frameAnchor: 'left', textAnchor: 'start', fontWeight: 600 }),
      text(rows, { ...words, text: 'words', frameAnchor: 'right', textAnchor: 'end' }),
    ],
  })
}

/** Relative difference at the end of each recipe; undefined if none is known. */
export function endPicture({ pairs, recipes, baseline }: Comparison): Picture | undefined {
  const known = pairs.filter(pair => pair.relative_difference !== null)
  if (known.length === 0) return undefined
  const rows = [
    { index: 0, name: baseline, words: '', mean: 0, interval: undefined, seeds: [] },
    ...known.map(pair => ({
      index: recipes.indexOf(pair.recipe),
      name: pair.recipe,
      words: `${percent(pair.relative_difference!)}, ${pair.interval ? (pair.resolved ? 'resolved' : 'not resolved') : 'one seed'}`,
      mean: 100 * pair.relative_difference!,
      interval: pair.interval?.map(end => 100 * end),
      seeds: pair.per_seed.map(value => 100 * value),
    })),
  ]
  const far = 1.8 * Math.max(...rows.flatMap(({ mean, seeds }) => [mean, ...seeds].map(Math.abs)))
  const within = (value: number) => Math.max(-far, Math.min(far, value))
  const values = rows.flatMap(({ mean, interval, seeds }) => [mean, ...seeds, ...(interval ?? []).map(within)])
  const [low, high] = [Math.min(...values), Math.max(...values)]
  const room = 0.06 * (high - low || 1)
  return {
    label: `Relative difference at the end against ${baseline}: ${known.map(pair => `${pair.recipe} ${percent(pair.relative_difference!)} (${between(pair.interval) || 'one seed'})`).join('; ')}`,
    render: width =>
      paintRows(width, {
        rows,
        label: `against ${baseline} (%)`,
        domain: [low - room, high + room],
        format: signed,
        zero: ruleX([0], { stroke: 'var(--ink)', strokeWidth: 1.2 }),
        marks(row) {
          const { index, mean, interval, seeds } = rows[row]!
          const fill = inkOf(index)
          const at = { x: (value: number) => value, y: () => row }
          const bar = { x1: interval?.[0], x2: interval?.[1], y1: row, y2: row }
          return [
            interval &&
              link([bar], {
                x1: 'x1',
                x2: 'x2',
                y1: 'y1',
                y2: 'y2',
                stroke: fill,
                strokeWidth: 5,
                strokeOpacity: 0.35,
                clip: true,
              }),
            dot(seeds, { ...at, r: 2.2, fill, fillOpacity: 0.75 }),
            dot([mean], { ...at, r: 5.5, fill, stroke: 'var(--page)', strokeWidth: 1.5 }),
          ]
        },
      }),
  }
}

/** Tokens per second of each recipe, mean over its runs, and each run; undefined if none is known. */
export function speedPicture({ recipes, arms, baseline }: Comparison): Picture | undefined {
  const speeds = (recipe: string) =>
    arms.flatMap(arm => (arm.recipe === recipe && arm.tokens_per_second ? [arm.tokens_per_second] : []))
  const reference = speeds(baseline)
  const rows = recipes.flatMap((recipe, index) => {
    const runs = speeds(recipe)
    if (runs.length === 0) return []
    const speed = mean(runs)
    const ratio =
      recipe === baseline || reference.length === 0 ? '' : `, ${(speed / mean(reference)).toFixed(2)}x ${baseline}`
    return [{ index, name: recipe, words: `${formatCount(speed)}/s${ratio}`, speed, runs }]
  })
  if (rows.length === 0) return undefined
  const most = Math.max(...rows.flatMap(({ speed, runs }) => [speed, ...runs]))
  return {
    label: `Tokens per second: ${rows.map(({ name, words }) => `${name} ${words}`).join('; ')}`,
    render: width =>
      paintRows(width, {
        rows,
        label: 'tokens per second',
        domain: [0, 1.02 * most],
        format: value => (value >= 1000 ? `${value / 1000}k` : String(value)),
        zero: ruleX([0], { stroke: 'var(--axis)' }),
        marks(row) {
          const { index, speed, runs } = rows[row]!
          const bar = { x1: 0, x2: speed, y1: row, y2: row }
          return [
            link([bar], {
              x1: 'x1',
              x2: 'x2',
              y1: 'y1',
              y2: 'y2',
              stroke: inkOf(index),
              strokeWidth: 9,
              strokeOpacity: 0.85,
            }),
            dot(runs, {
              x: value => value,
              y: () => row,
              r: 2.4,
              fill: 'var(--page)',
              stroke: 'var(--ink)',
              strokeWidth: 1,
            }),
          ]
        },
      }),
  }
}
