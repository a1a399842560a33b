// What all read-outs share. The scripts of this folder run inside report.html, joined into one by assets.ts.

export const values = JSON.parse(document.getElementById('values').textContent)
const svgNamespace = 'http://www.w3.org/2000/svg'

export const all = (selector, root = document) => [...root.querySelectorAll(selector)]
export const whole = number => Math.round(number).toLocaleString('en-US')
const clamp = (value, low, high) => Math.min(high, Math.max(low, value))

export function svgElement(name, attributes) {
  const element = document.createElementNS(svgNamespace, name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
  return element
}

export function element(name, text = '', className = '') {
  const made = document.createElement(name)
  made.textContent = text
  if (className) made.className = className
  return made
}

/** An axis as the picture was drawn: from values to its own pixels, and back. */
export function axisOf(svg, name) {
  const [from, to, start, end] = JSON.parse(svg.dataset[name])
  return {
    from,
    to,
    start,
    end,
    place: value => start + ((value - from) / (to - from)) * (end - start),
    value: place => from + ((place - start) / (end - start)) * (to - from),
  }
}

/** The picture of a chart that the style sheet shows. */
const visible = root => all('svg.plot', root).find(svg => svg.getBoundingClientRect().width > 0)

/** A pointer's place in a picture's own pixels. */
function placeIn(svg, event) {
  const box = svg.getBoundingClientRect()
  const scale = svg.viewBox.baseVal.width / box.width
  return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale }
}

/** Puts a read-out beside a place of the picture, inside of the chart. */
function moveReadout(canvas, svg, readout, x, y) {
  readout.hidden = false
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width
  const beside = x * scale + 14
  const room = canvas.clientWidth - readout.offsetWidth
  const left = beside <= room ? beside : x * scale - 14 - readout.offsetWidth
  readout.style.left = `${clamp(left, 0, Math.max(0, room))}px`
  readout.style.top = `${clamp(y * scale - readout.offsetHeight - 12, -readout.offsetHeight - 4, Math.max(0, canvas.clientHeight - readout.offsetHeight))}px`
}

/**
 * Pointer and arrow keys on the chart of a figure; returns what hides the read-out. Places are whole, the first of the columns and rows being 0:
 * `columns(svg)` counts those of a picture, `rows` is a number, `find(svg, at)` turns a place in the picture into one, undefined outside. `read(svg, column, row)`
 * gives the marks to draw there, the lines of the read-out, where it stands (x, y), and what is said of it.
 */
export function addReading(figure, { columns, rows, find, read }) {
  const canvas = figure.querySelector('.canvas')
  const readout = figure.querySelector('.readout')
  const status = figure.querySelector('[role=status]')
  let [column, row] = [-1, 0]
  const clear = () => {
    for (const mark of all('.cursor, .spot, .outline', canvas)) mark.remove()
  }
  const hide = () => {
    clear()
    readout.hidden = true
  }
  const show = (x, y, spoken) => {
    const svg = visible(canvas)
    column = clamp(x, 0, columns(svg) - 1)
    row = clamp(y, 0, rows - 1)
    const found = read(svg, column, row)
    clear()
    svg.append(...found.marks)
    readout.replaceChildren(...found.lines)
    moveReadout(canvas, svg, readout, found.x, found.y)
    if (spoken) status.textContent = found.said
  }
  const track = event => {
    const svg = visible(canvas)
    const found = find(svg, placeIn(svg, event))
    if (found) show(found.column, found.row, false)
    else hide()
  }
  canvas.addEventListener('pointermove', track)
  canvas.addEventListener('pointerdown', track)
  canvas.addEventListener('pointerleave', event => {
    if (event.pointerType === 'mouse') hide()
  })
  canvas.addEventListener('blur', hide)
  const last = () => columns(visible(canvas)) - 1
  const jump = () => Math.max(1, Math.round(last() / 10))
  const moves = {
    ArrowLeft: () => [column - 1, row],
    ArrowRight: () => [column + 1, row],
    ArrowUp: () => [Math.max(0, column), row - 1],
    ArrowDown: () => [Math.max(0, column), row + 1],
    PageUp: () => [column + jump(), row],
    PageDown: () => [column - jump(), row],
    Home: () => [0, row],
    End: () => [last(), row],
  }
  canvas.addEventListener('keydown', event => {
    if (event.key === 'Escape') hide()
    const move = moves[event.key]
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return
    if (rows === 1 && /Up$|Down$/.test(event.key) && event.key.startsWith('Arrow')) return
    event.preventDefault()
    show(...move(), true)
  })
  return hide
}
