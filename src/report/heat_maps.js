// The cells of the heat maps, and the choice of what they show.
import { addReading, all, axisOf, element, svgElement, values, whole } from './reading.js'

/** Heat maps of one run and operand. */
export function addMaps(section) {
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
    addReading(figure, {
      columns: () => steps.length,
      rows: linears.length,
      find(svg, at) {
        const column = Math.floor(axisOf(svg, 'x').value(at.x))
        const row = Math.floor(axisOf(svg, 'y').value(at.y))
        return column >= 0 && column < steps.length && row >= 0 && row < linears.length ? { column, row } : undefined
      },
      read(svg, column, row) {
        const [x, y] = [axisOf(svg, 'x'), axisOf(svg, 'y')]
        const value = measured(measure, row, column)
        const figures = value === undefined ? 'no value' : text(measure, value)
        const step = `step ${whole(steps[column])}`
        const outline = svgElement('rect', {
          class: 'outline',
          x: x.place(column),
          y: y.place(row),
          width: x.place(1) - x.place(0),
          height: y.place(1) - y.place(0),
        })
        return {
          marks: [outline],
          lines: [element('b', figures), element('div', linears[row]), element('div', step)],
          x: x.place(column + 0.5),
          y: y.place(row),
          said: `${linears[row]}, ${step}: ${figures}`,
        }
      },
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
