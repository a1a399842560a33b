import { type FormatName, formats } from '../../formats/formats.ts'
import { Stream } from '../../formats/philox.ts'
import { amaxOf, amaxOfRows, limitsOf, type QuantizeOptions } from '../../formats/quantize.ts'
import type { Case, Dims } from '../../tensor/kernel.ts'

export type Layout = 'rows' | 'columns' | 'square' | 'both'

/** Whether an image of this layout may have an outer scale for each line. */
const perLine = (layout: Layout): boolean => layout === 'rows' || layout === 'columns'

/** Whether the kernel of a format and layout reads x as mapped (src/kernels/shared/mapping.ts). */
export const maps = (format: FormatName, layout: Layout): boolean =>
  layout === 'both' && Number.isFinite(formats[format].block)

/** Whether the kernel of a format and layout rounds x to BF16 as it reads it, if asked: where tiles are large. */
export const rounds = (format: FormatName, layout: Layout): boolean =>
  layout === 'square' && formats[format].block === 128

/** What goes into a case: values that reach the edges of the formats, by name. */
type Filling = 'normal' | 'edges' | 'ties' | 'tied' | 'tiny' | 'bad' | 'nan' | 'huge'

/** Shares of a block's largest element: on the first a scale to 6 errs by as much as a scale to 4 does on the second, and neither on the other. */
const equalErrors: readonly (readonly [number, number])[] = [
  ...[1 / 8, 3 / 8].flatMap(six => [1 / 12, 1 / 6, 1 / 3].map(four => [six, four] as const)),
  [3 / 4, 2 / 3],
  [3 / 4, 2 / 3],
]

const fillings: Readonly<Record<Filling, (i: number, random: Stream) => number>> = {
  normal: (_, random) => random.normal(),
  // Blocks of zeros, of both signs, and blocks so small beside the rest that their scale is 0 and their codes are the largest.
  edges: (i, random) =>
    [random.normal(), 0, -0, random.normal() * 1e-7, random.normal() * 2e-6, 3, random.normal() * 100][(i >> 4) % 7]!,
  // Quotients halfway between codes: the amax of every block is 6 or 448 times a power of two.
  ties: (i, random) => (i % 16 === 5 ? 6 : (random.below(97) - 48) / 8),
  // Both scales of four-over-six leave the same error but for rounding, so that the order of its sums decides.
  tied: (i, random) => {
    const hash = Math.imul(i >> 1, 0x9e3779b1) >>> 28
    const share = i % 16 < 2 ? 1 - (i % 2) : equalErrors[hash >> 1]![(i + hash) % 2]!
    return 5 * share * (random.below(2) ? 1 : -1)
  },
  tiny: (_, random) => random.normal() * 1e-38,
  bad: (i, random) => [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY][i % 97] ?? random.normal(),
  nan: (i, random) => (i % 37 === 20 ? Number.NaN : random.normal()),
  huge: (_, random) => random.normal() * 1e37,
}

function fill(size: number, filling: Filling): Float32Array {
  const random = new Stream(7, size)
  return Float32Array.from({ length: size }, (_, i) => fillings[filling](i, random))
}

const mappings = ['squared', 'normalised'] as const
type Mapping = (typeof mappings)[number]

interface Variant {
  readonly rows: number
  readonly cols: number
  readonly filling: Filling
  readonly options?: Partial<QuantizeOptions>
  readonly hadamard?: number
  /** What `both` reads in place of x. */
  readonly mapping?: Mapping
  /** `square` rounds x. */
  readonly rounded?: true
  readonly bench?: true
}

const orders = { q6: 0, m6: 1 }
const errors = { mae: 1, mse: 2 }

