import type { Assets } from './assets.ts'
import { type Curves, curvesOf } from './curves.ts'
import { commandsOf, configsSection, eventsSection, facts } from './details.ts'
import { colours } from './drawing.ts'
import { shortName } from './heat_map.ts'
import { html, json, Markup } from './html.ts'
import { measures, type Numerics, numericsOf } from './numerics.ts'
import { inkOf } from './picture.ts'
import type { ReportedArm, ReportedComparison, ReportInput } from './read.ts'
import type { Presets } from './reproduce.ts'
import { differenceSection, endSection, heatSection, lossSection } from './sections.ts'
import { verdictOf } from './verdict.ts'

/** The whole page: one file, without network. */

const heatLevels = 32

/** Colours as custom properties, and the steps of the heat maps' scale between three of the style sheet's. */
function colourRules(): string {
  const series = colours.map(({ light, dark }, i) => `--series-${i + 1}:light-dark(${light},${dark})`)
  const levels = Array.from({ length: heatLevels }, (_, i) => {
    const share = (100 * i) / (heatLevels - 1)
    const [from, to, mix] = share < 50 ? ['good', 'fair', 2 * share] : ['fair', 'poor', 2 * share - 100]
    return `.q${i}{fill:color-mix(in oklab,var(--heat-${to}) ${mix.toFixed(1)}%,var(--heat-${from}))}`
  })
  return `:root{${series.join(';')}}\n${levels.join('')}`
}

const rounded = (values: readonly number[]): (number | null)[] =>
  values.map(value => (Number.isFinite(value) ? Number(value.toPrecision(5)) : null))

/** Percent: read-outs show two decimals. */
const roundedPercent = (values: readonly number[]): (number | null)[] =>
  values.map(value => (Number.isFinite(value) ? Number(value.toFixed(3)) : null))

/** Values of the charts for read-outs. */
function chartValues(id: string, { steps, recipes }: Curves): Record<string, unknown> {
  const name = (recipe: string, index: number) => ({ index, name: recipe, ink: inkOf(index) })
  return {
    [`${id}-loss`]: {
      digits: 4,
      unit: '',
      steps: rounded(steps),
      series: recipes.flatMap(({ recipe, loss }, index) =>
        loss.length > 0 ? [{ ...name(recipe, index), y: rounded(loss) }] : [],
      ),
    },
    [`${id}-difference`]: {
      digits: 2,
      unit: ' %',
      signed: true,
      steps: rounded(steps),
      series: recipes.flatMap(({ recipe, difference }, index) => {
        if (!difference) return []
        const { mean, low, high, wide } = difference
        const band = wide && { low: roundedPercent(low), high: roundedPercent(high) }
        return [{ ...name(recipe, index), y: roundedPercent(mean), ...band }]
      }),
    },
  }
}

const numericsValues = (numerics: Numerics) => ({
  ...numerics,
  labels: numerics.linears.map(shortName),
  levels: heatLevels,
  measures: measures.map(({ title, unit, lowIsWorse, ofLayer }) => ({ title, unit, lowIsWorse, ofLayer })),
})

/** No line break between a figure and its percent sign. */
const unbroken = (text: string): string => text.replaceAll(' %', '\u00a0%')

interface Part {
  readonly reported: ReportedComparison
  readonly id: string
  readonly curves: Curves
}

/** Sentences on each recipe; where there are many, all but the first are opened on demand. */
function inWords(sentences: readonly string[], most: number): Markup {
  const paragraph = (text: string) => html`<p class="lead">${unbroken(text)}</p>`
  const [shown, others] =
    sentences.length > most + 1 ? [sentences.slice(0, most), sentences.slice(most)] : [sentences, []]
  return html`${shown.map(paragraph)}${others.length > 0 && html`<details><summary>${most > 0 ? `${others.length} more recipes in words` : 'Each recipe in words'}</summary>${others.map(paragraph)}</details>`}`
}

function comparisonSection({ reported, id, curves }: Part, several: boolean): Markup {
  const { comparison } = reported
  const { headline, sentences } = verdictOf(comparison)
  return html`<section id="${id}" class="comparison">
${several ? html`<h2>${comparison.title}</h2><p class="lead">${unbroken(headline)}</p>${inWords(sentences, 0)}` : html`<h2>At the end</h2>`}
${endSection(reported)}
${!several && html`<h2>Over the steps</h2>`}
${lossSection(id, `${id}-loss`, curves, comparison.window)}
${differenceSection(id, `${id}-difference`, curves, comparison.confidence)}
</section>`
}

