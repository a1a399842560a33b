// Read-outs, legend and views of curves over steps.
import { addReading, all, axisOf, element, svgElement, values, whole } from './reading.js'

/** Curves over steps. */
export function addChart(figure) {
  const { steps, series, digits, unit, signed } = values.charts[figure.dataset.values]
  const canvas = figure.querySelector('.canvas')
  const off = new Set()
  const format = value => `${signed && value > 0 ? '+' : ''}${value.toFixed(digits)}${unit}`.replace('-', '−')

  /** The first step that a picture shows. */
  const firstIn = svg => {
    const { from } = axisOf(svg, 'x')
    return Math.max(
      0,
      steps.findIndex(step => step >= from - 1e-9),
    )
  }
  const hide = addReading(figure, {
    columns: svg => steps.length - firstIn(svg),
    rows: 1,
    find(svg, at) {
      const x = axisOf(svg, 'x')
      if (at.x < x.start - 12 || at.x > x.end + 12) return undefined
      const step = x.value(at.x)
      const first = firstIn(svg)
      let nearest = first
      for (let i = first; i < steps.length; i++)
        if (Math.abs(steps[i] - step) < Math.abs(steps[nearest] - step)) nearest = i
      return { column: nearest - first, row: 0 }
    },
    read(svg, column) {
      const [x, y] = [axisOf(svg, 'x'), axisOf(svg, 'y')]
      const index = firstIn(svg) + column
      const at = x.place(steps[index])
      const step = `step ${whole(steps[index])}`
      const marks = [svgElement('line', { class: 'cursor', x1: at, x2: at, y1: y.start, y2: y.end })]
      const lines = [element('b', step)]
      const said = []
      for (const each of series.filter(each => !off.has(each.index) && each.y[index] != null)) {
        const value = each.y[index]
        if (value >= y.from && value <= y.to)
          marks.push(
            svgElement('circle', { class: 'spot', cx: at, cy: y.place(value), r: 4, style: `fill:${each.ink}` }),
          )
        const name = element('span')
        const swatch = element('i', '', 'swatch')
        swatch.style.setProperty('--ink-of', each.ink)
        name.append(swatch, each.name)
        const figures = element('span', format(value))
        if (each.low) figures.append(element('small', ` (${format(each.low[index])} to ${format(each.high[index])})`))
        const line = element('div')
        line.append(name, figures)
        lines.push(line)
        said.push(`${each.name} ${figures.textContent}`)
      }
      return { marks, lines, x: at, y: (y.start + y.end) / 2, said: `${step}: ${said.join(', ')}` }
    },
  })
  /** One series before the others, or all alike. */
  const stress = index => {
    for (const mark of all('[class*=series-]', canvas)) {
      const own = mark.classList.contains(`series-${index}`)
      mark.classList.toggle('faint', index !== undefined && !own)
      mark.classList.toggle('strong', own)
    }
  }
  for (const button of all('.legend button', figure)) {
    for (const name of ['pointerenter', 'focus']) button.addEventListener(name, () => stress(button.dataset.series))
    for (const name of ['pointerleave', 'blur']) button.addEventListener(name, () => stress())
    button.addEventListener('click', () => {
      const index = Number(button.dataset.series)
      const on = button.getAttribute('aria-pressed') !== 'true'
      button.setAttribute('aria-pressed', String(on))
      if (on) off.delete(index)
      else off.add(index)
      for (const mark of all(`.series-${index}`, canvas)) mark.style.display = on ? '' : 'none'
      hide()
    })
  }
  for (const input of all('.choice input', figure))
    input.addEventListener('change', () => {
      hide()
      for (const view of all('.view', canvas)) view.hidden = view.dataset.view !== input.value
    })
}
