// Takes a picture of a report: node scripts/screenshot.mjs report.html docs/report.png [--width 1080] [--height 1400] [--dark] [--scale 1] [--full] [--print]
// The picture is of the top of the page, or with --full of all of it; --print writes a PDF as a printer would have it.
// Needs Chromium: the one in $CHROMIUM, or the system's.
import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { findChromium, launchChromium } from './chromium.mjs'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    width: { type: 'string', default: '1080' },
    height: { type: 'string', default: '1400' },
    scale: { type: 'string', default: '1' },
    dark: { type: 'boolean', default: false },
    full: { type: 'boolean', default: false },
    print: { type: 'boolean', default: false },
  },
})
const [page, picture] = positionals
if (!page || !picture) {
  console.error(
    'usage: node scripts/screenshot.mjs report.html picture.png [--width 1080] [--height 1400] [--dark] [--scale 1] [--full] [--print]',
  )
  process.exit(2)
}
const path = findChromium()
if (!path) {
  console.error('no Chromium found: install the package chromium, or name one in $CHROMIUM')
  process.exit(1)
}
const browser = await launchChromium(path)
try {
  const tab = await browser.newPage({
    viewport: { width: Number(values.width), height: Number(values.height) },
    deviceScaleFactor: Number(values.scale),
    colorScheme: values.dark ? 'dark' : 'light',
    offline: true,
  })
  tab.on('console', message => console.error(`console: ${message.text()}`))
  tab.on('pageerror', error => console.error(`error: ${error.message}`))
  await tab.goto(pathToFileURL(resolve(page)).href)
  if (values.print) await tab.pdf({ path: picture, preferCSSPageSize: true })
  else await tab.screenshot({ path: picture, fullPage: values.full })
} finally {
  await browser.close()
}
console.log(`wrote ${picture} (${Math.round(statSync(picture).size / 1000)} kB)`)
