import type { PlotOptions } from '@observablehq/plot'
import { colours, type Drawing, draw } from './drawing.ts'

/** Pictures of the page: each drawn for three widths, of which the style sheet shows the one that fits, so that text keeps its size. */

/** Pixels, for windows above 820, above 500, and below: across the page, or two beside one another where there is room. */
const widths = {
  full: { wide: 940, middle: 580, narrow: 328 },
  half: { wide: 454, middle: 580, narrow: 328 },
} as const

export interface Picture {
  /** What a screen reader says. */
  readonly label: string
  readonly render: (width: number) => Drawing
}

/** Custom property of a recipe's colour: 0 is the baseline; from the seventh other recipe on colours come back, dashed. */
export const inkOf = (index: number): string =>
  index === 0 ? 'var(--series-0)' : `var(--series-${((index - 1) % colours.length) + 1})`

export const dashOf = (index: number): { strokeDasharray?: string } =>
  index > colours.length ? { strokeDasharray: '6 3' } : {}

/** The common frame: margins, type, no background. */
export const paint = (width: number, height: number, options: PlotOptions): Drawing =>
  draw({
    width,
    height,
    marginTop: 26,
    marginRight: 10,
    marginBottom: 40,
    className: 'plot',
    style: { fontSize: '12px', color: 'var(--ink)', background: 'none' },
    ...options,
  })

/** Straight lines from one place to the next, as Plot writes them. */
const straight = /M-?[\d.]+,-?[\d.]+(?:L-?[\d.]+,-?[\d.]+)+/g

const brief = (value: number): string => String(value).replace(/^(-?)0\./, '$1.')

/** Each place by its distance from the one before, counted in tenths of a pixel, so that no error adds up: a distance is short. */
function byDistance(lines: string): string {
  let [x, y] = [0, 0]
  return lines
    .slice(1)
    .split('L')
    .reduce((path, place, i) => {
      const [atX, atY] = place.split(',').map(value => Math.round(10 * Number(value))) as [number, number]
      const [right, down] = [(atX - x) / 10, (atY - y) / 10]
      x = atX
      y = atY
      return `${path}${i === 0 ? 'M' : i === 1 ? 'l' : right < 0 ? '' : ' '}${brief(right)}${down < 0 ? '' : ' '}${brief(down)}`
    }, '')
}

/** Attributes in pixels. Domains of the axes, in `data-x` and `data-y`, keep their digits. */
const pixels = / (?:d|transform|width|height|[cr]?[xy]|[xy][12])="[^"]*"/g

/** Places to a tenth of a pixel: all that can be seen, in a third of the bytes. */
const shortened = (svg: string): string =>
  svg
    .replace(pixels, places => places.replace(/\d+\.\d{2,}/g, place => String(Number(Number(place).toFixed(1)))))
    .replace(/ d="[^"]*"/g, path => path.replace(straight, byDistance))

/** The picture at every width. `data-x` and `data-y` hold domain and range of the axes, for the page's script. */
export function renderPicture({ label, render }: Picture, span: keyof typeof widths): string {
  return Object.entries(widths[span])
    .map(([name, width]) => {
      const drawing = render(width)
      const { root } = drawing
      // The page has the one rule that Plot puts into each picture.
      root.querySelector('style')?.remove()
      root.setAttribute('class', `plot ${name}`)
      root.setAttribute('role', 'img')
      root.setAttribute('aria-label', label)
      root.setAttribute('font-family', 'inherit')
      for (const axis of ['x', 'y'] as const) {
        const { domain, range } = drawing.scale(axis)
        root.setAttribute(`data-${axis}`, JSON.stringify([...domain, ...range]))
      }
      return shortened(root.outerHTML)
    })
    .join('')
}
