import { areaY, axisX, axisY, dot, gridY, lineY, type Markish, ruleX, ruleY, text } from '@observablehq/plot'
import type { Curves, Marker, RecipeCurves } from './curves.ts'
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

/** Lines at steps where something begins. */
const ruleMarks = ({ rules, total }: Curves, width: number, low: number): Markish[] =>
  rules
    .filter(({ step }) => step > low && step < total)
    .flatMap(({ step, words }) => [
      ruleX([step], { stroke: 'var(--muted)', strokeDasharray: '2 3', strokeOpacity: 0.7 }),
      text([step], {
        x: (value: number) => value,
        text: () => (width > 500 ? words : words.split(' ').at(-1)!),
        frameAnchor: 'top',
        textAnchor: 'end',
        dx: -5,
        dy: 3,
        fill: 'var(--muted)',
        stroke: 'var(--page)',
        strokeWidth: 4,
      }),
    ])

/** Recipes whose curves frame a picture: those that got to the end, or all if none did. */
const framing = ({ recipes }: Curves): RecipeCurves[] => {
  const finished = recipes.filter(({ finished }) => finished)
  return finished.length > 0 ? finished : [...recipes]
}

const validationsFrom = ({ validation }: RecipeCurves, low: number): Point[] =>
  validation.filter(({ step }) => step >= low).map(({ step, loss }) => ({ x: step, y: loss }))

function lossDomain(curves: Curves, low: number): [number, number] {
  const from = Math.max(low, settled(curves))
  const framed = framing(curves).flatMap(each => [...points(curves.steps, each.loss), ...validationsFrom(each, low)])
  return padded(
    framed.filter(({ x }) => x >= from).map(({ y }) => y),
    0.05,
  )
}

function eventMark({ kind, recipe, seed, step, loss }: Marker, curves: Curves, [low, high]: [number, number]): Markish {
  const words = kind === 'diverged' ? 'diverged' : 'loss spike'
  const shape =
    kind === 'diverged'
      ? ({ symbol: 'times', r: 7, stroke: 'var(--bad)', strokeWidth: 2.5 } as const)
      : ({ symbol: 'triangle', r: 4, dy: -9, rotate: 180, stroke: 'none', fill: inkOf(recipe) } as const)
  return dot([{ x: step, y: Math.max(low, Math.min(high, loss)) }], {
    ...place,
    ...shape,
    className: `series-${recipe} marker ${kind}`,
    ariaLabel: `${curves.recipes[recipe]!.recipe}, seed ${seed}: ${words} at step ${step}`,
  })
}

function lossMarks(curves: Curves, low: number, domain: [number, number]): Markish[] {
  const curveMarks = curves.recipes.flatMap((each, index): Markish[] => {
    const stroke = inkOf(index)
    const style = { stroke, className: `series-${index}`, ...dashOf(index) }
    const thin = { ...line, ...style, z: 'seed', strokeWidth: 1, strokeOpacity: 0.28 }
    const ofSeeds = each.seeds.flatMap((losses, seed) =>
      points(curves.seedSteps, losses, low).map(point => ({ ...point, seed })),
    )
    const validations = validationsFrom(each, low).filter(({ y }) => y >= domain[0] && y <= domain[1])
    return [
      lineY(ofSeeds, thin),
      lineY(points(curves.steps, each.loss, low), { ...line, ...style, strokeWidth: 1.8 }),
      dot(validations, {
        ...place,
        className: `series-${index}`,
        fill: 'var(--page)',
        stroke,
        strokeWidth: 1.5,
        r: 3.2,
      }),
    ]
  })
  const events = curves.markers.filter(({ step }) => step >= low)
  return [...curveMarks, ...events.map(marker => eventMark(marker, curves, domain))]
}

/** Training loss, smoothed, and validation losses as points; from step `low` on. */
export function lossPicture(curves: Curves, low: number): Picture {
  const domain = lossDomain(curves, low)
  return {
    label: `Loss over steps of ${curves.recipes.map(({ recipe }) => recipe).join(', ')}`,
    render: width =>
      paint(width, width > 500 ? 380 : 300, {
        marginLeft: 44,
        x: { domain: [low, curves.total] },
        y: { domain },
        marks: [
          ...axes(width, 'loss (nats per token)'),
          ...ruleMarks(curves, width, low),
          ruleY([domain[0]], { stroke: 'var(--axis)' }),
          ...lossMarks(curves, low, domain),
        ],
      }),
  }
}

/** Values by which the relative difference is framed: those after the steep start, and the band at the end where it is not wide out of all proportion. */
function differenceDomain(curves: Curves): [number, number] {
  const from = settled(curves)
  const values = [0]
  for (const { difference } of framing(curves)) {
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
  // Many bands over one another hide everything; the page shows one of them alone when its recipe is pointed at.
  const fillOpacity = Math.max(0.05, 0.3 / Math.max(2, curves.recipes.length - 1))
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
        areaY(band, {
          ...style,
          className: `series-${index} band`,
          y: undefined,
          y1: 'low',
          y2: 'high',
          fill: inkOf(index),
          fillOpacity,
        }),
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
          ...ruleMarks(curves, width, 1),
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
