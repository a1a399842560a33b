import type { Comparison } from '../compare/comparison.ts'
import { tokensPerStep } from '../compare/runs.ts'
import { configKeys, valueAt } from '../config/keys.ts'
import { recipeOf } from '../config/rules.ts'
import type { RunConfig } from '../config/schema.ts'
import { describeModel } from '../model/describe.ts'
import { findRecipe, recipes } from '../recipes/recipes.ts'
import { formatCount } from '../run/quantities.ts'
import { html, type Markup } from './html.ts'
import type { ReportedArm, ReportedComparison } from './read.ts'
import { comparisonCommand, type Presets, runCommand } from './reproduce.ts'

/** What was compared, and everything that is needed to do it again. */

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)]
const whole = (value: number): string => value.toLocaleString('en-US')

/** Linear layers by format, as `14 nvfp4, 2 bf16`. */
function formatsOf(config: RunConfig, recipe: string): string {
  const { model, data, steps } = config
  const { formats } = describeModel(model, recipeOf(config, recipe), data.sequence, 0, steps)
  return Object.entries(formats)
    .map(([format, count]) => `${count} ${format}`)
    .join(', ')
}

/** `avx512, 2 threads`: the description of a backend in one line. */
const deviceOf = ({ run }: ReportedArm): string[] =>
  run
    ? [
        Object.entries(run.origin.device)
          .map(([key, value]) => (key === 'backend' ? value : `${key} ${value}`))
          .join(', '),
      ]
    : []

/** Name and value of what all runs of a report share, or a list of what they have. */
export function facts(arms: readonly ReportedArm[]): Markup {
  const begun = arms.flatMap(({ run }) => (run ? [run] : []))
  const rows: [string, string][] = []
  const models = unique(
    begun.map(({ config: { model, data, recipe, steps } }) => {
      const { parameters } = describeModel(model, findRecipe(recipe), data.sequence, 0, steps)
      return `${whole(parameters)} parameters: ${model.pattern}, width ${model.hidden}`
    }),
  )
  const lengths = unique(
    begun.map(({ config }) => {
      const tokens = config.steps * tokensPerStep(config)
      return `${formatCount(tokens)} a run: ${whole(config.steps)} steps of ${config.data.batch} x ${config.data.sequence}`
    }),
  )
  const texts = unique(
    begun.map(({ config: { data }, origin }) => {
      const sources = data.blend?.map(({ name, files }) => name ?? [files].flat().join(', ')) ?? [data.files].flat()
      return `${sources.join(', ')}, ${data.tokenizer} (SHA-256 ${origin.corpus.slice(0, 12)})`
    }),
  )
  const dates = arms.flatMap(({ updated }) => (updated ? [updated.toISOString().slice(0, 10)] : [])).sort()
  const states = unique(arms.map(({ arm }) => arm.status)).map(
    status => `${arms.filter(({ arm }) => arm.status === status).length} ${status}`,
  )
  const add = (name: string, values: readonly string[]) => {
    if (values.length > 0) rows.push([name, values.join('; ')])
  }
  add('model', models)
  add('tokens', lengths)
  add('runs', [states.join(', ')])
  add('text', texts)
  add('weights', unique(begun.flatMap(({ origin }) => (origin.imported ? [`imported from ${origin.imported}`] : []))))
  add('device', unique(arms.flatMap(deviceOf)))
  const when = dates.length === 0 ? [] : [`last step on ${unique([dates[0]!, dates.at(-1)!]).join(' to ')}`]
  add('halfbyte', [[...unique(begun.map(({ origin }) => origin.halfbyte)), ...when].join(', ')])
  return html`<dl class="facts">${rows.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`
}

const kinds: Readonly<Record<string, string>> = {
  branched: 'branched',
  resumed: 'resumed',
  placement_changed: 'resumed elsewhere',
  damaged_checkpoint: 'damaged checkpoint',
  non_finite: 'diverged',
  zero_gradient: 'diverged',
  loss_spike: 'loss spike',
  recipe_phase: 'recipe changes',
}

const mostEvents = 60

