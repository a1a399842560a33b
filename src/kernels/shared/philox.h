// Philox4x32-10 (Salmon et al. 2011), L::width counters at once. See src/formats/philox.ts.
#pragma once
#include "lanes.h"

template <class L> struct Random {
  typename L::Word word[4];
  // Byte j of word i belongs to element 4i+j of a 16-block.
  SHARED typename L::Word byte(int element) const { return (word[element >> 2] >> (8 * (element & 3))) & 0xffu; }
};

template <class L>
SHARED Random<L> philox(typename L::Word c0, typename L::Word c1, typename L::Word c2, typename L::Word c3, uint32_t k0,
                        uint32_t k1) {
#ifndef __CUDACC__
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; round++) {
    typename L::Word h0, l0, h1, l1;
    L::multiply(c0, 0xd2511f53u, h0, l0);
    L::multiply(c2, 0xcd9e8d57u, h1, l1);
    c0 = h1 ^ c1 ^ L::word(k0);
    c1 = l1;
    c2 = h0 ^ c3 ^ L::word(k1);
    c3 = l0;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return Random<L>{{c0, c1, c2, c3}};
}
