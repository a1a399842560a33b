import { axisX, axisY } from '@observablehq/plot'
import type { Numerics } from './numerics.ts'
import { type Picture, paint } from './picture.ts'

/** The frame of a heat map: linear layers downwards, sampled steps to the right. The page's script fills its cells. */

/** `layers.3.mixer.in_proj` as `3 in_proj`. */
export const shortName = (linear: string): string => linear.replace(/^layers\.(\d+)\.(?:mixer\.)?/, '$1 ')

/** Every n-th of `count` places, so that at most `most` are named. */
const every = (count: number, most: number): number[] => {
  const stride = Math.max(1, Math.ceil(count / most))
  return Array.from({ length: Math.ceil(count / stride) }, (_, i) => i * stride)
}

export function heatPicture({ linears, steps }: Numerics, title: string): Picture {
  const rowHeight = Math.max(6, Math.min(17, 420 / linears.length))
  const longest = Math.max(...linears.map(name => shortName(name).length))
  const marginLeft = Math.min(150, 14 + 6.4 * longest)
  const middle = (i: number) => i + 0.5
  return {
    label: `${title} of ${linears.length} linear layers at ${steps.length} steps`,
    render: width =>
      paint(width, Math.round(rowHeight * linears.length) + 38, {
        marginLeft,
        marginTop: 4,
        marginRight: 2,
        x: { type: 'linear', domain: [0, steps.length] },
        y: { type: 'linear', domain: [0, linears.length], reverse: true },
        marks: [
          axisX(every(steps.length, 6).map(middle), {
            tickFormat: (place: number) => steps[Math.floor(place)]!.toLocaleString('en-US'),
            label: 'step',
            labelArrow: 'right',
            labelAnchor: 'right',
            tickSize: 4,
            color: 'var(--muted)',
          }),
          axisY(every(linears.length, Math.floor((rowHeight * linears.length) / 12)).map(middle), {
            tickFormat: (place: number) => shortName(linears[Math.floor(place)]!),
            label: null,
            tickSize: 0,
            tickPadding: 5,
            color: 'var(--muted)',
          }),
        ],
      }),
  }
}
