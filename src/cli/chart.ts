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

/** The SVG text. Losses that are not finite are left out. */
export function renderLossChart(curves: readonly Curve[]): string {
  const finite = (points: readonly LossPoint[]) => points.filter(({ loss }) => Number.isFinite(loss))
  const marks = curves.flatMap(({ training, validation }, index) => {
    const stroke = colorOf(index)
    const points = thin(finite(training), mostPoints)
    const axes = { x: 'step', y: 'loss' } as const
    const window = { k: Math.max(1, Math.round(points.length / 50)), anchor: 'middle' } as const
    return [
      line(points, { ...axes, stroke, strokeOpacity: 0.25, strokeWidth: 1 }),
      line(points, windowY(window, { ...axes, stroke, strokeWidth: 1.8 })),
      dot(finite(validation), { ...axes, fill: stroke, stroke: paper, strokeWidth: 1, r: 4 }),
    ]
  })
  const { root, element } = draw({
    ...size,
    ...margins,
    style: { fontSize: '13px', color: ink, background: paper },
    x: { label: 'step →', labelArrow: 'none', labelAnchor: 'center', nice: false },
    y: { label: 'loss (nats per token)', labelArrow: 'none', nice: true, zero: false },
    marks: [gridY({ strokeOpacity: 0.15 }), frame({ strokeOpacity: 0.25 }), ...marks],
  })

  root.setAttribute('xmlns', 'http://www.w3.org/2000/svg')
  root.setAttribute('role', 'img')
  root.setAttribute('color', ink)
  root.prepend(element('rect', { ...size, fill: paper }))
  root.prepend(element('title', {}, `Loss of ${curves.map(({ label }) => label).join(', ')}`))
  const right = size.width - margins.marginRight - 12
  curves.forEach(({ label, validation }, index) => {
    const last = finite(validation).at(-1)
    const y = margins.marginTop + 20 + 20 * index
    const text = last ? `${label}, validation ${last.loss.toFixed(3)}` : label
    root.append(element('text', { x: right - 34, y, dy: '0.32em', 'text-anchor': 'end' }, text))
    const stroke = colorOf(index)
    root.append(element('line', { x1: right - 26, x2: right, y1: y, y2: y, stroke, 'stroke-width': 2 }))
    if (last) root.append(element('circle', { cx: right - 13, cy: y, r: 4, fill: stroke, stroke: paper }))
  })
  return `${root.outerHTML}\n`
}
