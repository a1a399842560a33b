import { type Comparison, smoothing } from '../compare/comparison.ts'
import { between, percent, summaryColumns, summaryRows } from '../compare/summary.ts'
import type { Curves, RecipeCurves } from './curves.ts'
import { heatPicture } from './heat_map.ts'
import { html, Markup, type Part, typeset } from './html.ts'
import { differencePicture, lossPicture } from './line_charts.ts'
import { measures, type Numerics, operands } from './numerics.ts'
import { inkOf, type Picture, renderPicture } from './picture.ts'
import type { ReportedComparison } from './read.ts'
import { endPicture, speedPicture } from './row_charts.ts'

/** The parts of a page that show one comparison, and the heat maps. */

const picture = (drawn: Picture, span: 'full' | 'half'): Markup => new Markup(renderPicture(drawn, span))

const swatch = (index: number): Markup =>
  new Markup(`<i class="swatch${index > 6 ? ' dashed' : ''}" style="--ink-of:${inkOf(index)}"></i>`)

function finalTable(comparison: Comparison): Markup {
  const rows = summaryRows(comparison)
  const columns = summaryColumns(comparison.baseline).filter(({ key }) => rows.some(row => row[key] !== ''))
  return html`<table class="cards">
<caption class="hidden">Final losses of each recipe, and what lies between them and ${comparison.baseline}</caption>
<thead><tr>${columns.map(({ title, align }) => html`<th scope="col"${align === 'right' && html` class="number"`}>${title}</th>`)}</tr></thead>
<tbody>${rows.map(
    (row, index) =>
      html`<tr>${columns.map(({ key, title, align }) => {
        const value = row[key]
        if (key === 'recipe') return html`<th scope="row">${swatch(index)}${value}</th>`
        const kind = align === 'right' ? 'number' : key === 'runs' && value.includes('diverged') ? 'bad' : ''
        return html`<td data-title="${title}" class="${kind}${value === '' ? ' empty' : ''}">${align === 'right' ? typeset(value) : value}</td>`
      })}</tr>`,
  )}</tbody>
</table>`
}

function expectedTable({ expected }: Comparison): Markup | undefined {
  if (expected.length === 0) return undefined
  return html`<h3>The paper’s order</h3>
<table class="cards">
<thead><tr><th scope="col">better, worse</th><th scope="col">found</th><th scope="col" class="number">by</th><th scope="col" class="number">interval</th></tr></thead>
<tbody>${expected.map(
    ({ better, worse, found, relative_difference: difference, interval, seeds_to_resolve: needed }) => html`<tr>
<th scope="row">${better} before ${worse}</th>
<td data-title="found">${found}${found === 'not resolved' && needed !== null && `, in ${needed} seeds`}</td>
<td data-title="by" class="number${difference === null && ' empty'}">${difference === null ? '' : typeset(percent(difference))}</td>
<td data-title="interval" class="number${!interval && ' empty'}">${typeset(between(interval))}</td></tr>`,
  )}</tbody>
</table>`
}

const legend = ({ recipes }: Curves, isShown: (curve: RecipeCurves) => boolean): Markup =>
  html`<div class="legend" role="group" aria-label="Curves shown">${recipes.map(
    (curve, index) =>
      isShown(curve) &&
      html`<button type="button" data-series="${index}" aria-pressed="true">${swatch(index)}${curve.recipe}</button>`,
  )}</div>`

interface Chart {
  readonly id: string
  /** Key of its values in the page's data. */
  readonly values: string
  readonly title: string
  readonly legend: Markup
  readonly views: readonly { readonly name: string; readonly picture: Picture }[]
  readonly caption: Part
}

/** A chart with read-outs: focusable, read by arrow keys. */
function chartFigure({ id, values, title, legend, views, caption }: Chart): Markup {
  const choice =
    views.length > 1 &&
    html`<div class="choice" role="radiogroup" aria-label="Steps shown">${views.map(
      ({ name }, i) =>
        html`<label><input type="radio" name="${id}-view" value="${i}"${i === 0 && html` checked`}><span>${name}</span></label>`,
    )}</div>`
  return html`<figure class="chart" id="${id}" data-values="${values}">
<div class="bar"><h3>${title}</h3>${choice}</div>
${legend}
<div class="canvas" tabindex="0" role="group" aria-label="${title}: arrow keys read values at a step">${views.map(
    ({ picture: drawn }, i) =>
      html`<div class="view" data-view="${i}"${i > 0 && html` hidden`}>${picture(drawn, 'full')}</div>`,
  )}<div class="readout" hidden></div></div>
<div class="hidden" role="status"></div>
<figcaption>${caption}</figcaption>
</figure>`
}

export function lossSection(id: string, values: string, curves: Curves, window: number): Markup {
  const middle = Math.max(1, Math.round(curves.total / 2))
  const seeds = curves.recipes.some(({ seeds }) => seeds.length > 0)
  const spikes = curves.markers.filter(({ kind }) => kind === 'spike').length
  const lost = curves.markers.length - spikes
  return chartFigure({
    id: `${id}-loss`,
    values,
    title: 'Loss',
    legend: legend(curves, ({ loss }) => loss.length > 0),
    views: [
      { name: 'all steps', picture: lossPicture(curves, 1) },
      ...(curves.recipes.some(({ loss }) => curves.steps[loss.length - 1]! > middle)
        ? [{ name: 'last half', picture: lossPicture(curves, middle) }]
        : []),
    ],
    caption: html`Lines: training loss, mean of the last ${window} steps${seeds && ', over seeds; faint lines are single seeds'}. Circles: validation loss${seeds && ', mean over seeds'}.${spikes > 0 && ' Triangles: loss spikes.'}${lost > 0 && ' Crosses: where a run diverged.'}`,
  })
}

