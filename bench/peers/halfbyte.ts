import { createInterface } from 'node:readline'
import { openBackend } from '../../src/backends/open.ts'
import { kernels } from '../../src/kernels/index.ts'
import { linearSteps, modelSteps, type PeerSpec } from './work.ts'

/** halfbyte's side of the step benchmark: the protocol of peer.py, with `recipe` in place of `mode`. */

async function main(): Promise<void> {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
  const { recipe, ...spec } = JSON.parse((await lines.next()).value) as PeerSpec & { recipe: string }
  const name = spec.kind === 'linear' ? 'cpu' : (spec.backend ?? 'cpu')
  const backend = await openBackend(name, kernels, { threads: spec.threads, report: line => console.error(line) })
  const work = spec.kind === 'linear' ? linearSteps(spec, recipe, backend) : await modelSteps(spec, recipe, backend)
  const first = work.steps(0, 1)
  let step = 1
  console.log(JSON.stringify({ ready: work.parameters, loss: first }))
  for (let line = await lines.next(); !line.done; line = await lines.next()) {
    const [start, before] = [performance.now(), process.cpuUsage()]
    const count = Number(line.value)
    const loss = work.steps(step, count)
    step += count
    const seconds = (performance.now() - start) / 1000
    const { user, system } = process.cpuUsage(before)
    console.log(
      JSON.stringify({
        seconds,
        cpu_seconds: (user + system) / 1e6,
        loss,
        peak_bytes: name === 'cpu' ? process.resourceUsage().maxRSS * 1024 : backend.usage.bytes,
      }),
    )
  }
}

await main()
