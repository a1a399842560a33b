/** What each preset is for, in one line. */
export const purposes: Readonly<Record<string, string>> = {
  tiny: 'the first run: minutes on a laptop, ends with words that look like English',
  'tiny-dense': 'the same size as a plain transformer, to compare with',
  small: 'a day on a strong CPU or minutes on a GPU: whole sentences, recipes compared at small cost',
  'small-dense': 'the same size as a plain transformer',
  base: 'as large as GPT-2, for a GPU',
  'base-dense': 'the same size as a plain transformer',
  'nemotron-1.2b': "the transformer of the paper's ablations",
  'hybrid-1.2b': 'a hybrid of that size, in the proportions of the 8B',
  'nemotron-h-8b': "the paper's 8B hybrid (Nemotron-H)",
  'nemotron-nano-12b': "the paper's 12B hybrid (Nemotron Nano 2), trained on 10 trillion tokens there",
}