function describeEvent({
  event,
  layer,
  tensor,
  reason,
  loss,
  deviations,
  recipe,
  run,
  ...rest
}: Readonly<Record<string, unknown>>): string {
  const place = layer === undefined ? '' : ` (${layer}, ${tensor})`
  if (event === 'loss_spike')
    return `loss ${Number(loss).toFixed(3)}, ${deviations} deviations above its mean; largest gradient: ${layer}`
  if (reason !== undefined) return `${reason}${place}`
  if (event === 'branched') return `from ${run} under ${recipe}`
  if (event === 'recipe_phase') return `from the next step on: ${recipe}`
  return Object.entries(rest)
    .filter(([key]) => key !== 'step')
    .map(([key, value]) => `${key} ${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(', ')
}

export function eventsSection(arms: readonly ReportedArm[]): Markup {
  // A branch is resumed at its first step, which says nothing more.
  const rows = arms.flatMap(({ arm, events }) =>
    events
      .filter(({ event, step }) => !(event === 'resumed' && step === arm.branch?.step))
      .map(event => ({ arm, event })),
  )
  rows.sort((a, b) => Number(kinds[b.event.event] === 'diverged') - Number(kinds[a.event.event] === 'diverged'))
  const shown = rows.slice(0, mostEvents)
  return html`<section id="events"><h2>Events</h2>
${
  rows.length === 0
    ? html`<p>Nothing happened: no run diverged, none had a loss spike, none was interrupted.</p>`
    : html`<table class="cards words"><thead><tr><th scope="col">run</th><th scope="col" class="number">step</th><th scope="col">event</th><th scope="col">what</th></tr></thead>
<tbody>${shown.map(
        ({
          arm,
          event,
        }) => html`<tr><th scope="row">${arm.recipe}, seed ${arm.seed}</th><td data-title="step" class="number">${whole(event.step)}</td>
<td data-title="event" class="${kinds[event.event] === 'diverged' && 'bad'}">${kinds[event.event] ?? event.event}</td><td data-title="what">${describeEvent(event)}</td></tr>`,
      )}</tbody></table>${rows.length > shown.length && html`<p class="small">and ${rows.length - shown.length} more in events.jsonl of the runs</p>`}`
}</section>`
}

/** Values of a key and the runs that have each. */
function differenceRows(key: string, arms: readonly ReportedArm[]): Markup[] {
  const byValue = new Map<string, string[]>()
  for (const { arm, run } of arms) {
    if (!run) continue
    const value = JSON.stringify(valueAt(run.config, key)) ?? 'absent'
    byValue.set(value, [...(byValue.get(value) ?? []), `${arm.recipe} seed ${arm.seed}`])
  }
  return [...byValue].map(
    ([value, runs], i) =>
      html`<tr>${i === 0 && html`<th scope="row" rowspan="${byValue.size}">${key}</th>`}<td data-title="value">${value}</td><td data-title="runs">${runs.join(', ')}</td></tr>`,
  )
}

/** Keys of the configs that are not the same in all runs, recipe and seed left out. */
function differingKeys(arms: readonly ReportedArm[]): string[] {
  const configs = arms.flatMap(({ run }) => (run ? [run.config] : []))
  return configKeys.filter(key => {
    if (key === 'recipe' || key === 'seed') return false
    return new Set(configs.map(config => JSON.stringify(valueAt(config, key)))).size > 1
  })
}

export function configsSection(arms: readonly ReportedArm[]): Markup {
  const first = arms.find(({ run }) => run)?.run
  const names = unique(arms.map(({ arm }) => arm.recipe))
  const keys = differingKeys(arms)
  return html`<section id="configs"><h2>${arms.length > 1 ? 'What differs between the runs' : 'The config'}</h2>
<table class="cards words"><thead><tr><th scope="col">recipe</th><th scope="col">what it is</th><th scope="col">linear layers at the first step</th></tr></thead>
<tbody>${names.map(
    name =>
      html`<tr><th scope="row">${name}</th><td data-title="what">${Object.hasOwn(recipes, name) ? recipes[name]!.title : ''}</td><td data-title="linear layers">${first && Object.hasOwn(recipes, name) && formatsOf(first.config, name)}</td></tr>`,
  )}</tbody></table>
${
  keys.length === 0
    ? arms.length > 1 && html`<p>Beside recipe and seed, every key of the configs is the same in all runs.</p>`
    : html`<h3>Keys with more than one value</h3><table class="cards words"><thead><tr><th scope="col">key</th><th scope="col">value</th><th scope="col">runs</th></tr></thead><tbody>${keys.map(key => differenceRows(key, arms))}</tbody></table>`
}
${first && html`<details><summary>The whole config, as of ${first.config.recipe} seed ${first.config.seed}</summary><pre>${JSON.stringify(first.config, null, 2)}</pre></details>`}
</section>`
}

/** A command, broken into lines between its words alone. */
const command = (text: string): Markup =>
  html`<div class="command"><pre tabindex="0">${text.split(' ').map((word, i) => html`${i > 0 && ' '}<span>${word}</span>`)}</pre><button type="button" class="copy" hidden>copy</button></div>`

/** Commands of one comparison: as recorded, with every override resolved, and run by run. */
export function commandsOf({ comparison, arms }: ReportedComparison, presets: Presets): Markup {
  const recorded: Comparison['command'] = comparison.command
  const resolved = comparisonCommand(comparison, arms, presets)
  const runs = arms.flatMap(arm => {
    const text = runCommand(arm, presets)
    return text ? [{ arm: arm.arm, text }] : []
  })
  if (recorded === '') return html`${runs.map(({ text }) => command(text))}`
  return html`${resolved && command(resolved)}
${resolved !== recorded && html`<p class="small">${resolved ? 'As it was called' : 'The command'}:</p>${command(recorded)}`}
${runs.length > 0 && html`<details><summary>Each run by itself</summary>${runs.map(({ arm, text }) => html`<p class="small">${arm.recipe}, seed ${arm.seed}</p>${command(text)}`)}</details>`}`
}
