import { areaY, axisX, axisY, dot, gridY, lineY, type Markish, ruleX, ruleY, text } from '@observablehq/plot'
import type { Curves } from './curves.ts'
import { dashOf, inkOf, type Picture, paint } from './picture.ts'

/** Curves over steps: the loss, and the relative difference against the baseline. */

interface Point {
  readonly x: number
  readonly y: number
}

/** From step `low` on, and one before. */
const points = (steps: readonly number[], values: readonly number[], low = 0): Point[] => {
  const first = Math.max(0, steps.findIndex(step => step >= low) - 1)
  return values.slice(first).flatMap((y, i) => (Number.isFinite(y) ? [{ x: steps[first + i]!, y }] : []))
}

/** The least interval that holds all values, a little wider. */
function padded(values: readonly number[], share: number): [number, number] {
  const [low, high] = [Math.min(...values), Math.max(...values)]
  const room = share * (high - low || Math.abs(high) || 1)
  return [low - room, high + room]
}

const axes = (width: number, label: string, format?: string): Markish[] => [
  gridY({ stroke: 'var(--rule)', strokeOpacity: 1, ticks: 6 }),
  axisX({
    label: 'step',
    labelArrow: 'right',
    labelAnchor: 'right',
    ticks: width > 500 ? 8 : 4,
    tickFormat: (step: number) => (Number.isInteger(step) ? step.toLocaleString('en-US') : ''),
    tickSize: 4,
    color: 'var(--muted)',
  }),
  axisY({
    label,
    labelArrow: 'none',
    tickSize: 0,
    ticks: 6,
    color: 'var(--muted)',
    ...(format && { tickFormat: format }),
  }),
]

const place = { x: 'x', y: 'y' } as const
const line = { ...place, clip: true } as const

/** The step from which curves are framed: before it the smoothed loss falls so steeply that all the rest would be flat. */
const settled = ({ total }: Curves): number => total / 20

/** Where the learning rate begins to fall. */
const decayMarks = (decay: number | undefined, width: number, low: number): Markish[] =>
  decay === undefined || decay < low
    ? []
    : [
        ruleX([decay], { stroke: 'var(--muted)', strokeDasharray: '2 3', strokeOpacity: 0.7 }),
        text([decay], {
          x: (step: number) => step,
          text: () => (width > 500 ? 'learning rate decays' : 'decay'),
          frameAnchor: 'top',
          textAnchor: 'end',
          dx: -5,
          dy: 3,
          fill: 'var(--muted)',
        }),
      ]

function lossMarks(curves: Curves, low: number): { marks: Markish[]; values: number[] } {
  const marks: Markish[] = []
  const values: number[] = []
  curves.recipes.forEach(({ loss, seeds, validation }, index) => {
    const stroke = inkOf(index)
    const style = { stroke, className: `series-${index}`, ...dashOf(index) }
    const valid = validation.map(({ step, loss }) => ({ x: step, y: loss })).filter(({ x }) => x >= low)
    const framed = [...points(curves.steps, loss), ...valid].filter(({ x }) => x >= Math.max(low, settled(curves)))
    values.push(...framed.map(({ y }) => y))
    for (const seed of seeds)
      marks.push(lineY(points(curves.seedSteps, seed, low), { ...line, ...style, strokeWidth: 1, strokeOpacity: 0.28 }))
    marks.push(lineY(points(curves.steps, loss, low), { ...line, ...style, strokeWidth: 1.8 }))
    marks.push(
      dot(valid, { ...place, className: `series-${index}`, fill: 'var(--page)', stroke, strokeWidth: 1.5, r: 3.2 }),
    )
  })
  for (const { kind, recipe, seed, step, loss } of curves.markers.filter(({ step }) => step >= low))
    marks.push(
      dot([{ x: step, y: loss }], {
        ...place,
        className: `series-${recipe} marker ${kind}`,
        symbol: kind === 'diverged' ? 'times' : 'triangle',
        r: kind === 'diverged' ? 7 : 4,
        dy: kind === 'diverged' ? 0 : -9,
        rotate: kind === 'diverged' ? 0 : 180,
        stroke: kind === 'diverged' ? 'var(--bad)' : 'none',
        strokeWidth: 2.5,
        fill: kind === 'diverged' ? 'none' : inkOf(recipe),
        ariaLabel: `${curves.recipes[recipe]!.recipe}, seed ${seed}: ${kind === 'diverged' ? 'diverged' : 'loss spike'} at step ${step}`,
      }),
    )
  return { marks, values }
}

/** Training loss, smoothed, and validation losses as points; from step `low` on. */
export function lossPicture(curves: Curves, low: number): Picture {
  const { marks, values } = lossMarks(curves, low)
  const domain = padded(values, 0.05)
  return {
    label: `Loss over steps of ${curves.recipes.map(({ recipe }) => recipe).join(', ')}`,
    render: width =>
      paint(width, width > 500 ? 380 : 300, {
        marginLeft: 44,
        x: { domain: [low, curves.total] },
        y: { domain },
        marks: [
          ...axes(width, 'loss (nats per token)'),
          ...decayMarks(curves.decay, width, low),
          ruleY([domain[0]], { stroke: 'var(--axis)' }),
          ...marks,
        ],
      }),
  }
}

/** Values by which the relative difference is framed: those after the steep start, and the band at the end where it is not wide out of all proportion. */
function differenceDomain(curves: Curves): [number, number] {
  const from = settled(curves)
  const values = [0]
  for (const { difference } of curves.recipes) {
    if (!difference) continue
    const own = difference.mean.filter((_, i) => curves.steps[i]! >= from)
    values.push(...own)
    const most = 1.5 * Math.max(...own.map(Math.abs), 0)
    for (const end of [difference.low.at(-1)!, difference.high.at(-1)!])
      values.push(Math.max(-most, Math.min(most, end)))
  }
  return padded(values.filter(Number.isFinite), 0.08)
}

/** Relative difference against the baseline, with the band of its confidence interval. */
export function differencePicture(curves: Curves): Picture {
  const domain = differenceDomain(curves)
  const marks: Markish[] = []
  curves.recipes.forEach(({ difference }, index) => {
    if (!difference) return
    const style = { ...line, className: `series-${index}` }
    const band = difference.mean.map((_, i) => ({
      x: curves.steps[i]!,
      low: difference.low[i]!,
      high: difference.high[i]!,
    }))
    if (difference.wide)
      marks.unshift(
        areaY(band, { ...style, y: undefined, y1: 'low', y2: 'high', fill: inkOf(index), fillOpacity: 0.14 }),
      )
    const mean = points(curves.steps, difference.mean)
    marks.push(lineY(mean, { ...style, stroke: inkOf(index), strokeWidth: 1.8, ...dashOf(index) }))
  })
  return {
    label: `Relative difference of the loss against ${curves.baseline} over steps`,
    render: width =>
      paint(width, width > 500 ? 320 : 260, {
        marginLeft: 44,
        x: { domain: [1, curves.total] },
        y: { domain },
        marks: [
          ...axes(width, 'relative difference of the loss (%)'),
          ...decayMarks(curves.decay, width, 1),
          ruleY([0], { stroke: 'var(--ink)', strokeWidth: 1.2 }),
          text([0], {
            y: (value: number) => value,
            text: () => `${curves.baseline}`,
            frameAnchor: 'right',
            textAnchor: 'end',
            dy: -7,
            dx: -2,
            fill: 'var(--ink)',
          }),
          ...marks,
        ],
      }),
  }
}
