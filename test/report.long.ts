import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { pathToFileURL } from 'node:url'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import { presets } from '../presets/index.ts'
import { packageRoot } from '../src/backends/open.ts'
import { readAssets } from '../src/report/assets.ts'
import { renderReport } from '../src/report/page.ts'
import { readReport } from '../src/report/read.ts'
import { type Made, makeComparison } from './made_runs.ts'
import { testFolder } from './training.ts'

/** The report as a browser shows it: drawn, silent, without network, on a phone, in the dark, by keyboard and on paper. */

interface Chromium {
  findChromium(): string | undefined
  launchChromium(path: string): Promise<Browser>
}

const { findChromium, launchChromium }: Chromium = await import(
  pathToFileURL(join(packageRoot(), 'scripts', 'chromium.mjs')).href
)
const path = findChromium()
if (!path) console.log('SKIPPED: no Chromium on this machine, so nobody has looked at the report in a browser')

const folder = testFolder()
const falling = (offset: number) => (step: number) => 2 + offset + 3 * Math.exp(-step / 40) + 0.02 * Math.sin(step)
const runs = [1, 2].flatMap((seed): Made[] => [
  { recipe: 'bf16', seed, loss: falling(0.001 * seed), steps: 200, numericsEvery: 20 },
  { recipe: 'nvfp4', seed, loss: falling(0.02), steps: 200, numericsEvery: 20, spikes: [120] },
  { recipe: 'nvfp4-activations-only-other-axis', seed, loss: falling(0.06), steps: 200, numericsEvery: 20 },
])
const lost: Made = { recipe: 'mxfp4', loss: falling(0.1), steps: 200, until: 90, diverges: true, numericsEvery: 20 }
const file = join(folder, 'report.html')

