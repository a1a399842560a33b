import { dot, frame, gridY, line, windowY } from '@observablehq/plot'
import { colours, draw, groupFor, groupMeans } from '../report/drawing.ts'

/**
 * Loss curves of runs as an SVG picture: training loss smoothed over 2 % of the curve (the unsmoothed one faint behind it), validation
 * losses as points. It stands alone: no script, no font, a light background of its own that also reads on a dark page.
 */

export interface LossPoint {
  readonly step: number
  /** Nats per token. */
  readonly loss: number
}

export interface Curve {
  readonly label: string
  readonly training: readonly LossPoint[]
  readonly validation: readonly LossPoint[]
}

const size = { width: 760, height: 420 }
const margins = { marginTop: 28, marginRight: 20, marginBottom: 44, marginLeft: 56 }
const ink = '#1f2328'
const paper = '#ffffff'
const palette = [...colours.map(({ light }) => light), '#000000']
const mostPoints = 400

const colorOf = (index: number): string => palette[index % palette.length]!

/** At most `most` points, each the mean of as many neighbours as the others. */
export function thin(points: readonly LossPoint[], most: number): LossPoint[] {
  const group = groupFor(points.length, most)
  const losses = groupMeans(
    points.map(({ loss }) => loss),
    group,
  )
  return groupMeans(
    points.map(({ step }) => step),
    group,
  ).map((step, i) => ({ step, loss: losses[i]! }))
}

/** What the curves are of. */
export interface ChartText {
  readonly title: string
  readonly y: string
  /** A validation's value in the legend. */
  readonly value: (value: number) => string
  /** Whether the unsmoothed curve is drawn too. */
  readonly raw: boolean
}

const ofLosses: ChartText = {
  title: 'Loss of',
  y: 'loss (nats per token)',
  value: loss => loss.toFixed(3),
  raw: true,
}

/**
 * Of each other curve its relative difference from the first in percent, at the steps that both have: negative where its loss is higher, as in
 * the paper's figures.
 */
export function differences([first, ...others]: readonly Curve[]): { curves: Curve[]; text: ChartText } {
  const from = (points: readonly LossPoint[]) => new Map(points.map(({ step, loss }) => [step, loss]))
  const [training, validation] = [from(first!.training), from(first!.validation)]
  const relative = (points: readonly LossPoint[], to: ReadonlyMap<number, number>): LossPoint[] =>
    points.flatMap(({ step, loss }) => {
      const reference = to.get(step)
      return reference === undefined ? [] : [{ step, loss: (100 * (reference - loss)) / reference }]
    })
  const curves = others.map(curve => ({
    label: curve.label,
    training: relative(curve.training, training),
    validation: relative(curve.validation, validation),
  }))
  const y = `loss against ${first!.label}, difference in %`
  return { curves, text: { title: `${y}, of`, y, value: percent => `${percent.toFixed(2)} %`, raw: false } }
}

/** The SVG text. Losses that are not finite are left out. */
export function renderLossChart(curves: readonly Curve[], text = ofLosses): string {
  const finite = (points: readonly LossPoint[]) => points.filter(({ loss }) => Number.isFinite(loss))
  const marks = curves.flatMap(({ training, validation }, index) => {
    const stroke = colorOf(index)
    const points = thin(finite(training), mostPoints)
    const axes = { x: 'step', y: 'loss' } as const
    const window = { k: Math.max(1, Math.round(points.length / 50)), anchor: 'middle' } as const
    return [
      ...(text.raw ? [line(points, { ...axes, stroke, strokeOpacity: 0.25, strokeWidth: 1 })] : []),
      line(points, windowY(window, { ...axes, stroke, strokeWidth: 1.8 })),
      dot(finite(validation), { ...axes, fill: stroke, stroke: paper, strokeWidth: 1, r: 4 }),
    ]
  })
  const { root, element } = draw({
    ...size,
    ...margins,
    style: { fontSize: '13px', color: ink, background: paper },
    x: { label: 'step →', labelArrow: 'none', labelAnchor: 'center', nice: false },
    y: { label: text.y, labelArrow: 'none', nice: true, zero: false },
    marks: [gridY({ strokeOpacity: 0.15 }), frame({ strokeOpacity: 0.25 }), ...marks],
  })

  root.setAttribute('xmlns', 'http://www.w3.org/2000/svg')
  root.setAttribute('role', 'img')
  root.setAttribute('color', ink)
  root.prepend(element('rect', { ...size, fill: paper }))
  root.prepend(element('title', {}, `${text.title} ${curves.map(({ label }) => label).join(', ')}`))
  const right = size.width - margins.marginRight - 12
  curves.forEach(({ label, validation }, index) => {
    const last = finite(validation).at(-1)
    const y = margins.marginTop + 20 + 20 * index
    const legend = last ? `${label}, validation ${text.value(last.loss)}` : label
    root.append(element('text', { x: right - 34, y, dy: '0.32em', 'text-anchor': 'end' }, legend))
    const stroke = colorOf(index)
    root.append(element('line', { x1: right - 26, x2: right, y1: y, y2: y, stroke, 'stroke-width': 2 }))
    if (last) root.append(element('circle', { cx: right - 13, cy: y, r: 4, fill: stroke, stroke: paper }))
  })
  return `${root.outerHTML}\n`
}
