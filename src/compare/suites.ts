/**
 * The paper's ablations (arXiv 2509.25149) as rows: which recipes each figure compares, from which step on, and the order that the paper finds.
 * Orders are those of docs/numerics.md, "Training hyper-parameters and ablations"; where the paper's plot leaves recipes close
 * together they share a group, and neighbouring groups alone are compared.
 */

/** A recipe of a suite: trained from the start, or from a checkpoint of another. */
export interface SuiteArm {
  readonly recipe: string
  /** Trained under `recipe` up to this share of the steps. */
  readonly branch?: { readonly recipe: string; readonly at: number }
}

export interface Suite {
  readonly name: string
  /** The question, in one line. */
  readonly title: string
  readonly baseline: string
  readonly arms: readonly SuiteArm[]
  /** Recipes from best to worst, in groups. */
  readonly order: readonly (readonly string[])[]
}

const whole = (...recipes: string[]): SuiteArm[] => recipes.map(recipe => ({ recipe }))
const branches = (at: number, ...recipes: string[]): SuiteArm[] =>
  recipes.map(recipe => ({ recipe, branch: { recipe: 'nvfp4', at } }))

/** The paper's 12B had seen 3.43 of its 10 trillion tokens where figures 4, 12 and 13 branch from it. */
const early = 0.343
/** Appendix D: 8.2 of 10 trillion, before the learning rate decays. */
const late = 0.82
/** "Close to the end" in appendix D, which gives no step; chosen here, within the decay. */
const last = 0.96

/** In the order of `--suite all`: what tells most about whether a model can be trained in 4 bits comes first. */
const rows: readonly Suite[] = [
  {
    name: 'fig6',
    title: 'NVFP4 against MXFP4',
    baseline: 'bf16',
    arms: whole('bf16', 'nvfp4', 'mxfp4'),
    order: [['bf16'], ['nvfp4'], ['mxfp4']],
  },
  {
    name: 'fig8',
    title: 'techniques added one by one to plain NVFP4',
    baseline: 'bf16',
    arms: whole('bf16', 'nvfp4', 'nvfp4-plain', 'nvfp4-plain-sr', 'nvfp4-plain-sr-rht', 'nvfp4-plain-sr-rht-2d'),
    order: [
      ['bf16'],
      ['nvfp4'],
      ['nvfp4-plain-sr-rht-2d'],
      ['nvfp4-plain-sr-rht'],
      ['nvfp4-plain-sr'],
      ['nvfp4-plain'],
    ],
  },
  {
    name: 'fig4',
    title: 'one component removed from a training that had it',
    baseline: 'fp8',
    arms: [
      ...whole('fp8', 'nvfp4'),
      ...branches(early, 'nvfp4-no-sr', 'nvfp4-no-rht', 'nvfp4-no-2d', 'nvfp4-last-4-blocks'),
    ],
    order: [['fp8'], ['nvfp4'], ['nvfp4-last-4-blocks', 'nvfp4-no-rht', 'nvfp4-no-2d'], ['nvfp4-no-sr']],
  },
  {
    name: 'fig10',
    title: 'which tensors are rounded stochastically',
    baseline: 'bf16',
    arms: whole(
      'bf16',
      'nvfp4',
      'nvfp4-sr-all-backward',
      'nvfp4-sr-on-activations',
      'nvfp4-sr-on-weights',
      'nvfp4-sr-dgrad-only',
      'nvfp4-sr-wgrad-only',
    ),
    order: [
      ['nvfp4', 'nvfp4-sr-all-backward'],
      ['nvfp4-sr-on-activations', 'nvfp4-sr-on-weights', 'nvfp4-sr-dgrad-only', 'nvfp4-sr-wgrad-only'],
    ],
  },
  {
    name: 'fig7',
    title: 'a late switch to BF16',
    baseline: 'fp8',
    arms: [
      ...whole('fp8', 'nvfp4'),
      ...branches(late, 'nvfp4-late-all', 'nvfp4-late-fprop', 'nvfp4-late-backward'),
      ...branches(last, 'nvfp4-last-all'),
    ],
    order: [['nvfp4-late-all', 'nvfp4-late-fprop'], ['nvfp4-last-all'], ['nvfp4-late-backward', 'nvfp4']],
  },
  {
    name: 'fig9',
    title: 'which blocks stay in BF16',
    baseline: 'bf16',
    arms: whole('bf16', 'nvfp4-last-fifth', 'nvfp4-both-tenths', 'nvfp4-first-fifth'),
    order: [['nvfp4-last-fifth'], ['nvfp4-both-tenths'], ['nvfp4-first-fifth']],
  },
  {
    name: 'fig11',
    title: 'which product is rotated',
    baseline: 'bf16',
    arms: whole('bf16', 'nvfp4', 'nvfp4-no-rht', 'nvfp4-rht-on-fprop', 'nvfp4-rht-on-dgrad'),
    order: [['nvfp4'], ['nvfp4-no-rht'], ['nvfp4-rht-on-fprop', 'nvfp4-rht-on-dgrad']],
  },
  {
    name: 'fig14',
    title: 'the same quantised tensor in the forward and the backward pass, or not',
    baseline: 'bf16',
    arms: whole(
      'bf16',
      'nvfp4-weights-only-same-axis',
      'nvfp4-weights-only-square',
      'nvfp4-weights-only-other-axis',
      'nvfp4-activations-only-same-axis',
      'nvfp4-activations-only-square',
      'nvfp4-activations-only-other-axis',
    ),
    order: [['nvfp4-weights-only-same-axis'], ['nvfp4-weights-only-square'], ['nvfp4-weights-only-other-axis']],
  },
  {
    name: 'fig12',
    title: 'the size of the rotation',
    baseline: 'fp8',
    arms: [...whole('fp8', 'nvfp4'), ...branches(early, 'nvfp4-rht-4', 'nvfp4-rht-128')],
    order: [['nvfp4-rht-128', 'nvfp4'], ['nvfp4-rht-4']],
  },
  {
    name: 'fig13',
    title: 'signs of the rotation',
    baseline: 'fp8',
    arms: [...whole('fp8', 'nvfp4'), ...branches(early, 'nvfp4-signs-fresh', 'nvfp4-signs-none')],
    order: [['nvfp4', 'nvfp4-signs-fresh'], ['nvfp4-signs-none']],
  },
]

/** Every suite by name. */
export const suites: Readonly<Record<string, Suite>> = Object.fromEntries(rows.map(suite => [suite.name, suite]))
