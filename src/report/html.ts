/** Markup that can be put into other markup as it is. */
export class Markup {
  readonly text: string
  constructor(text: string) {
    this.text = text
  }
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}

const escapeText = (text: string): string => text.replace(/[&<>"']/g, character => entities[character]!)

export type Part = Markup | string | number | false | undefined | readonly Part[]

function render(part: Part): string {
  if (part === false || part === undefined) return ''
  if (part instanceof Markup) return part.text
  if (typeof part === 'object') return part.map(render).join('')
  return escapeText(String(part))
}

/** Markup from a template: every value that is not markup itself is escaped, lists are joined. */
export const html = (texts: TemplateStringsArray, ...parts: readonly Part[]): Markup =>
  new Markup(texts.map((text, i) => (i === 0 ? text : render(parts[i - 1]) + text)).join(''))

/** Figures with a true minus, and without a line break before the percent sign. */
export const typeset = (figures: string): string => figures.replace(/(^|\s)-(?=\d)/g, '$1−').replaceAll(' %', '\u00a0%')

/** A value for a script of type application/json: `<` is written so that no text can end the element. */
export const json = (value: unknown): Markup => new Markup(JSON.stringify(value).replaceAll('<', '\\u003c'))
