/** A value as a message shows it: JSON, with the numbers that JSON has no words for, shortened. */
export function shown(value: unknown): string {
  const text =
    typeof value === 'number'
      ? String(value)
      : (JSON.stringify(value, (_, inner) =>
          typeof inner === 'number' && !Number.isFinite(inner) ? `${inner}` : inner,
        ) ?? String(value))
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}
