// Theme, copying, and the start. Without any script the page still shows every curve and table.
import { addChart } from './charts.js'
import { addMaps } from './heat_maps.js'
import { all } from './reading.js'

function addTheme() {
  const button = document.getElementById('theme')
  const root = document.documentElement
  const system = matchMedia('(prefers-color-scheme: dark)')
  const key = 'halfbyte-report-theme'
  const stored = () => {
    try {
      return localStorage.getItem(key)
    } catch {
      return null
    }
  }
  const isDark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : system.matches)
  const label = () => {
    button.textContent = isDark() ? 'light' : 'dark'
    button.setAttribute('aria-label', `switch to ${button.textContent} colours`)
  }
  if (['light', 'dark'].includes(stored())) root.dataset.theme = stored()
  button.addEventListener('click', () => {
    root.dataset.theme = isDark() ? 'light' : 'dark'
    try {
      localStorage.setItem(key, root.dataset.theme)
    } catch {}
    label()
  })
  system.addEventListener('change', label)
  label()
  button.hidden = false
}

function addCopying() {
  for (const button of all('.copy')) {
    if (!navigator.clipboard) continue
    button.hidden = false
    button.addEventListener('click', async () => {
      try {
        await navigator.clipboard.writeText(button.previousElementSibling.textContent)
        button.textContent = 'copied'
      } catch {
        button.textContent = 'not allowed'
      }
      setTimeout(() => {
        button.textContent = 'copy'
      }, 1500)
    })
  }
}

addTheme()
for (const figure of all('.chart')) addChart(figure)
const section = document.querySelector('.numerics')
if (section) addMaps(section)
addCopying()