export function differenceSection(id: string, values: string, curves: Curves, confidence: number): Markup | undefined {
  if (!curves.recipes.some(({ difference }) => difference)) return undefined
  const wide = curves.recipes.some(({ difference }) => difference?.wide)
  return chartFigure({
    id: `${id}-difference`,
    values,
    title: 'Relative difference of the loss',
    legend: legend(curves, ({ difference }) => difference !== undefined),
    views: [{ name: 'all steps', picture: differencePicture(curves) }],
    caption: html`(${curves.baseline} − recipe) / ${curves.baseline} of smoothed training losses, in percent, mean over seeds: below zero the recipe is worse. ${wide ? `Bands: ${100 * confidence} % interval, Student’s t over paired seeds; where a band leaves out zero, the difference at that step is resolved.` : 'With one seed there is no interval: nothing is resolved.'}`,
  })
}

export function endSection({ comparison }: ReportedComparison): Markup {
  const end = endPicture(comparison)
  const speed = speedPicture(comparison)
  const { window, confidence, note, differences } = comparison
  return html`${
    (end || speed) &&
    html`<div class="pair">${
      end &&
      html`<figure><h3>Difference at the end</h3>${picture(end, 'half')}<figcaption>Large dot: mean over seeds; small dots: seeds; bar: ${100 * confidence} % interval. Left of zero is worse than ${comparison.baseline}.</figcaption></figure>`
    }${
      speed &&
      html`<figure><h3>Speed</h3>${picture(speed, 'half')}<figcaption>Median over the steps of a run, mean over runs; dots are single runs. It depends on what else the machine was doing.</figcaption></figure>`
    }</div>`
  }
${finalTable(comparison)}
<p class="small">Loss: training loss, ${smoothing} (${window}), mean over seeds, nats per token.${comparison.pairs.length > 0 && ` Against ${comparison.baseline}: (${comparison.baseline} − recipe) / ${comparison.baseline}; negative is worse. Interval: ${100 * confidence} %, Student’s t over paired seeds. Resolved: the interval leaves out zero. Time: to the loss that both reach, over that of ${comparison.baseline}. Tokens: what the recipe needs beyond ${comparison.baseline} for the same loss, before the learning rate decays. Both are means, resolved or not; the interval of the tokens is in comparison.json.`}</p>
${expectedTable(comparison)}
${note && html`<p class="note">${note.split('\n').map((line, i) => html`${i > 0 && html`<br>`}${line}`)}</p>`}
${differences.length > 0 && html`<p class="note">The runs also differ in ${differences.join(', ')}: see the configs below.</p>`}`
}

/** Markup of the heat maps and their controls. */
export function heatSection(numerics: Numerics): Markup {
  const [run, operand] = numerics.first
  const recipes = [...new Set(numerics.runs.map(({ label }) => label))]
  const first = numerics.runs[run]!
  const seeds = [...new Set(numerics.runs.map(({ seed }) => seed))]
  const options = (values: readonly (readonly [value: string, text: string])[], chosen: string): Markup[] =>
    values.map(([value, text]) => html`<option value="${value}"${value === chosen && html` selected`}>${text}</option>`)
  const select = (name: string, title: string, list: Markup[]): Markup =>
    html`<label>${title}<select data-choice="${name}" autocomplete="off">${list}</select></label>`
  return html`<section id="numerics" class="numerics">
<h2>What quantisation did</h2>
<p>Linear layers from the first block to the last, over sampled steps. Stronger colour is worse; a measure has one scale for all recipes, seeds and operands, on which shares go by their square root. Rows without colour are layers that the recipe does not quantise. fprop is the forward product of a layer, dgrad that of its input’s gradient, wgrad that of its weight’s.${numerics.leftOut > 0 && ` The page has no room for ${numerics.leftOut} runs of later seeds.`}</p>
<div class="controls">
${select(
  'recipe',
  'recipe',
  options(
    recipes.map(label => [label, label]),
    first.label,
  ),
)}
${select(
  'seed',
  'seed',
  options(
    seeds.map(seed => [String(seed), String(seed)]),
    String(first.seed),
  ),
)}
${select(
  'operand',
  'operand',
  options(
    numerics.operands.map((name, i) => [String(i), operands[name] ? `${operands[name]} (${name})` : name]),
    String(operand),
  ),
)}
</div>
<div class="maps">${measures.map(
    ({ title, meaning, unit }, index) =>
      numerics.ranges[index] !== null &&
      html`<figure class="map" data-measure="${index}">
<div class="bar"><h3>${title}</h3><div class="ramp" aria-hidden="true"><span></span><i></i><span></span></div></div>
<div class="canvas" tabindex="0" role="group" aria-label="${title}: arrow keys read values of a layer at a step">${picture(heatPicture(numerics, title), 'half')}<p class="absent" hidden></p><div class="readout" hidden></div></div>
<div class="hidden" role="status"></div>
<figcaption>${unit === 'dB' ? 'dB' : '%'}: ${meaning}. <span class="extent"></span></figcaption>
</figure>`,
  )}
<div class="worst"><h3>Layers with the largest error</h3><table><thead><tr><th scope="col">layer</th><th scope="col" class="number">error</th><th scope="col" class="number">flushed</th><th scope="col" class="number">saturated</th></tr></thead><tbody></tbody></table><p class="small">Mean over the sampled steps, of the recipe, seed and operand chosen above.</p></div>
</div>
</section>`
}