/** A case of a quantising kernel; `amax` is taken from the values, rotation or not, because any positive number serves. */
function caseOf(format: FormatName, layout: Layout, eden: boolean, variant: Variant): Case {
  const { rows, cols, filling, options = {}, hadamard = 0, mapping, rounded, bench } = variant
  const row = formats[format]
  const perRow = options.outer === 'row'
  const amaxes = perRow ? (layout === 'columns' ? cols : rows) : 2
  const across = (n: number) => Math.ceil(n / 128)
  const blocks = { row_blocks: across(rows), col_blocks: across(cols) }
  const dims: Dims = {
    rows,
    cols,
    ...(row.tensorScale && layout !== 'both' ? { amaxes } : {}),
    ...(row.scale === 'f32' && Number.isFinite(row.block) ? blocks : {}),
    sign_words: 4,
  }
  const { limit, bound } = limitsOf({ format, round: eden ? 'eden' : 'nearest', ...options })
  const stochastic = eden || options.round === 'stochastic'
  const scalars: Record<string, number> = {
    stream: 77,
    ...(layout === 'both' ? { stream_t: 78 } : {}),
    ...(maps(format, layout) ? { squared: mapping === 'squared' ? 1 : 0 } : {}),
    ...(rounds(format, layout) ? { rounded: rounded ? 1 : 0 } : {}),
    limit,
    ...(layout === 'square' ? {} : { hadamard }),
    ...(eden ? {} : { rounding: stochastic ? 1 : 0 }),
    ...(row.tensorScale ? { bound } : {}),
    ...(row.tensorScale && perLine(layout) ? { per_row: perRow ? 1 : 0 } : {}),
    ...(row.tensorScale && !eden
      ? {
          scale_order: orders[options.scaleOrder ?? 'q6'],
          four_over_six: options.fourOverSix ? errors[options.fourOverSix] : 0,
        }
      : {}),
    ...(row.scale === 'ue8m0' ? { floor: options.mxScale === 'floor' ? 1 : 0 } : {}),
    ...(row.scale === 'f32' ? { pow2: options.pow2Scales ? 1 : 0 } : {}),
  }
  const present = [
    ...(layout === 'square' ? ['codes_t', 'scales_t'] : []),
    ...(hadamard ? ['signs'] : []),
    ...(stochastic ? ['random'] : []),
    ...(mapping === 'normalised' ? ['inverse', 'w'] : []),
  ]
  const described = [
    mapping ?? '',
    rounded ? 'rounded' : '',
    filling,
    hadamard ? `rotated ${hadamard}` : '',
    JSON.stringify(options),
  ].join(' ')
  return {
    name: `${rows}x${cols} ${described}`,
    dims,
    scalars,
    with: present,
    inputs: () => {
      const x = fill(rows * cols, filling)
      const amax_t = layout === 'both' ? Float32Array.of(amaxOf(x)[0]! * 1.25, 0) : undefined
      const amax = perRow ? amaxOfRows(fill(amaxes * 16, filling), amaxes, 16) : amaxOf(x)
      return {
        x,
        ...(row.tensorScale || !Number.isFinite(row.block) ? { amax, amax_t } : {}),
        signs: Uint32Array.of(0x6627d7e8, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8),
        random: Uint32Array.of(0x1234, 0x5678, 9),
      } as unknown as ReturnType<NonNullable<Case['inputs']>>
    },
    ...(bench ? { bench } : {}),
  }
}

const stochastic: Partial<QuantizeOptions> = { round: 'stochastic' }

const linesOf: Readonly<Record<'e4m3' | 'ue8m0' | 'f32', readonly Variant[]>> = {
  e4m3: [
    { rows: 48, cols: 272, filling: 'edges', options: { scaleOrder: 'm6' } },
    { rows: 80, cols: 48, filling: 'ties', options: { fourOverSix: 'mse' } },
    { rows: 32, cols: 80, filling: 'normal', options: { fourOverSix: 'mae' } },
    { rows: 48, cols: 272, filling: 'tied', options: { fourOverSix: 'mae' } },
    { rows: 48, cols: 272, filling: 'tied', options: { fourOverSix: 'mse' } },
    { rows: 32, cols: 48, filling: 'bad', options: { fourOverSix: 'mae' } },
    { rows: 32, cols: 48, filling: 'nan', options: { fourOverSix: 'mse' } },
    { rows: 64, cols: 48, filling: 'normal', options: { outer: 'row' } },
    { rows: 64, cols: 48, filling: 'edges', options: { round: 'stochastic', outer: 'row', scaleOrder: 'm6' } },
  ],
  ue8m0: [
    { rows: 96, cols: 288, filling: 'edges', options: { mxScale: 'floor' } },
    { rows: 64, cols: 96, filling: 'huge', options: { mxScale: 'floor' } },
  ],
  f32: [
    { rows: 48, cols: 272, filling: 'edges', options: { pow2Scales: true } },
    { rows: 144, cols: 48, filling: 'tiny', options: { pow2Scales: true } },
  ],
}

