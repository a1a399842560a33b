import type { RunConfig } from '../config/schema.ts'
import type { LayerSensitivity, Sensitivity } from './sensitivity.ts'

/** Which layers to keep in high precision, as rules that a config takes on top of its recipe (docs/analysis.md). */

export interface Policy {
  /** The most sensitive. */
  readonly kept: readonly LayerSensitivity[]
  /** Of all linear layers, and of their parameters. */
  readonly share: number
  readonly parameter_share: number
  readonly rules: RunConfig['rules']
}

/** The name of the recipe that rounds operands to this and quantises nothing. */
const highPrecision = { bf16: 'bf16', f32: 'fp32' } as const

/**
 * Keeps the `count` most sensitive layers. Layers that the run's recipe keeps of itself and this policy does not are quantised as the
 * recipe does the others, so that the count is what is kept in all.
 */
export function policyOf(
  { layers }: Pick<Sensitivity, 'layers'>,
  count: number,
  { recipe, rules }: Pick<RunConfig, 'recipe' | 'rules'>,
  plain: 'f32' | 'bf16' = 'bf16',
): Policy {
  const kept = layers.slice(0, count)
  const parameters = (list: readonly LayerSensitivity[]) => list.reduce((sum, layer) => sum + layer.parameters, 0)
  const inOrder = (list: readonly LayerSensitivity[], use: string) =>
    [...list]
      .sort((a, b) => a.block - b.block)
      .map(({ linear }): RunConfig['rules'][number] => ({ where: { name: linear }, use }))
  const released = layers.slice(count).filter(({ high_in_run: high }) => high)
  return {
    kept,
    share: kept.length / layers.length,
    parameter_share: parameters(kept) / parameters(layers),
    rules: [...rules, ...inOrder(released, recipe), ...inOrder(kept, highPrecision[plain])],
  }
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`

/** The text of policy.yaml. */
export function policyText({ kept, share, parameter_share, rules }: Policy, found: Sensitivity): string {
  const { run, recipe, step, by, layers } = found
  const placeText = (where: unknown) => JSON.stringify(where).replace(/"(\w+)":/g, '$1: ')
  const lines = rules.map(({ where, use }) => `  - { where: ${placeText(where)}, use: ${use} }`)
  return `# The ${kept.length} of ${layers.length} linear layers that recipe ${recipe} costs most at step ${step} of ${run}, by ${by}:
# ${percent(share)} of the layers, ${percent(parameter_share)} of their parameters, stay in high precision.
# Use: halfbyte train <config> --policy <this file>, or rules=<this file> with any command that takes a config.
rules:
${lines.join('\n')}
`
}
