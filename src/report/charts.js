// Read-outs, legend and views of curves over steps.
import {
  addReading,
  all,
  axisOf,
  element,
  moveReadout,
  placeIn,
  readoutOf,
  svgElement,
  values,
  visible,
  whole,
} from './reading.js'

/** Curves over steps. */
export function addChart(figure) {
  const { steps, series, digits, unit, signed } = values.charts[figure.dataset.values]
  const { canvas, readout, status, clear, hide } = readoutOf(figure)
  const off = new Set()
  const format = value => `${signed && value > 0 ? '+' : ''}${value.toFixed(digits)}${unit}`.replace('-', '−')

  const window = () => {
    const svg = visible(canvas)
    const x = axisOf(svg, 'x')
    const first = Math.max(
      0,
      steps.findIndex(step => step >= x.from - 1e-9),
    )
    return { svg, x, first, count: steps.length - first }
  }
  const show = (column, _, spoken) => {
    const { svg, x, first } = window()
    const y = axisOf(svg, 'y')
    const index = first + column
    const at = x.place(steps[index])
    clear()
    svg.append(svgElement('line', { class: 'cursor', x1: at, x2: at, y1: y.start, y2: y.end }))
    const shown = series.filter(each => !off.has(each.index) && each.y[index] != null)
    readout.replaceChildren(element('b', `step ${whole(steps[index])}`))
    const lines = []
    for (const each of shown) {
      const value = each.y[index]
      if (value >= y.from && value <= y.to)
        svg.append(svgElement('circle', { class: 'spot', cx: at, cy: y.place(value), r: 4, style: `fill:${each.ink}` }))
      const line = element('div')
      const name = element('span')
      const swatch = element('i', '', 'swatch')
      swatch.style.setProperty('--ink-of', each.ink)
      name.append(swatch, each.name)
      const figures = element('span', format(value))
      if (each.low) figures.append(element('small', ` (${format(each.low[index])} to ${format(each.high[index])})`))
      line.append(name, figures)
      readout.append(line)
      lines.push(`${each.name} ${figures.textContent}`)
    }
    moveReadout(canvas, svg, readout, at, (y.start + y.end) / 2)
    if (spoken) status.textContent = `step ${whole(steps[index])}: ${lines.join(', ')}`
  }
  addReading(canvas, {
    columns: () => window().count,
    rows: () => 1,
    find(event) {
      const { svg, x, first } = window()
      const at = placeIn(svg, event).x
      if (at < x.start - 12 || at > x.end + 12) return undefined
      const step = x.value(at)
      let nearest = first
      for (let i = first; i < steps.length; i++)
        if (Math.abs(steps[i] - step) < Math.abs(steps[nearest] - step)) nearest = i
      return { column: nearest - first, row: 0 }
    },
    show,
    hide,
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
