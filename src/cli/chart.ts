import { dot, frame, gridY, line, plot, windowY } from '@observablehq/plot'
import { parseHTML } from 'linkedom'

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
/** Told apart by people who do not see all colours (Okabe and Ito, "Color Universal Design", 2008), darkened for white paper. */
const palette = ['#0072b2', '#d55e00', '#009e73', '#b3569a', '#8a6d00', '#3a9bd0', '#000000']
const mostPoints = 400

const colorOf = (index: number): string => palette[index % palette.length]!

/** At most `most` points, each the mean of as many neighbours as the others. */
export function thin(points: readonly LossPoint[], most: number): LossPoint[] {
  const group = Math.ceil(points.length / most)
  if (group <= 1) return [...points]
  const mean = (part: readonly LossPoint[], key: keyof LossPoint) =>
    part.reduce((sum, point) => sum + point[key], 0) / part.length
  return Array.from({ length: Math.ceil(points.length / group) }, (_, i) => {
    const part = points.slice(i * group, (i + 1) * group)
    return { step: mean(part, 'step'), loss: mean(part, 'loss') }
  })
}

/** The SVG text. Losses that are not finite are left out. */
export function renderLossChart(curves: readonly Curve[]): string {
  const { document } = parseHTML('<!doctype html><html><body></body></html>')
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
  const svg = plot({
    document: document as never,
    ...size,
    ...margins,
    style: { fontSize: '13px', color: ink, background: paper },
    x: { label: 'step →', labelArrow: 'none', labelAnchor: 'center', nice: false },
    y: { label: 'loss (nats per token)', labelArrow: 'none', nice: true, zero: false },
    marks: [gridY({ strokeOpacity: 0.15 }), frame({ strokeOpacity: 0.25 }), ...marks],
  })

  const element = (name: string, attributes: Record<string, string | number>, text = '') => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', name)
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value))
    node.textContent = text
    return node
  }
  const root = svg as unknown as ReturnType<typeof element>
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
  return `${svg.outerHTML}\n`
}