/** A line for each of several comparisons. */
const overview = (parts: readonly Part[]): Markup =>
  html`<ul class="overview">${parts.map(({ id, reported }) => html`<li><a href="#${id}">${reported.name}</a> ${unbroken(verdictOf(reported.comparison).headline)}</li>`)}</ul>`

/** Runs of all comparisons, each once. */
function uniqueArms(comparisons: readonly ReportedComparison[]): ReportedArm[] {
  const byDirectory = new Map(comparisons.flatMap(({ arms }) => arms.map(arm => [arm.directory, arm] as const)))
  return [...byDirectory.values()]
}

const icon = html`<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='3' fill='%230072b2'/%3E%3Cpath d='M3 12 6 6l3 4 4-6' fill='none' stroke='%23fff' stroke-width='1.8'/%3E%3C/svg%3E">`

/** Observable Plot counts its clip paths through the life of the process; a page counts its own. */
function renumbered(page: string): string {
  const numbers = new Map<string, number>()
  return page.replace(/(id="|url\(#)plot-clip-(\d+)/g, (_, before: string, id: string) => {
    if (!numbers.has(id)) numbers.set(id, numbers.size + 1)
    return `${before}plot-clip-${numbers.get(id)}`
  })
}

/** The text of report.html. The same directory gives the same text. */
export function renderReport({ comparisons, kind }: ReportInput, presets: Presets, { css, script }: Assets): string {
  const several = comparisons.length > 1
  const arms = uniqueArms(comparisons)
  const parts = comparisons.map(
    (reported, i): Part => ({ reported, id: `part-${i + 1}`, curves: curvesOf(reported, comparisons.length) }),
  )
  const numerics = numericsOf(arms, comparisons.length)
  const [{ comparison }] = comparisons as readonly [ReportedComparison, ...ReportedComparison[]]
  const verdict = verdictOf(comparison)
  const title = several ? comparisons.map(({ name }) => name).join(', ') : comparison.title
  const values = {
    charts: Object.assign({}, ...parts.map(({ id, curves }) => chartValues(id, curves))),
    numerics: numerics && numericsValues(numerics),
  }
  const links: readonly (readonly [string, string])[] = [
    ...parts.map(({ id, reported }) => [id, several ? reported.name : kind === 'run' ? 'loss' : 'results'] as const),
    ...(numerics ? [['numerics', 'quantisation'] as const] : []),
    ['events', 'events'],
    ['configs', 'configs'],
    ['commands', 'commands'],
  ]
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark">
<title>${title} – halfbyte report</title>
${icon}
<style>${new Markup(`${css}\n${colourRules()}`)}</style>
</head>
<body>
<header>
<div class="top"><p class="kicker"><b>halfbyte</b> report · ${title}</p><button type="button" id="theme" hidden>dark</button></div>
<h1>${unbroken(verdict.headline)}</h1>
${several ? overview(parts) : inWords(verdict.sentences, 3)}
${facts(arms)}
<nav aria-label="Parts of the report">${links.map(([id, text]) => html`<a href="#${id}">${text}</a>`)}</nav>
</header>
<main>
${parts.map(part => comparisonSection(part, several))}
${numerics ? heatSection(numerics) : html`<section id="numerics"><h2>What quantisation did</h2><p>The runs have no measurements of quantisation (numerics.jsonl).</p></section>`}
${eventsSection(arms)}
${configsSection(arms)}
<section id="commands"><h2>Commands that reproduce it</h2>
${parts.map(({ reported }) => html`${several && html`<h3>${reported.comparison.title}</h3>`}${commandsOf(reported, presets)}`)}
</section>
</main>
<footer><p>Relative difference: (baseline − recipe) / baseline, as in arXiv 2509.25149, section 3. “A small price” is a resolved loss of at most 1.5 %, what the paper reports for its 12B at the end of training; above 4.5 % training is said not to hold. Intervals take no account of how many recipes, or steps of a curve, are looked at.</p></footer>
<script type="application/json" id="values">${json(values)}</script>
<script>${new Markup(script)}</script>
</body>
</html>
`
  return renumbered(page.text)
}
