/** A column of a printed table: numbers are set to the right, words to the left. */
export interface Column {
  readonly title: string
  readonly align?: 'left' | 'right'
}

/** Lines of a table, columns two spaces apart; the last column is not padded. */
export function renderTable(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const cells = [columns.map(({ title }) => title), ...rows]
  const widths = columns.map((_, i) => Math.max(...cells.map(row => (row[i] ?? '').length)))
  const line = (row: readonly string[]) =>
    columns
      .map(({ align }, i) =>
        align === 'right' ? (row[i] ?? '').padStart(widths[i]!) : (row[i] ?? '').padEnd(widths[i]!),
      )
      .join('  ')
      .trimEnd()
  return cells.map(line).join('\n')
}
