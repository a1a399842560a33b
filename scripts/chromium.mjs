// Where the Chromium is that reports are looked at with: the one in $CHROMIUM, or the system's.
import { existsSync } from 'node:fs'
import { chromium } from 'playwright-core'

const places = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']

/** Path of the browser, or undefined. */
export const findChromium = () => [process.env.CHROMIUM, ...places].find(path => path && existsSync(path))

/** A browser without a window. Its sandbox does not start for root, as whom containers run; it opens nothing but our own files. */
export const launchChromium = path => chromium.launch({ executablePath: path, args: ['--no-sandbox'] })
