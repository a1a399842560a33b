import type { ModelConfig } from '../model/config.ts'
import { linearShapes, parameterSpecs } from '../model/parameters.ts'
import type { Recipe, Rule } from '../recipes/recipe.ts'
import { findRecipe, linearOf, recipes } from '../recipes/recipes.ts'
import { matcher } from '../recipes/resolve.ts'
import { nearest, unknownName } from './keys.ts'
import type { RunConfig } from './schema.ts'

/**
 * A config's rules for some linear layers, on top of its recipe and in the recipe's own words: `where` is as in a recipe, `use` names a
 * recipe, whose way of doing a linear layer is meant. They hold from the first step to the last.
 */

/**
 * What a run of this config computes in: its recipe and its rules.
 * @param name another recipe under the same rules.
 */
export function recipeOf({ recipe, rules }: Pick<RunConfig, 'recipe' | 'rules'>, name: string = recipe): Recipe {
  const named = findRecipe(name)
  if (rules.length === 0) return named
  const own = rules.map(({ where, use }): Rule => ({ where: where as Rule['where'], use: linearOf(findRecipe(use)) }))
  return { ...named, name: `${name} with rules`, rules: [...named.rules, ...own] }
}

/** Names of a model's linear layers, as rules see them. */
const layersOf = (model: ModelConfig) => linearShapes(parameterSpecs(model))

function wrongPlace(where: RunConfig['rules'][number]['where'], model: ModelConfig): string | undefined {
  if (where === 'all') return undefined
  const blocks = model.pattern.length
  const layers = layersOf(model)
  if (layers.some(matcher(where as Rule['where'], { blocks }))) return undefined
  if ('blocks' in where)
    return `where.blocks: found [${where.blocks.join(', ')}], but no linear layer is there: the model has ${blocks} blocks`
  const meant = nearest(
    where.name,
    layers.map(({ name }) => name),
  )
  const first = layers[0]?.name
  const hint = meant ? `; did you mean "${meant}"?` : first ? `; its first is ${first}` : ''
  return `where.name: the model has no linear layer "${where.name}"${hint}`
}

/** The first rule that names a recipe or a layer that there is not, as one sentence, or undefined. */
export function checkRules({ rules, model }: RunConfig): string | undefined {
  for (const [i, { where, use }] of rules.entries()) {
    if (!Object.hasOwn(recipes, use)) return `rules.${i}.use: ${unknownName('recipe', use, Object.keys(recipes))}`
    const wrong = wrongPlace(where, model)
    if (wrong) return `rules.${i}.${wrong}`
  }
  return undefined
}
