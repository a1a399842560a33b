import { formats } from '../formats/formats.ts'
import type { NamedReport } from './quantize.ts'
import { type Column, renderTable } from './table.ts'

const percent = (share: number): string => `${(100 * share).toFixed(3)} %`

/** Columns of a histogram: every code of 4-bit elements in the order of its value, the exponents of 8-bit ones. */
function histogram({ format, codes }: NamedReport): { title: string; count: number }[] {
  const { element } = formats[format]
  const half = codes.length / 2
  if (element.bits === 4) {
    const negative = Array.from({ length: half }, (_, i) => codes.length - 1 - i)
    const order = [...negative, ...Array.from({ length: half }, (_, i) => i)]
    return order.map(code => ({ title: code === half ? '-0' : String(element.values[code]), count: codes[code]! }))
  }
  const groups = half >> element.mantissaBits
  return Array.from({ length: groups }, (_, exponent) => {
    const of = (code: number) => codes[code]! + codes[code + half]!
    const members = Array.from({ length: 1 << element.mantissaBits }, (_, m) => (exponent << element.mantissaBits) + m)
    const count = members.reduce((sum, code) => sum + of(code), 0)
    return { title: exponent === 0 ? '<' : `2^${exponent - element.bias}`, count }
  })
}

/** The reports as two tables, or as JSON (an infinite SNR is null there). */
export function renderReports(reports: readonly NamedReport[], json: boolean): string {
  if (json) {
    const rows = reports.map(report => ({ ...report, snr: Number.isFinite(report.snr) ? report.snr : null }))
    return JSON.stringify(rows, null, 2) + '\n'
  }
  const right = (title: string): Column => ({ title, align: 'right' })
  const figures = renderTable(
    [
      { title: 'tensor' },
      right('rows'),
      right('cols'),
      right('amax'),
      right('SNR'),
      right('relative error'),
      right('flushed to zero'),
      right('saturated'),
      right('zero scales'),
      right('not finite'),
    ],
    reports.map(report => [
      report.name,
      String(report.rows),
      String(report.cols),
      report.amax.toPrecision(4),
      Number.isFinite(report.snr) ? `${report.snr.toFixed(2)} dB` : 'exact',
      percent(report.relativeError),
      percent(report.flushed),
      percent(report.saturated),
      percent(report.zeroScales),
      String(report.notFinite),
    ]),
  )
  const titles = histogram(reports[0]!).map(({ title }) => title)
  const shares = renderTable(
    [{ title: 'codes, %' }, ...titles.map(right)],
    reports.map(report => [
      report.name,
      ...histogram(report).map(({ count }) => ((100 * count) / (report.rows * report.cols)).toFixed(2)),
    ]),
  )
  return `${figures}\n\n${shares}\n`
}
