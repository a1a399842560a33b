import { join } from 'node:path'
import type { Command } from 'commander'
import { presets } from '../../presets/index.ts'
import { packageRoot } from '../backends/open.ts'
import { readAssets } from '../report/assets.ts'
import { renderReport } from '../report/page.ts'
import { readReport } from '../report/read.ts'
import { verdictOf } from '../report/verdict.ts'
import { replaceFile } from '../run/files.ts'
import { comparisonText, explanation } from './compare_table.ts'
import { formatBytes } from './dry_run.ts'

interface ReportOptions {
  out?: string
  json?: boolean
}

function report(directory: string, { out, json }: ReportOptions): void {
  const input = readReport(directory)
  const file = out ?? join(directory, 'report.html')
  const page = renderReport(input, presets, readAssets(packageRoot()))
  replaceFile(file, page)
  const comparisons = input.comparisons.map(({ comparison }) => comparison)
  if (json) {
    const verdicts = comparisons.map(comparison => ({ verdict: verdictOf(comparison), ...comparison }))
    process.stdout.write(`${JSON.stringify({ report: file, comparisons: verdicts })}\n`)
    return
  }
  const texts = comparisons.map(comparison => {
    const { headline, sentences } = verdictOf(comparison)
    return `${comparisonText(comparison)}\n${[headline, ...sentences].join('\n')}\n`
  })
  process.stdout.write(
    `${texts.join('\n')}\n${explanation(comparisons[0]!)}\nwrote ${file} (${formatBytes(Buffer.byteLength(page))})\n`,
  )
}

export function register(program: Command): void {
  program
    .command('report')
    .description(
      'Write report.html, a page in one file that needs no network, and print its table. It shows losses, differences with their intervals, speed, what quantisation did to each layer, and the commands that do it again.',
    )
    .argument('<directory>', 'a comparison, a folder of comparisons such as ablate makes, or a run')
    .option('--out <file>', 'where to write the page; default: report.html in the directory')
    .option('--json', 'print the figures as JSON')
    .addHelpText(
      'after',
      `
The page can be sent to someone as it is. It is made of what the runs have recorded by now: a comparison that is still training
can be reported, and reported again later.

Examples:
  halfbyte report runs/formats                          of halfbyte compare --out runs/formats
  halfbyte report runs/tiny-ablations --out paper.html  all suites in one page
  halfbyte report runs/tiny-001                         a single run`,
    )
    .action(report)
}