/** Cases of the kernel of a format and layout: awkward shapes, all roundings, every edge of the scales. */
export function quantizeCases(format: FormatName, layout: Layout, eden: boolean): Case[] {
  const { block, scale } = formats[format]
  const unit = Math.max(16, Number.isFinite(block) && block < 128 ? block : 16)
  const up = (n: number) => Math.ceil(n / unit) * unit
  const size = (rows: number, cols: number) => ({ rows: up(rows), cols: up(cols) })
  const round = eden ? {} : stochastic
  const shared: Variant[] = [
    { ...size(16, 16), filling: 'normal' },
    { ...size(48, 272), filling: 'edges' },
    { ...size(80, 48), filling: 'ties' },
    { ...size(16, 48), filling: 'tiny' },
    { ...size(48, 48), filling: 'bad' },
    { ...size(48, 48), filling: 'nan', options: round },
    { ...size(32, 48), filling: 'nan' },
    { ...size(32, 64), filling: 'huge' },
    { ...size(48, 272), filling: 'edges', options: round },
    { ...size(80, 48), filling: 'bad', options: round },
    ...(eden ? [] : [{ ...size(144, 160), filling: 'normal' as const, options: { ...stochastic, headroom: 16 / 17 } }]),
  ]
  const columns = layout !== 'rows'
  const rotated: Variant[] = [4, 16, 32, 64, 128].map((hadamard, i) => ({
    rows: columns ? 128 : up(48),
    cols: columns ? up(48) : 128,
    filling: i % 2 ? 'normal' : 'edges',
    hadamard,
    options: i % 2 ? round : {},
  }))
  const whole: Variant[] = [
    { rows: 256, cols: 128, filling: 'ties' },
    { rows: 128, cols: 384, filling: 'edges', options: round },
    { rows: 256, cols: 128, filling: 'bad' },
    ...(layout === 'square' ? [] : [{ rows: 256, cols: 128, filling: 'edges' as const, hadamard: 16, options: round }]),
  ]
  const big = { rows: 2048, cols: 1024, filling: 'normal', bench: true } as const
  const timed: Variant[] = [
    big,
    ...(eden ? [] : [{ ...big, options: stochastic }]),
    ...(eden || scale !== 'e4m3' ? [] : [{ ...big, options: { fourOverSix: 'mse' as const } }]),
    ...(columns && layout !== 'square' ? [{ ...big, hadamard: 16, options: round }] : []),
    ...(maps(format, layout) ? mappings.map(mapping => ({ ...big, mapping, hadamard: 16 })) : []),
  ]
  const read: Variant[] = mappings.flatMap(mapping => [
    { ...size(32, 48), mapping, filling: 'bad' },
    { ...size(144, 272), mapping, filling: 'edges', hadamard: 16 },
    { rows: 256, cols: 384, mapping, filling: 'edges', hadamard: 16, options: round },
    { rows: 256, cols: 128, mapping, filling: 'nan' },
    { rows: 128, cols: up(48), mapping, filling: 'normal', hadamard: 64, options: round },
  ])
  const narrowed: Variant[] = [
    { ...size(48, 272), rounded: true, filling: 'edges', options: round },
    { ...size(80, 48), rounded: true, filling: 'tiny' },
    { rows: 256, cols: 384, rounded: true, filling: 'edges' },
    { rows: 256, cols: 128, rounded: true, filling: 'bad' },
    { ...big, rounded: true },
  ]
  const special = eden ? [] : linesOf[scale].filter(({ options }) => perLine(layout) || options?.outer !== 'row')
  const variants =
    layout === 'square'
      ? [...shared, ...special, ...whole, ...(rounds(format, layout) ? narrowed : []), ...timed]
      : [...shared, ...special, ...rotated, ...whole, ...(maps(format, layout) ? read : []), ...timed]
  return variants.map(variant => caseOf(format, layout, eden, variant))
}