describe('the report in a browser', { skip: path ? false : 'no Chromium' }, () => {
  let browser: Browser
  const noise: string[] = []

  before(async () => {
    const directory = makeComparison(folder, 'seen', [...runs, lost])
    writeFileSync(file, renderReport(readReport(directory), presets, readAssets(packageRoot())))
    browser = await launchChromium(path!)
  })
  after(() => browser?.close())

  /** A tab with the page, in which everything that it says or asks for is written down. */
  async function open(options: BrowserContextOptions = {}): Promise<Page> {
    const context = await browser.newContext({ viewport: { width: 1100, height: 900 }, offline: true, ...options })
    const page = await context.newPage()
    page.on('console', message => noise.push(`console: ${message.text()}`))
    page.on('pageerror', error => noise.push(`error: ${error.message}`))
    page.on('request', request => {
      if (!/^(file|data):/.test(request.url())) noise.push(`request: ${request.url()}`)
    })
    await page.goto(pathToFileURL(file).href)
    return page
  }

  /** What a page has that node has not. */
  interface Window {
    getComputedStyle(node: unknown): { getPropertyValue(name: string): string }
  }
  const colourOf = (page: Page, selector: string, property: string): Promise<string> =>
    page
      .locator(selector)
      .first()
      .evaluate(
        (node, name) => (globalThis as unknown as Window).getComputedStyle(node).getPropertyValue(name),
        property,
      )

  /** What the heat map of a measure shows. */
  const cellsOf = (page: Page, measure: number) =>
    page
      .locator(`.map[data-measure="${measure}"] svg.wide .cells path`)
      .evaluateAll(nodes => nodes.map(node => `${node.getAttribute('class')} ${node.getAttribute('d')}`).join('\n'))

  it('draws as many curves as there are, with room and labelled axes', async () => {
    const page = await open()
    const lengths = await page
      .locator('#part-1-loss [data-view="0"] svg.wide [aria-label="line"] path')
      .evaluateAll(nodes => nodes.map(node => (node as unknown as { getTotalLength(): number }).getTotalLength()))
    assert.equal(lengths.length, 3 * 2 + 4, 'two seeds of three recipes, and a mean of each recipe')
    assert.ok(
      lengths.every(length => length > 150),
      lengths.join(),
    )
    const boxes = await page
      .locator('svg:visible')
      .evaluateAll(nodes => nodes.map(node => node.getBoundingClientRect()))
    assert.ok(boxes.length >= 4 + 5 && boxes.every(({ width, height }) => width > 300 && height > 80))
    for (const text of ['loss (nats per token)', 'relative difference of the loss (%)', 'tokens per second'])
      assert.ok(await page.locator('svg:visible text', { hasText: text }).first().isVisible(), text)
    const ticks = await page
      .locator('#part-1-loss [data-view="0"] svg.wide [aria-label="x-axis tick label"] text')
      .allTextContents()
    assert.ok(ticks.length >= 4 && ticks.every(tick => /^[\d,]+$/.test(tick)), ticks.join())
    assert.ok(await page.locator('svg.wide .marker.diverged:visible').first().isVisible())
    await page.context().close()
  })

  it('fits a phone and every width up from it', async () => {
    for (const width of [360, 500, 501, 820, 821, 920, 921, 1100]) {
      const page = await open({ viewport: { width, height: 740 } })
      const wide = await page.evaluate<number>('document.documentElement.scrollWidth')
      assert.equal(wide, width, `a window of ${width} pixels scrolls sideways over ${wide}`)
      const heights = await page
        .locator('svg:visible text')
        .evaluateAll(nodes => nodes.map(node => node.getBoundingClientRect().height).filter(height => height > 0))
      const [small, large] = [Math.min(...heights), Math.max(...heights)]
      assert.ok(small > 10 && large < 22, `lines of text of ${small} to ${large} pixels in a window of ${width}`)
      await page.context().close()
    }
  })

  it('reads values under the pointer and by arrow keys, without moving the page', async () => {
    const page = await open()
    const height = () => page.evaluate<number>('document.documentElement.scrollHeight')
    const before = await height()
    const canvas = page.locator('#part-1-difference .canvas')
    await canvas.scrollIntoViewIfNeeded()
    const box = (await canvas.boundingBox())!
    await page.mouse.move(box.x + box.width * 0.6, box.y + box.height / 2)
    const readout = canvas.locator('.readout')
    assert.match((await readout.textContent())!, /^step \d+.*nvfp4[−+]\d\.\d\d % \([−+]/)
    await page.mouse.move(5, 5)
    assert.equal(await readout.isVisible(), false)
    const loss = page.locator('#part-1-loss .canvas')
    await loss.focus()
    await page.keyboard.press('End')
    assert.match((await page.locator('#part-1-loss [role=status]').textContent())!, /^step 200: bf16 \d\.\d{4}, nvfp4 /)
    await page.keyboard.press('ArrowLeft')
    assert.match((await page.locator('#part-1-loss [role=status]').textContent())!, /^step 199: /)
    await page.keyboard.press('Escape')
    assert.equal(await loss.locator('.readout').isVisible(), false)
    assert.equal(await height(), before)
    await page.context().close()
  })

  it('hides curves, and shows the last half', async () => {
    const page = await open()
    const button = page.locator('#part-1-loss .legend button', { hasText: /^nvfp4$/ })
    await button.click()
    assert.equal(await button.getAttribute('aria-pressed'), 'false')
    assert.equal(await page.locator('#part-1-loss [data-view="0"] svg.wide .series-1:visible').count(), 0)
    await page.locator('#part-1-loss .choice').getByText('last half').click()
    assert.ok(await page.locator('#part-1-loss [data-view="1"] svg.wide').isVisible())
    assert.equal(await page.locator('#part-1-loss [data-view="0"] svg.wide').isVisible(), false)
    await page.locator('#part-1-loss .canvas').focus()
    await page.keyboard.press('Home')
    assert.match((await page.locator('#part-1-loss [role=status]').textContent())!, /^step 100: /)
    await page.context().close()
  })

  it('changes the heat maps with the choice of recipe, seed and operand', async () => {
    const page = await open()
    const first = await cellsOf(page, 0)
    assert.ok(first.length > 500)
    await page.locator('select[data-choice=operand]').selectOption({ index: 0 })
    const other = await cellsOf(page, 0)
    assert.notEqual(other, first)
    await page.locator('select[data-choice=recipe]').selectOption('mxfp4')
    assert.equal(await page.locator('select[data-choice=seed]').inputValue(), '1')
    assert.ok((await cellsOf(page, 0)).length < other.length, 'it diverged, so its later cells are empty')
    await page.locator('select[data-choice=recipe]').selectOption('bf16')
    assert.equal(await cellsOf(page, 0), '')
    assert.match((await page.locator('.map[data-measure="0"] .absent').textContent())!, /bf16 does not quantise/)
    assert.ok((await cellsOf(page, 4)).length > 500, 'weight gradients are there all the same')
    await page.locator('select[data-choice=recipe]').selectOption('nvfp4')
    await page.locator('.map[data-measure="0"] .canvas').focus()
    await page.keyboard.press('ArrowRight')
    await page.keyboard.press('ArrowDown')
    assert.match(
      (await page.locator('.map[data-measure="0"] .readout').textContent())!,
      /^19\.0\sdBlayers\.1\.mixer\.up_projstep 1$/,
    )
    await page.context().close()
  })

  it('is dark where the system is, and where it is asked to be', async () => {
    const dark = await open({ colorScheme: 'dark' })
    const light = await open({ colorScheme: 'light' })
    const [night, day] = [
      await colourOf(dark, 'body', 'background-color'),
      await colourOf(light, 'body', 'background-color'),
    ]
    assert.notEqual(night, day)
    assert.notEqual(
      await colourOf(dark, '.series-1[stroke]', 'stroke'),
      await colourOf(light, '.series-1[stroke]', 'stroke'),
    )
    await light.locator('#theme').click()
    assert.equal(await colourOf(light, 'body', 'background-color'), night)
    await light.reload()
    assert.equal(await colourOf(light, 'body', 'background-color'), night, 'the choice is forgotten')
    await light.emulateMedia({ media: 'print' })
    assert.equal(await colourOf(light, 'body', 'background-color'), 'rgb(255, 255, 255)')
    assert.equal(await light.locator('nav').isVisible(), false)
    for (const page of [dark, light]) await page.context().close()
  })

  it('shows curves and tables without its script', async () => {
    const page = await open({ javaScriptEnabled: false })
    assert.ok(await page.locator('#part-1-loss svg.wide').first().isVisible())
    assert.ok(await page.locator('#part-1 tbody tr').first().isVisible())
    await page.context().close()
  })

  it('said nothing on the console and asked nothing of a network', () => assert.deepEqual(noise, []))

  it('has its picture taken by scripts/screenshot.mjs', () => {
    const picture = join(folder, 'report.png')
    const script = join(packageRoot(), 'scripts', 'screenshot.mjs')
    const { status, stdout, stderr } = spawnSync(process.execPath, [script, file, picture, '--height', '900'], {
      encoding: 'utf8',
    })
    assert.equal(status, 0, stderr)
    assert.match(stdout, /wrote .*report\.png \(\d+ kB\)/)
    assert.equal(stderr, '')
    assert.ok(existsSync(picture) && statSync(picture).size > 20_000)
  })
})
