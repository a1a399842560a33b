import { type Comparison, smoothing } from '../compare/comparison.ts'
import { between, percent, summaryColumns, summaryRows } from '../compare/summary.ts'
import { formatCount } from '../run/quantities.ts'
import { renderTable } from './table.ts'

/** What `compare` and `ablate` print at their end. */

function recipeTable(comparison: Comparison): string {
  const columns = summaryColumns(comparison.baseline)
  const rows = summaryRows(comparison).map(row => columns.map(({ key }) => row[key]))
  return renderTable(columns, rows)
}

/** What the columns are, for the end of what is printed. */
export const explanation = ({ window, confidence }: Comparison): string =>
  `loss: ${smoothing} (${window}), mean over seeds, nats per token. Against the baseline: (baseline - recipe) / baseline, negative is worse;
interval: ${100 * confidence} %, Student's t over paired seeds; resolved: it leaves out zero. time: to the loss that both reach, over the baseline's;
tokens: that the recipe needs beyond the baseline for the same loss, before the learning rate decays. Both are means, resolved or not; the
interval of the tokens is in comparison.json.
`

/** What was compared: the table, divergences, orders. */
export function comparisonText(comparison: Comparison): string {
  const { title, tokens, seeds, arms, expected, differences, note } = comparison
  const diverged = arms.filter(({ diverged }) => diverged)
  const lines = [
    `${title}: ${formatCount(tokens)} tokens a run, ${seeds.length === 1 ? 'one seed' : `${seeds.length} seeds`}`,
    '',
    recipeTable(comparison),
  ]
  if (diverged.length > 0) lines.push('')
  for (const { recipe, seed, diverged: place } of diverged)
    lines.push(`diverged: ${recipe}, seed ${seed}, at step ${place!.step}: ${place!.reason}`)
  if (expected.length > 0) {
    const rows = expected.map(
      ({ better, worse, found, relative_difference: difference, interval, seeds_to_resolve: needed }) => [
        `${better} before ${worse}`,
        found + (found === 'not resolved' && needed !== null ? `, in ${needed} seeds` : ''),
        difference === null ? '' : percent(difference),
        between(interval),
      ],
    )
    const columns = [
      { title: "the paper's order" },
      { title: 'found' },
      { title: 'by', align: 'right' },
      { title: 'interval', align: 'right' },
    ] as const
    lines.push('', renderTable(columns, rows))
  }
  if (differences.length > 0) lines.push('', `the runs also differ in ${differences.join(', ')}`)
  if (note) lines.push('', note)
  return `${lines.join('\n')}\n`
}
