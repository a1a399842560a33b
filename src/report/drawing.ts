import { type PlotOptions, plot } from '@observablehq/plot'
import { parseHTML } from 'linkedom'

/** What every picture shares: Observable Plot on a document without a browser, colours, and curves of a bearable number of points. */

/**
 * Colours of curves, for a light and a dark page. Told apart by people who do not see all colours (Okabe and Ito, "Color Universal
 * Design", 2008), darkened or lightened for contrast with the page.
 */
export const colours: readonly { readonly light: string; readonly dark: string }[] = [
  { light: '#0072b2', dark: '#58b4e8' },
  { light: '#d55e00', dark: '#ff9248' },
  { light: '#009e73', dark: '#2fc79b' },
  { light: '#b3569a', dark: '#e08fc8' },
  { light: '#8a6d00', dark: '#d9b93b' },
  { light: '#3a9bd0', dark: '#9ad4f5' },
]

/** Means of `group` neighbours each; the last group may be smaller. */
export function groupMeans(values: readonly number[], group: number): number[] {
  return Array.from({ length: Math.ceil(values.length / group) }, (_, i) => {
    const part = values.slice(i * group, (i + 1) * group)
    return part.reduce((sum, value) => sum + value, 0) / part.length
  })
}

/** How many neighbours become one point so that at most `most` are left. */
export const groupFor = (count: number, most: number): number => Math.max(1, Math.ceil(count / most))

/** What is used of an element without a browser. */
export interface SvgElement {
  setAttribute(name: string, value: string): void
  append(...nodes: SvgElement[]): void
  prepend(...nodes: SvgElement[]): void
  querySelector(selector: string): { remove(): void } | null
  textContent: string | null
  readonly outerHTML: string
}

export interface Drawing {
  readonly root: SvgElement
  /** Makes an SVG element of the drawing's document. */
  readonly element: (name: string, attributes: Record<string, string | number>, text?: string) => SvgElement
  /** Positions on the picture, in pixels of its own size, and what they stand for. */
  readonly scale: (axis: 'x' | 'y') => { readonly domain: readonly number[]; readonly range: readonly number[] }
}

/** Draws with Observable Plot. Texts in the picture are escaped by the document. */
export function draw(options: PlotOptions): Drawing {
  const { document } = parseHTML('<!doctype html><html><body></body></html>')
  const svg = plot({ document: document as never, ...options })
  return {
    root: svg as unknown as SvgElement,
    element(name, attributes, text = '') {
      const node = document.createElementNS('http://www.w3.org/2000/svg', name)
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value))
      node.textContent = text
      return node as unknown as SvgElement
    },
    scale(axis) {
      const { domain, range } = svg.scale(axis)!
      return { domain: domain as number[], range: range as number[] }
    },
  }
}
