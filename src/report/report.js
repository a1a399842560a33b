// Runs in the browser, inside report.html: read-outs of charts, heat maps, theme. Without it the page still shows every curve and table.
const values = JSON.parse(document.getElementById('values').textContent)
const svgNamespace = 'http://www.w3.org/2000/svg'

const all = (selector, root = document) => [...root.querySelectorAll(selector)]
const whole = number => Math.round(number).toLocaleString('en-US')
const clamp = (value, low, high) => Math.min(high, Math.max(low, value))

function svgElement(name, attributes) {
  const element = document.createElementNS(svgNamespace, name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
  return element
}

function element(name, text = '', className = '') {
  const made = document.createElement(name)
  made.textContent = text
  if (className) made.className = className
  return made
}

/** An axis as the picture was drawn: from values to its own pixels, and back. */
function axisOf(svg, name) {
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
 * Pointer and arrow keys on a chart. `show(x, y)` gets whole places, the first of the columns and rows being 0; `find` turns a pointer into them.
 */
function addReading(canvas, { columns, rows, find, show, hide }) {
  let [column, row] = [-1, 0]
  const read = (x, y, spoken) => {
    column = clamp(x, 0, columns() - 1)
    row = clamp(y, 0, rows() - 1)
    show(column, row, spoken)
  }
  const track = event => {
    const found = find(event)
    if (found) read(found.column, found.row, false)
    else hide()
  }
  canvas.addEventListener('pointermove', track)
  canvas.addEventListener('pointerdown', track)
  canvas.addEventListener('pointerleave', event => {
    if (event.pointerType === 'mouse') hide()
  })
  canvas.addEventListener('blur', hide)
  const jump = () => Math.max(1, Math.round(columns() / 10))
  const moves = {
    ArrowLeft: () => [column - 1, row],
    ArrowRight: () => [column + 1, row],
    ArrowUp: () => [Math.max(0, column), row - 1],
    ArrowDown: () => [Math.max(0, column), row + 1],
    PageUp: () => [column + jump(), row],
    PageDown: () => [column - jump(), row],
    Home: () => [0, row],
    End: () => [columns() - 1, row],
  }
  canvas.addEventListener('keydown', event => {
    if (event.key === 'Escape') hide()
    const move = moves[event.key]
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return
    if (rows() === 1 && /Up$|Down$/.test(event.key) && event.key.startsWith('Arrow')) return
    event.preventDefault()
    read(...move(), true)
  })
}

/** Curves over steps. */
function addChart(figure) {
  const { steps, series, digits, unit, signed } = values.charts[figure.dataset.values]
  const canvas = figure.querySelector('.canvas')
  const readout = figure.querySelector('.readout')
  const status = figure.querySelector('[role=status]')
  const off = new Set()
  const format = value => `${signed && value > 0 ? '+' : ''}${value.toFixed(digits)}${unit}`.replace('-', '−')

  const clear = () => {
    for (const mark of all('.cursor, .spot', canvas)) mark.remove()
  }
  const hide = () => {
    clear()
    readout.hidden = true
  }
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

/** Heat maps of one run and operand. */
function addMaps(section) {
  const { steps, linears, labels, operands, runs, ranges, measures, levels, values: packed, first } = values.numerics
  const bytes = Uint8Array.from(atob(packed), character => character.charCodeAt(0))
  const words = new Uint16Array(bytes.buffer)
  const missing = 65535
  let [run, operand] = first
  const choices = Object.fromEntries(all('select', section).map(select => [select.dataset.choice, select]))

  const word = (measure, row, column) =>
    words[
      (((run * measures.length + measure) * operands.length + operand) * linears.length + row) * steps.length + column
    ]
  const measured = (measure, row, column) => {
    const code = word(measure, row, column)
    const [low, high] = ranges[measure]
    return code === missing ? undefined : low + (code / (missing - 1)) * (high - low)
  }
  const digitsOf = measure => {
    const [low, high] = ranges[measure]
    return measures[measure].unit === 'dB' || high - low >= 20 ? 1 : high - low >= 1 ? 2 : 3
  }
  const text = (measure, value) => `${value.toFixed(digitsOf(measure))}\u00a0${measures[measure].unit}`
  /** How bad, from 0 to 1. Shares are spread by their square root, because a few large ones would hide the rest. */
  const badness = (measure, value) => {
    const [low, high] = ranges[measure]
    const share = high > low ? (value - low) / (high - low) : 0
    return measures[measure].lowIsWorse ? 1 - share : Math.sqrt(share)
  }

  function paint(figure) {
    const measure = Number(figure.dataset.measure)
    const [low, high] = ranges[measure]
    const [least, most] = measures[measure].lowIsWorse ? [high, low] : [low, high]
    const [from, to] = all('.ramp span', figure)
    from.textContent = text(measure, least)
    to.textContent = text(measure, most)
    const found = []
    for (const svg of all('svg.plot', figure)) {
      const [x, y] = [axisOf(svg, 'x'), axisOf(svg, 'y')]
      const [width, height] = [x.place(1) - x.place(0), y.place(1) - y.place(0)]
      const paths = Array.from({ length: levels }, () => '')
      found.length = 0
      linears.forEach((_, row) => {
        steps.forEach((_, column) => {
          const value = measured(measure, row, column)
          if (value === undefined) return
          found.push(value)
          const level = Math.round(badness(measure, value) * (levels - 1))
          const [left, top] = [x.place(column), y.place(row)]
          // A little over the next cell, so that no seam shows between them.
          const over = column + 1 < steps.length ? 0.6 : 0
          paths[level] +=
            `M${left.toFixed(1)} ${top.toFixed(1)}h${(width + over).toFixed(1)}v${(height - 1).toFixed(1)}h${(-width - over).toFixed(1)}z`
        })
      })
      svg.querySelector('.cells')?.remove()
      const cells = svgElement('g', { class: 'cells', 'shape-rendering': 'crispEdges' })
      paths.forEach((d, level) => {
        if (d) cells.append(svgElement('path', { class: `q${level}`, d }))
      })
      svg.append(cells)
    }
    const absent = figure.querySelector('.absent')
    absent.hidden = found.length > 0
    absent.textContent = `${runs[run].label} does not quantise this operand`
    const [min, max] = [Math.min(...found), Math.max(...found)]
    figure.querySelector('.extent').textContent =
      found.length === 0
        ? ''
        : min === max
          ? `Here ${text(measure, min)} everywhere.`
          : `Here ${text(measure, min)} to ${text(measure, max)}.`
  }

  const maps = all('.map', section)
  for (const figure of maps) {
    const measure = Number(figure.dataset.measure)
    const canvas = figure.querySelector('.canvas')
    const readout = figure.querySelector('.readout')
    const status = figure.querySelector('[role=status]')
    const clear = () => {
      for (const mark of all('.outline', canvas)) mark.remove()
    }
    const hide = () => {
      clear()
      readout.hidden = true
    }
    addReading(canvas, {
      columns: () => steps.length,
      rows: () => linears.length,
      find(event) {
        const svg = visible(canvas)
        const at = placeIn(svg, event)
        const column = Math.floor(axisOf(svg, 'x').value(at.x))
        const row = Math.floor(axisOf(svg, 'y').value(at.y))
        return column >= 0 && column < steps.length && row >= 0 && row < linears.length ? { column, row } : undefined
      },
      show(column, row, spoken) {
        const svg = visible(canvas)
        const [x, y] = [axisOf(svg, 'x'), axisOf(svg, 'y')]
        const value = measured(measure, row, column)
        const said = value === undefined ? 'no value' : text(measure, value)
        clear()
        svg.append(
          svgElement('rect', {
            class: 'outline',
            x: x.place(column),
            y: y.place(row),
            width: x.place(1) - x.place(0),
            height: y.place(1) - y.place(0),
          }),
        )
        readout.replaceChildren(
          element('b', said),
          element('div', linears[row]),
          element('div', `step ${whole(steps[column])}`),
        )
        moveReadout(canvas, svg, readout, x.place(column + 0.5), y.place(row))
        if (spoken) status.textContent = `${linears[row]}, step ${whole(steps[column])}: ${said}`
      },
      hide,
    })
  }

  /** The layers whose error is largest, by the mean of the first measure over the steps. */
  function listWorst() {
    const body = section.querySelector('.worst tbody')
    const shown = [0, 1, 2]
    const means = labels.flatMap((name, row) => {
      const mean = measure => {
        const found = steps.map((_, column) => measured(measure, row, column)).filter(value => value !== undefined)
        return found.length > 0 ? found.reduce((sum, value) => sum + value, 0) / found.length : undefined
      }
      const figures = shown.map(mean)
      return figures[0] === undefined ? [] : [{ name, figures }]
    })
    means.sort((a, b) => a.figures[0] - b.figures[0])
    body.replaceChildren(
      ...means.slice(0, 8).map(({ name, figures }) => {
        const line = element('tr')
        const head = element('th', name)
        head.scope = 'row'
        line.append(head)
        figures.forEach((value, i) => {
          const cell = element(
            'td',
            value === undefined ? '' : `${value.toFixed(1)} ${measures[shown[i]].unit}`,
            'number',
          )
          line.append(cell)
        })
        return line
      }),
    )
    section.querySelector('.worst').style.visibility = means.length > 0 ? '' : 'hidden'
  }

  function choose(changed) {
    operand = Number(choices.operand.value)
    const fits = (label, seed) => runs.findIndex(each => each.label === label && String(each.seed) === seed)
    const exact = fits(choices.recipe.value, choices.seed.value)
    // A recipe may not have been trained with every seed: the choice made last stands.
    const same =
      changed === 'seed'
        ? each => String(each.seed) === choices.seed.value
        : each => each.label === choices.recipe.value
    run = exact >= 0 ? exact : Math.max(0, runs.findIndex(same))
    choices.recipe.value = runs[run].label
    choices.seed.value = String(runs[run].seed)
    for (const figure of maps) paint(figure)
    listWorst()
  }
  for (const [name, select] of Object.entries(choices)) select.addEventListener('change', () => choose(name))
  choose('recipe')
}

function addTheme() {
  const button = document.getElementById('theme')
  const root = document.documentElement
  const system = matchMedia('(prefers-color-scheme: dark)')
  const key = 'halfbyte-report-theme'
  const stored = () => {
    try {
      return localStorage.getItem(key)
    } catch {
      return null
    }
  }
  const isDark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : system.matches)
  const label = () => {
    button.textContent = isDark() ? 'light' : 'dark'
    button.setAttribute('aria-label', `switch to ${button.textContent} colours`)
  }
  if (['light', 'dark'].includes(stored())) root.dataset.theme = stored()
  button.addEventListener('click', () => {
    root.dataset.theme = isDark() ? 'light' : 'dark'
    try {
      localStorage.setItem(key, root.dataset.theme)
    } catch {}
    label()
  })
  system.addEventListener('change', label)
  label()
  button.hidden = false
}

function addCopying() {
  for (const button of all('.copy')) {
    if (!navigator.clipboard) {
      button.remove()
      continue
    }
    button.addEventListener('click', async () => {
      try {
        await navigator.clipboard.writeText(button.previousElementSibling.textContent)
        button.textContent = 'copied'
      } catch {
        button.textContent = 'not allowed'
      }
      setTimeout(() => {
        button.textContent = 'copy'
      }, 1500)
    })
  }
}

addTheme()
for (const figure of all('.chart')) addChart(figure)
const section = document.querySelector('.numerics')
if (section) addMaps(section)
addCopying()
