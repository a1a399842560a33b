import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { type Column, renderTable } from '../src/cli/table.ts'
import { type KernelTiming, timeKernels } from './kernels.ts'

const usage = `usage: npm run bench -- cpu [options]

  cpu               every kernel at its bench sizes on the cpu backend

  --only PART       only kernels with PART in their name
  --level LEVEL     instruction level: avx512, avx2 or portable
  --threads LIST    numbers of threads, such as 1,2; default: 1 and all
  --seconds S       time for one kernel, default 0.5
  --json            one line of JSON for each figure
`

class UsageError extends Error {}

function positive(name: string, text: string): number {
  const value = Number(text)
  if (!(value > 0)) throw new UsageError(`--${name} must be a number above 0, got "${text}"`)
  return value
}

function kernelTable(timings: readonly KernelTiming[]): string {
  const right = (title: string): Column => ({ title, align: 'right' })
  const columns: Column[] = [
    { title: 'kernel' },
    { title: 'size' },
    right('threads'),
    right('ms'),
    right('GFLOP/s'),
    right('of FMA peak'),
    right('GB/s'),
    right('scaling'),
    { title: 'commit' },
    { title: 'device' },
  ]
  const rows = timings.map((timing, i) => {
    const single = timings
      .slice(0, i)
      .findLast(other => other.kernel === timing.kernel && other.dims === timing.dims && other.threads === 1)
    return [
      timing.kernel,
      Object.values(timing.dims).join(' x '),
      `${timing.threads}`,
      timing.milliseconds.toFixed(3),
      timing.gflops?.toFixed(1) ?? '',
      timing.gflops ? (timing.gflops / timing.peakGflops).toFixed(2) : '',
      timing.gigabytesPerSecond?.toFixed(2) ?? '',
      single ? (single.milliseconds / timing.milliseconds).toFixed(2) : '',
      timing.commit,
      `${timing.device} ${timing.level}`,
    ]
  })
  return renderTable(columns, rows)
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      only: { type: 'string', default: '' },
      level: { type: 'string' },
      threads: { type: 'string', default: [...new Set([1, availableParallelism()])].join(',') },
      seconds: { type: 'string', default: '0.5' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(usage)
    return
  }
  if (positionals.length !== 1 || positionals[0] !== 'cpu')
    throw new UsageError(`the suite to run must be cpu, got ${positionals.join(' ') || 'none'}`)
  const options = {
    only: values.only,
    level: values.level,
    threads: values.threads.split(',').map(text => positive('threads', text)),
    seconds: positive('seconds', values.seconds),
  }
  const timings = await timeKernels(options, line => process.stderr.write(`${line}\n`))
  if (values.json)
    for (const timing of timings) process.stdout.write(`${JSON.stringify({ suite: 'cpu', ...timing })}\n`)
  else process.stdout.write(`${kernelTable(timings)}\n`)
}

try {
  await main()
} catch (error) {
  const wrong = error instanceof UsageError || (error as NodeJS.ErrnoException).code?.startsWith('ERR_PARSE_ARGS')
  process.stderr.write(`${(error as Error).message}\n${wrong ? usage : ''}`)
  process.exitCode = wrong ? 2 : 1
}
