// gradient_statistics.ts. Segments are cut in pieces; each piece is one task, and a segment's pieces are added in order.
#include "cpu.h"

namespace {

struct Piece {
  int64_t segment, begin, end;
  double squares;
  float largest;
  int64_t infinite, nonzero;
};

constexpr int64_t piece_groups = 4096;

int64_t pieces_of(int64_t groups) { return (groups + piece_groups - 1) / piece_groups; }

void measure(const float* g, Piece& piece) {
  // Four rounds of 16 elements a step, in FP64 lanes that do not wait for one another.
  double squares[16] = {};
  float largest[16] = {};
  int32_t infinite[16] = {}, nonzero[16] = {};
  for (int64_t i = piece.begin; i < piece.end; i += 16)
    for (int l = 0; l < 16; l++) {
      const float x = g[i + l];
      const bool finite = (bits_of(x) & 0x7f800000u) != 0x7f800000u;
      const float value = finite ? x : 0.0f;
      const float magnitude = float_of(bits_of(value) & 0x7fffffffu);
      squares[l] += (double)value * value;
      largest[l] = magnitude > largest[l] ? magnitude : largest[l];
      infinite[l] += finite ? 0 : 1;
      nonzero[l] += x != 0.0f ? 1 : 0;
    }
  piece.squares = 0, piece.largest = 0, piece.infinite = 0, piece.nonzero = 0;
  for (int l = 0; l < 16; l++) {
    piece.squares += squares[l];
    piece.largest = largest[l] > piece.largest ? largest[l] : piece.largest;
    piece.infinite += infinite[l];
    piece.nonzero += nonzero[l];
  }
}

}  // namespace

static void run_gradient_statistics(const gradient_statistics_args& a) {
  int64_t count = 0;
  for (int64_t s = 0, from = 0; s < a.segments; from = a.ends[s++]) count += pieces_of(a.ends[s] - from);
  Piece* pieces = static_cast<Piece*>(scratch(0, count * (int64_t)sizeof(Piece) + 1));
  int64_t at = 0;
  for (int64_t s = 0, from = 0; s < a.segments; from = a.ends[s++])
    for (int64_t begin = from; begin < a.ends[s]; begin += piece_groups) {
      const int64_t end = begin + piece_groups < a.ends[s] ? begin + piece_groups : a.ends[s];
      pieces[at++] = {s, begin * 16, end * 16, 0, 0, 0, 0};
    }
  parallel_for(count, [&](int64_t task) { measure(a.g, pieces[task]); });
  at = 0;
  for (int64_t s = 0; s < a.segments; s++) {
    double squares = 0;
    float largest = 0;
    int64_t infinite = 0, nonzero = 0;
    for (; at < count && pieces[at].segment == s; at++) {
      squares += pieces[at].squares;
      largest = pieces[at].largest > largest ? pieces[at].largest : largest;
      infinite += pieces[at].infinite;
      nonzero += pieces[at].nonzero;
    }
    float* out = a.statistics + 4 * s;
    out[0] = (float)squares, out[1] = largest, out[2] = (float)infinite, out[3] = (float)nonzero;
  }
}
EXPORT(gradient_statistics)
