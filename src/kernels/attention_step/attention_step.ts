import { type Dims, defineKernel, inout, input, output } from '../../tensor/kernel.ts'

/**
 * attention for tokens that continue a sequence, one after another. Columns of qkv are heads as in attention.ts; `cache` holds the key heads,
 * then the value heads, of the last `capacity` tokens: those of the token at position t in slot t mod capacity. `position` is that of the first row,
 * 0 for a sequence that begins. For each row in turn, at position t: its keys and values go to their slot, and
 *
 *   y[h] = sum_c p_c v_c,   p = softmax of q[h]·k_c / sqrt(dim)   over the slots of positions max(0, t - capacity + 1) .. t
 *
 * so that a sequence longer than the cache sees its last `capacity` tokens.
 */
export const attentionStep = defineKernel({
  name: 'attention_step',
  args: {
    y: output('act', 'rows', 'heads', 'dim'),
    cache: inout('act', 'capacity', 'pairs', 'dim'),
    qkv: input('act', 'rows', 'columns', 'dim'),
    position: input('i32', 1),
  },
  reference({ y, cache, qkv, position }, dims) {
    const { rows, heads, dim, capacity, pairs, columns } = dims as Required<Record<string, number>>
    const kvHeads = pairs! / 2
    const weights = new Float64Array(capacity!)
    for (let r = 0; r < rows!; r++) {
      const t = position[0]! + r
      const own = (r * columns! + heads!) * dim!
      cache.set(qkv.subarray(own, own + pairs! * dim!), (t % capacity!) * pairs! * dim!)
      const visible = Math.min(t + 1, capacity!)
      for (let h = 0; h < heads!; h++) {
        const key = Math.floor((h * kvHeads) / heads!) * dim!
        const q = (r * columns! + h) * dim!
        let largest = Number.NEGATIVE_INFINITY
        for (let c = 0; c < visible; c++) {
          let score = 0
          for (let d = 0; d < dim!; d++) score += qkv[q + d]! * cache[c * pairs! * dim! + key + d]!
          weights[c] = score / Math.sqrt(dim!)
          largest = Math.max(largest, weights[c]!)
        }
        let sum = 0
        for (let c = 0; c < visible; c++) {
          weights[c] = Math.exp(weights[c]! - largest)
          sum += weights[c]!
        }
        for (let d = 0; d < dim!; d++) {
          let value = 0
          for (let c = 0; c < visible; c++) value += weights[c]! * cache[(c * pairs! + kvHeads) * dim! + key + d]!
          y[(r * heads! + h) * dim! + d] = value / sum
        }
      }
    }
  },
  cases: [
    sizes({ rows: 1, heads: 1, kv: 1, dim: 16, capacity: 1, position: 0 }),
    sizes({ rows: 7, heads: 2, kv: 1, dim: 5, capacity: 9, position: 0 }),
    sizes({ rows: 1, heads: 4, kv: 2, dim: 24, capacity: 150, position: 99 }),
    sizes({ rows: 6, heads: 4, kv: 2, dim: 80, capacity: 40, position: 37 }, 'a cache that comes round'),
    sizes({ rows: 9, heads: 3, kv: 3, dim: 128, capacity: 4, position: 1 }, 'more tokens than the cache holds'),
    { ...sizes({ rows: 1, heads: 32, kv: 8, dim: 128, capacity: 2048, position: 2047 }), bench: true },
  ],
  tolerance: 2e-6,
  cuda: {
    launches: ({ pairs, dim }: Dims) => {
      if (dim! > 256) throw new Error(`attention_step on cuda takes heads of at most 256 elements, got ${dim}`)
      return [{ entry: 'heads', grid: pairs! / 2, block: 256 }]
    },
  },
})

interface Sizes {
  rows: number
  heads: number
  kv: number
  dim: number
  capacity: number
  position: number
}

function sizes({ rows, heads, kv, dim, capacity, position }: Sizes, name?: string) {
  return {
    ...(name !== undefined && { name }),
    dims: { rows, heads, dim, capacity, pairs: 2 * kv, columns: heads + 2 * kv },
    inputs: () => ({ position: Int32Array.of(position) }),
  }
}
