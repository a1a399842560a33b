import type { NumericsRecord } from '../run/records.ts'
import type { ReportedArm } from './read.ts'

/**
 * What quantisation did, as heat maps of linear layers over steps. All runs share rows, columns and the range of each measure, so that maps of
 * two recipes can be compared by eye. Values are packed for the page: 16 bits each, evenly from `low` to `high`, in the order run, measure,
 * operand, linear, step; 65535 is a value that there is not.
 */

export interface Measure {
  readonly key: 'snr_db' | 'flushed' | 'saturated' | 'zero_scales' | 'zero_wgrad'
  readonly title: string
  readonly unit: 'dB' | '%'
  readonly meaning: string
  /** Whether small values are the bad ones. */
  readonly lowIsWorse?: true
  /** Of the layer's weight gradient and not of an operand. */
  readonly ofLayer?: true
}

export const measures: readonly Measure[] = [
  {
    key: 'snr_db',
    title: 'Error of quantisation',
    unit: 'dB',
    meaning: 'signal over quantisation error; less is worse',
    lowIsWorse: true,
  },
  { key: 'flushed', title: 'Flushed to zero', unit: '%', meaning: 'values that became zero' },
  { key: 'saturated', title: 'Saturated', unit: '%', meaning: 'values beyond the largest element under their scale' },
  { key: 'zero_scales', title: 'Zero scales', unit: '%', meaning: 'blocks whose scale is zero' },
  {
    key: 'zero_wgrad',
    title: 'Zero weight gradients',
    unit: '%',
    meaning: 'elements of the layer’s weight gradient that are exactly zero, whatever the operand',
    ofLayer: true,
  },
]

/** Operands in the order of their use: forward pass (fprop), gradient of the input (dgrad), gradient of the weight (wgrad). */
export const operands: Readonly<Record<string, string>> = {
  xRows: 'activations, fprop',
  wRows: 'weights, fprop',
  dyRows: 'gradients, dgrad',
  wColumns: 'weights, dgrad',
  dyColumns: 'gradients, wgrad',
  xColumns: 'activations, wgrad',
}

/** At most so many columns, and so many values in a page of one comparison and of several; rather fewer runs than so few columns. */
const mostColumns = 60
const mostValues = 500_000
const mostOfSeveral = 250_000
const leastColumns = 8
const missing = 65535

export interface Numerics {
  readonly steps: readonly number[]
  readonly linears: readonly string[]
  readonly operands: readonly string[]
  readonly runs: readonly { readonly recipe: string; readonly seed: number; readonly label: string }[]
  /** Runs of later seeds for which the page has no room. */
  readonly leftOut: number
  /** By measure: range over all runs; null if it was never measured. */
  readonly ranges: readonly (readonly [low: number, high: number] | null)[]
  /** Base64 of little-endian 16-bit words. */
  readonly values: string
  /** Run and operand that are shown first. */
  readonly first: readonly [run: number, operand: number]
}

/** `count` of them, evenly spread, the first and the last included. */
function evenly<T>(values: readonly T[], count: number): T[] {
  if (values.length <= count) return [...values]
  return Array.from(
    { length: count },
    (_, i) => values[Math.round((i * (values.length - 1)) / Math.max(1, count - 1))]!,
  )
}

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)]

const measured = (record: NumericsRecord, { key, unit }: Measure): number | undefined => {
  const value = record[key]
  return typeof value === 'number' && Number.isFinite(value) ? (unit === '%' ? 100 * value : value) : undefined
}

/** Names of runs that are told apart by recipe and seed alone where that is enough. */
function labelled(arms: readonly ReportedArm[]): Numerics['runs'] {
  return arms.map(({ arm: { recipe, seed, branch } }) => {
    const alike = arms.filter(({ arm }) => arm.recipe === recipe && arm.seed === seed).length
    return { recipe, seed, label: alike > 1 && branch ? `${recipe} from step ${branch.step}` : recipe }
  })
}

