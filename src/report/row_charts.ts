import { axisX, dot, gridX, link, type Markish, ruleX, text } from '@observablehq/plot'
import type { Comparison } from '../compare/comparison.ts'
import type { Pair } from '../compare/pairs.ts'
import { mean } from '../compare/statistics.ts'
import { percent } from '../compare/summary.ts'
import { formatCount } from '../run/quantities.ts'
import type { Drawing } from './drawing.ts'
import { typeset } from './html.ts'
import { inkOf, type Picture, paint } from './picture.ts'

/** One row a recipe: the difference at the end with its interval, and the speed. A row's words stand above its marks, so that long names fit a phone. */

const rowHeight = 46

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

/** Whether name and figures fit beside one another: widths of letters of a wide typeface, in pixels. */
const fits = ({ name, words }: Row, width: number): boolean => 7.9 * name.length + 7.2 * words.length + 24 < width

/** Rows with names and figures above their marks, so that they keep their distance on every width; above one another where they are long. */
function paintRows(width: number, { rows, label, domain, format, marks, zero }: Frame): Drawing {
  const ticks = width > 500 ? 8 : 5
  const stacked = !rows.every(row => fits(row, width))
  const height = stacked ? rowHeight + 14 : rowHeight
  const words = { y: (_: unknown, i: number) => i, fill: 'var(--ink)', stroke: 'var(--page)', strokeWidth: 5 }
  const left = { frameAnchor: 'left', textAnchor: 'start' } as const
  const right = { frameAnchor: 'right', textAnchor: 'end' } as const
  return paint(width, rows.length * height + 46, {
    marginLeft: 8,
    marginRight: 8,
    marginTop: 4,
    x: { domain },
    y: { type: 'linear', domain: [stacked ? -0.72 : -0.62, rows.length - 0.5], reverse: true, axis: null },
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
      text(rows, { ...words, ...left, text: 'name', dy: stacked ? -30 : -15, fontWeight: 600 }),
      text(rows, { ...words, ...(stacked ? left : right), text: 'words', dy: -15 }),
    ],
  })
}

const bar = (
  row: number,
  x1: number,
  x2: number,
  stroke: string,
  strokeWidth: number,
  strokeOpacity: number,
): Markish =>
  link([{ x1, x2, y: row }], { x1: 'x1', x2: 'x2', y1: 'y', y2: 'y', stroke, strokeWidth, strokeOpacity, clip: true })

const at = (row: number) => ({ x: (value: number) => value, y: () => row })

/** The difference of a recipe at the end, and whether it is resolved, in a few words. */
function endWords(pair: Pair | undefined, lost: boolean): string {
  if (!pair) return ''
  if (pair.relative_difference === null) return lost ? 'diverged' : 'not finished'
  const judged = pair.interval ? (pair.resolved ? 'resolved' : 'not resolved') : 'one seed'
  return typeset(`${percent(pair.relative_difference)}, ${judged}`)
}

/** Relative difference at the end of each recipe; undefined if none is known. */
export function endPicture({ pairs, recipes, baseline, arms }: Comparison): Picture | undefined {
  if (pairs.every(pair => pair.relative_difference === null)) return undefined
  const rows = recipes.map((name, index) => {
    const pair = pairs.find(({ recipe }) => recipe === name)
    const lost = arms.some(({ recipe, status }) => recipe === name && status === 'diverged')
    const known = pair && pair.relative_difference !== null
    return {
      index,
      name,
      words: endWords(pair, lost),
      mean: name === baseline ? [0] : known ? [100 * pair.relative_difference!] : [],
      interval: known ? (pair.interval ?? []).map(end => 100 * end) : [],
      seeds: known ? pair.per_seed.map(value => 100 * value) : [],
    }
  })
  // An interval far beyond all means would leave nothing to see of the others: it is cut at the frame.
  const far = 1.8 * Math.max(...rows.flatMap(({ mean, seeds }) => [...mean, ...seeds].map(Math.abs)))
  const within = (value: number) => Math.max(-far, Math.min(far, value))
  const values = rows.flatMap(({ mean, interval, seeds }) => [...mean, ...seeds, ...interval.map(within)])
  const [low, high] = [Math.min(...values), Math.max(...values)]
  const room = 0.06 * (high - low || 1)
  return {
    label: `Relative difference at the end against ${baseline}: ${rows
      .slice(1)
      .map(({ name, words }) => `${name} ${words}`)
      .join('; ')}`,
    render: width =>
      paintRows(width, {
        rows,
        label: `against ${baseline} (%)`,
        domain: [low - room, high + room],
        format: value => typeset(`${value > 0 ? '+' : ''}${value}`),
        zero: ruleX([0], { stroke: 'var(--ink)', strokeWidth: 1.2 }),
        marks(row) {
          const { index, mean, interval, seeds } = rows[row]!
          const fill = inkOf(index)
          return [
            ...(interval.length > 0 ? [bar(row, interval[0]!, interval[1]!, fill, 5, 0.35)] : []),
            dot(seeds, { ...at(row), r: 2.2, fill, fillOpacity: 0.75 }),
            dot(mean, { ...at(row), r: 5.5, fill, stroke: 'var(--page)', strokeWidth: 1.5 }),
          ]
        },
      }),
  }
}

/** Tokens per second of each recipe, mean over its runs, and each run; undefined if none is known, or nothing to compare. */
export function speedPicture({ recipes, arms, baseline }: Comparison): Picture | undefined {
  const speeds = (recipe: string) =>
    arms.flatMap(arm => (arm.recipe === recipe && arm.tokens_per_second ? [arm.tokens_per_second] : []))
  const reference = speeds(baseline)
  const rows = recipes.map((name, index) => {
    const runs = speeds(name)
    const speed = runs.length > 0 ? mean(runs) : 0
    const ratio =
      name === baseline || reference.length === 0 ? '' : `, ${(speed / mean(reference)).toFixed(2)}x ${baseline}`
    return { index, name, words: runs.length > 0 ? `${formatCount(speed)}/s${ratio}` : 'not measured', speed, runs }
  })
  const most = Math.max(...rows.flatMap(({ runs }) => runs))
  if (rows.length < 2 || !(most > 0)) return undefined
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
          return [
            bar(row, 0, speed, inkOf(index), 9, 0.85),
            dot(runs, { ...at(row), r: 2.4, fill: 'var(--page)', stroke: 'var(--ink)', strokeWidth: 1 }),
          ]
        },
      }),
  }
}
