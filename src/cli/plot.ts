import { basename, resolve } from 'node:path'
import type { Command } from 'commander'
import { UserError } from '../config/errors.ts'
import { replaceFile } from '../run/files.ts'
import { readMetrics, readRun } from '../run/read.ts'
import { isValidation } from '../run/records.ts'
import { type Curve, differences, type LossPoint, renderLossChart } from './chart.ts'

/** @throws UserError if the directory is no run, or has no training record yet. */
export function readCurve(directory: string): Curve {
  const { config } = readRun(directory)
  const training: LossPoint[] = []
  const validation: LossPoint[] = []
  for (const record of readMetrics(directory))
    if (isValidation(record)) validation.push({ step: record.step, loss: record.validation_loss })
    else training.push({ step: record.step, loss: record.loss })
  if (training.length === 0) throw new UserError(`${directory} has no training steps yet: there is nothing to plot`)
  return { label: `${basename(resolve(directory))} (${config.recipe})`, training, validation }
}

export function register(program: Command): void {
  program
    .command('plot')
    .description('Draw the loss curves of one run or several as an SVG picture.')
    .argument('<run...>', 'run directories')
    .option('--difference', 'instead: how far each run is from the first, in percent of its loss')
    .option('--out <file>', 'where to write the picture; - is stdout', 'loss.svg')
    .addHelpText(
      'after',
      `
Training loss is smoothed over 2 % of the curve, the unsmoothed one is faint behind it; points are validation losses.
A difference is negative where the loss is higher than that of the first run, step by step on the same text.

Examples:
  halfbyte plot runs/tiny-001
  halfbyte plot runs/tiny-001 runs/tiny-002 --out compared.svg
  halfbyte plot runs/bf16 runs/nvfp4 --difference --out gap.svg`,
    )
    .action((directories: string[], { out, difference = false }: { out: string; difference?: boolean }) => {
      if (difference && directories.length < 2)
        throw new UserError(`--difference is from the first of at least two runs, found ${directories.length}`, 2)
      const losses = directories.map(readCurve)
      const { curves, text } = difference ? differences(losses) : { curves: losses }
      for (const { label, training } of curves)
        if (training.length === 0) throw new UserError(`${label} has no step in common with ${losses[0]!.label}`)
      const picture = renderLossChart(curves, text)
      if (out === '-') {
        process.stdout.write(picture)
        return
      }
      replaceFile(out, picture)
      process.stdout.write(`wrote ${out}\n`)
    })
}
