/** Commands as text that a shell takes, and their words again. */

const shellWord = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`

export const commandLine = (words: readonly (string | number)[]): string =>
  words.map(word => shellWord(String(word))).join(' ')

/** The words of what `commandLine` made. */
export const commandWords = (line: string): string[] =>
  [...line.matchAll(/(?:'[^']*'|\\.|[^\s'\\])+/g)].map(([word]) =>
    word.replace(/'([^']*)'|\\(.)/g, (_, quoted?: string, escaped?: string) => quoted ?? escaped!),
  )
