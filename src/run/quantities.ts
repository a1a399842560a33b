/** 812 → `812`, 12345 → `12.3k`, 10e12 → `10.0T`. */
export function formatCount(value: number): string {
  if (value < 999.5) return value.toFixed(0)
  const units = ['k', 'M', 'B', 'T']
  let scaled = value / 1000
  while (scaled >= 999.5 && units.length > 1) {
    scaled /= 1000
    units.shift()
  }
  return scaled.toFixed(scaled < 10 ? 2 : scaled < 100 ? 1 : 0) + units[0]
}