/** Runs with measurements under their names, of those with the same name and seed the first: the suites train some recipes each. */
function named(all: readonly ReportedArm[]): (Numerics['runs'][number] & { readonly arm: ReportedArm })[] {
  const arms = all.filter(({ numerics }) => numerics.length > 0)
  const runs = labelled(arms).map((run, i) => ({ ...run, arm: arms[i]! }))
  return [...new Map(runs.toReversed().map(run => [`${run.label} ${run.seed}`, run])).values()].toReversed()
}

/** The first so many by their seeds, in the order that they have. */
function firstSeeds<T extends { readonly seed: number }>(runs: readonly T[], most: number): T[] {
  const kept = new Set([...runs].sort((a, b) => a.seed - b.seed).slice(0, most))
  return runs.filter(run => kept.has(run))
}

/**
 * Undefined if no run has measurements.
 * @param comparisons in the page.
 */
export function numericsOf(all: readonly ReportedArm[], comparisons = 1): Numerics | undefined {
  const values = comparisons > 1 ? mostOfSeveral : mostValues
  const runs = named(all)
  if (runs.length === 0) return undefined
  const records = runs.flatMap(({ arm }) => arm.numerics)
  const linears = unique(records.map(({ linear }) => linear))
  const known = unique(records.flatMap(({ operand }) => (operand === undefined ? [] : [operand])))
  const used = [
    ...Object.keys(operands).filter(name => known.includes(name)),
    ...known.filter(name => !Object.hasOwn(operands, name)),
  ]
  const names = used.length > 0 ? used : ['']
  const perCell = measures.length * names.length * linears.length
  const sampled = unique(records.map(({ step }) => step)).sort((a, b) => a - b)
  const room = Math.floor(values / (perCell * Math.min(leastColumns, sampled.length)))
  const chosen = firstSeeds(runs, Math.max(1, room))
  const arms = chosen.map(({ arm }) => arm)
  const perColumn = arms.length * perCell
  const steps = evenly(sampled, Math.max(2, Math.min(mostColumns, Math.floor(values / perColumn))))

  const [row, column, rank] = [linears, steps, names].map(
    list => new Map<string | number, number>(list.map((name, i) => [name, i])),
  ) as [Map<string | number, number>, Map<string | number, number>, Map<string | number, number>]
  const floats = new Float64Array(perColumn * steps.length).fill(Number.NaN)
  arms.forEach(({ numerics }, run) => {
    for (const record of numerics) {
      const [y, x] = [row.get(record.linear)!, column.get(record.step)]
      if (x === undefined) continue
      measures.forEach((measure, m) => {
        const value = measured(record, measure)
        if (value === undefined || (record.operand === undefined && !measure.ofLayer)) return
        const places = measure.ofLayer ? names.map((_, i) => i) : [rank.get(record.operand!)!]
        for (const o of places)
          floats[(((run * measures.length + m) * names.length + o) * linears.length + y) * steps.length + x] = value
      })
    }
  })

  const perMeasure = names.length * linears.length * steps.length
  const ranges = measures.map(({ unit }, m): [number, number] | null => {
    let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]
    for (let i = 0; i < floats.length; i++) {
      if (Math.floor(i / perMeasure) % measures.length !== m || Number.isNaN(floats[i]!)) continue
      low = Math.min(low, floats[i]!)
      high = Math.max(high, floats[i]!)
    }
    if (low > high) return null
    return unit === '%' ? [0, high] : [low, high]
  })
  const bytes = Buffer.alloc(2 * floats.length)
  floats.forEach((value, i) => {
    const range = ranges[Math.floor(i / perMeasure) % measures.length]
    const share = range && range[1] > range[0] ? (value - range[0]) / (range[1] - range[0]) : 0
    bytes.writeUInt16LE(Number.isNaN(value) ? missing : Math.round(share * (missing - 1)), 2 * i)
  })
  const quantised = arms.map(({ numerics }) => numerics.some(({ operand }) => operand !== undefined))
  return {
    steps,
    linears,
    operands: names,
    runs: chosen.map(({ recipe, seed, label }) => ({ recipe, seed, label })),
    leftOut: runs.length - chosen.length,
    ranges,
    values: bytes.toString('base64'),
    first: [Math.max(0, quantised.indexOf(true)), Math.max(0, names.indexOf('dyColumns'))],
  }
}
