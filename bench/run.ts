import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { packageRoot } from '../src/backends/open.ts'
import { type Column, renderTable } from '../src/cli/table.ts'
import { usableProcessors } from '../src/tensor/processors.ts'
import { measureData } from './data.ts'
import { digests } from './digests.ts'
import { growth } from './growth.ts'
import { commitOf, type KernelTiming, timeKernels } from './kernels.ts'
import { type PeerSuite, peers } from './peers.ts'

const usage = `usage: npm run bench -- <suite> [options]

  cpu               every kernel at its bench sizes on the cpu backend
  peers             training steps in halfbyte and in PyTorch, alternating
  linear            one linear layer in halfbyte and in PyTorch, alternating
  growth            training steps of growing width and context
  data              training a tokenizer, encoding text, drawing batches from shards
  digests           what the kernels and three steps of training compute here, to compare with another machine

  --json            one line of JSON for each figure
  --threads LIST    numbers of threads, such as 1,2; default: 1 and all (peers and linear: the largest)
  --seconds S       time for one kernel (default 0.5), for a contestant in a round (3), for a size (5)
cpu:
  --only PART       only kernels with PART in their name
cpu, digests:
  --level LEVEL     instruction level: avx512, avx2 or portable
peers, linear:
  --python PATH     Python with bench/peers/requirements.txt; default: bench/peers/.venv/bin/python
  --models LIST     such as dense-256,dense-512,hybrid-256 or linear-512,linear-1024; default: all of the suite
  --rounds N        default 5
growth, digests:
  --most N          leave out sizes above N (default 8192; digests: dimensions that multiply to more, default all)
data:
  --vocabulary N    tokens of the tokenizer (default 50257)
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
    right('by CPU time'),
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
      timing.ofPeak?.toFixed(2) ?? '',
      timing.ofPeakByCpu?.toFixed(2) ?? '',
      timing.gigabytesPerSecond?.toFixed(2) ?? '',
      single ? (single.milliseconds / timing.milliseconds).toFixed(2) : '',
      timing.commit,
      `${timing.device} ${timing.level}`,
    ]
  })
  return renderTable(columns, rows)
}

const options = {
  only: { type: 'string', default: '' },
  level: { type: 'string' },
  threads: { type: 'string', default: [...new Set([1, usableProcessors()])].join(',') },
  seconds: { type: 'string' },
  python: { type: 'string' },
  models: { type: 'string' },
  rounds: { type: 'string', default: '5' },
  most: { type: 'string' },
  vocabulary: { type: 'string', default: '50257' },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const
type Values = ReturnType<typeof parseArgs<{ options: typeof options }>>['values']

/** Runs a suite; text goes to `print`, what is returned becomes lines of JSON. */
type Suite = (values: Values, print: (text: string) => void) => Promise<readonly object[]>

const secondsOf = ({ seconds }: Values, otherwise: number): number =>
  seconds === undefined ? otherwise : positive('seconds', seconds)

const threadsOf = ({ threads }: Values): number[] => threads.split(',').map(text => positive('threads', text))

/** Measured on which commit and device: the header of a table. */
const place = (): { commit: string; device: string } => ({
  commit: commitOf(packageRoot()),
  device: `${cpus()[0]?.model ?? 'unknown'} x ${cpus().length}`,
})

const located = async <T extends object>(results: Promise<readonly T[]>): Promise<readonly object[]> => {
  const where = place()
  return (await results).map(result => ({ ...result, ...where }))
}

const peerSuite =
  (suite: PeerSuite): Suite =>
  (values, print) => {
    const { commit, device } = place()
    print(`commit ${commit}, ${device}`)
    return located(
      peers(
        suite,
        {
          python: values.python,
          models: values.models?.split(','),
          threads: Math.max(...threadsOf(values)),
          rounds: positive('rounds', values.rounds),
          seconds: secondsOf(values, 3),
        },
        print,
      ),
    )
  }

const suites: Readonly<Record<string, Suite>> = {
  async cpu(values, print) {
    const timings = await timeKernels(
      {
        only: values.only,
        level: values.level,
        threads: threadsOf(values),
        seconds: secondsOf(values, 0.5),
      },
      line => process.stderr.write(`${line}\n`),
    )
    print(kernelTable(timings))
    return timings
  },
  peers: peerSuite('peers'),
  linear: peerSuite('linear'),
  growth(values, print) {
    const { commit, device } = place()
    print(`commit ${commit}, ${device}`)
    return located(growth({ seconds: secondsOf(values, 5), most: positive('most', values.most ?? '8192') }, print))
  },
  data(values, print) {
    const { commit, device } = place()
    print(`commit ${commit}, ${device}`)
    const threads = Math.max(...threadsOf(values))
    return located(measureData({ threads, vocabulary: positive('vocabulary', values.vocabulary) }, print))
  },
  digests(values, print) {
    const { commit, device } = place()
    print(`commit ${commit}, ${device}`)
    const most = values.most === undefined ? Number.POSITIVE_INFINITY : positive('most', values.most)
    const options = { level: values.level, threads: Math.max(...threadsOf(values)), most }
    return located(digests(options, ({ what, cases, digest }) => print(`${digest}  ${what} (${cases})`)))
  },
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({ allowPositionals: true, options })
  if (values.help) {
    process.stdout.write(usage)
    return
  }
  const [name = 'none', ...others] = positionals
  const suite = suites[name]
  if (!suite || others.length > 0)
    throw new UsageError(
      `the suite must be one of ${Object.keys(suites).join(', ')}, got ${positionals.join(' ') || name}`,
    )
  const results = await suite(values, text => values.json || process.stdout.write(`${text}\n`))
  if (values.json) for (const result of results) process.stdout.write(`${JSON.stringify({ suite: name, ...result })}\n`)
}

try {
  await main()
} catch (error) {
  const wrong = error instanceof UsageError || (error as NodeJS.ErrnoException).code?.startsWith('ERR_PARSE_ARGS')
  process.stderr.write(`${(error as Error).message}\n${wrong ? usage : ''}`)
  process.exitCode = wrong ? 2 : 1
}
