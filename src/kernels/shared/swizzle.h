// Where Blackwell's tensor cores read the scale of row r and block c of a matrix with `blocks` blocks in a row: src/formats/swizzle.ts.
#pragma once
#include "number.h"

SHARED int64_t swizzle_offset(int64_t r, int64_t c, int64_t blocks) {
  return (r / 128 * ((blocks + 3) / 4) + c / 4) * 512 + r % 32 * 16 + r % 128 / 32 * 4 + c % 4;
}
