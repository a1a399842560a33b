import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { cpuFeatures, levels } from '../src/backends/levels.ts'
import { findCompiler } from '../src/backends/native.ts'
import { packageRoot } from '../src/backends/open.ts'

/** Prints the largest relative error of each function over its range, and its values at the special points. */
const program = `
#include <cmath>
#include <cstdio>
#include "elementary.h"
template <class Fast, class Exact> void measure(const char* name, double low, double high, Fast fast, Exact exact) {
  const int count = 1 << 20;
  static float x[count], y[count];
  for (int i = 0; i < count; i++) x[i] = (float)(low + (high - low) * i / (count - 1));
  for (int i = 0; i < count; i++) y[i] = fast(x[i]);
  double worst = 0;
  for (int i = 0; i < count; i++) {
    const double want = exact((double)x[i]), error = std::abs((y[i] - want) / want);
    if (want != 0 && !(error <= worst)) worst = error;
  }
  std::printf("%s %g\\n", name, worst);
}
#define MEASURE(name, low, high, exact) measure(#name, low, high, [](float x) { return fast_##name(x); }, [](double x) { return exact; })
int main() {
  MEASURE(exp, -86.8, 88.7, std::exp(x));
  MEASURE(exp, -1, 1, std::exp(x));
  MEASURE(log, 1e-30, 1e-3, std::log(x));
  MEASURE(log, 0.5, 2, std::log(x));
  MEASURE(log, 2, 1e30, std::log(x));
  MEASURE(log1p, 1e-12, 1e-3, std::log1p(x));
  MEASURE(log1p, 0, 10, std::log1p(x));
  MEASURE(sigmoid, -80, 80, 1 / (1 + std::exp(-x)));
  MEASURE(silu, -80, 80, x / (1 + std::exp(-x)));
  MEASURE(softplus, -80, 80, x > 30 ? x : std::log1p(std::exp(x)));
  const float inf = INFINITY, nan = NAN;
  std::printf("special %g %g %g %g %g %g %g %g %g\\n", fast_exp(inf), fast_exp(-inf), fast_exp(nan), fast_exp(0.0f), fast_log(inf),
              fast_log(0.0f), fast_log(-1.0f), fast_log(nan), fast_softplus(nan));
}
`

describe('elementary functions', () => {
  const features = cpuFeatures()
  const compiler = findCompiler()
  for (const level of levels)
    it(level.name, t => {
      if (!level.needs.every(feature => features.has(feature))) return t.skip(`this processor is below ${level.name}`)
      if (!compiler) return t.skip('there is no C++ compiler')
      const directory = mkdtempSync(join(tmpdir(), 'halfbyte-elementary-'))
      try {
        writeFileSync(join(directory, 'measure.cpp'), program)
        const executable = join(directory, 'measure')
        const include = join(packageRoot(), 'src', 'kernels', 'shared')
        const flags = [
          '-std=c++20',
          '-O3',
          '-ffp-contract=off',
          '-fno-math-errno',
          '-fno-trapping-math',
          ...level.flags,
        ]
        const compiled = spawnSync(
          compiler.command,
          [...compiler.options, ...flags, '-I', include, join(directory, 'measure.cpp'), '-o', executable],
          { encoding: 'utf8' },
        )
        assert.equal(compiled.status, 0, compiled.stderr)
        const lines = spawnSync(executable, { encoding: 'utf8' }).stdout.trim().split('\n')
        assert.equal(lines.pop(), 'special inf 0 nan 1 inf -inf nan nan nan')
        assert.equal(lines.length, 10)
        for (const line of lines) {
          const [name, error] = line.split(' ') as [string, string]
          assert.ok(Number(error) < (name === 'exp' ? 1e-7 : 2e-7), `${name} has a relative error of ${error}`)
        }
      } finally {
        rmSync(directory, { recursive: true })
      }
    })
})
