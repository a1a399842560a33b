// What warpgroups of a block with different work share on Hopper: buffers in shared memory that some warps fill and others empty, registers, and turns.
#pragma once
#include "warpgroup_cuda.h"

#ifdef HALFBYTE_WGMMA

// A barrier in shared memory (mbarrier): its n-th phase ends with so many arrivals, and a wait for phase n ends then.
struct PhaseBarrier {
  static constexpr int bytes = 8;
  uint32_t address;

  __device__ void init(int arrivals) const { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(arrivals) : "memory"); }
  __device__ void arrive() const { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address) : "memory"); }
  __device__ bool is_over(uint32_t phase) const {
    uint32_t over;
    asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
                 : "=r"(over) : "r"(address), "r"(phase & 1) : "memory");
    return over;
  }
  __device__ void wait(uint32_t phase) const {
    uint32_t over;
    do {
      asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
                   : "=r"(over) : "r"(address), "r"(phase & 1) : "memory");
    } while (!over);
  }
};

// Matrices that pass through `Stages` buffers in order: the n-th lies in buffer n % Stages. `fillers` threads arrive when their copies are there,
// one lane of each of `emptiers` warps when it has read a buffer for the last time.
template <class Matrix, int Stages> struct Queue {
  static constexpr int bytes = Stages * Matrix::bytes, barrier_bytes = 2 * Stages * PhaseBarrier::bytes;
  uint32_t matrices, barriers;

  __device__ Queue(const unsigned char* memory, uint32_t barriers_at) : matrices(Matrix(memory).base), barriers(barriers_at) {}
  __device__ Matrix at(uint32_t n) const {
    Matrix matrix;
    matrix.base = matrices + n % Stages * Matrix::bytes;
    return matrix;
  }
  __device__ PhaseBarrier full(uint32_t n) const { return {barriers + n % Stages * 2 * PhaseBarrier::bytes}; }
  __device__ PhaseBarrier empty(uint32_t n) const { return {barriers + (n % Stages * 2 + 1) * PhaseBarrier::bytes}; }

  __device__ void init(int fillers, int emptiers) const {
    for (int s = 0; s < Stages; s++) full(s).init(fillers), empty(s).init(emptiers);
  }
  __device__ void wait_full(uint32_t n) const { full(n).wait(n / Stages); }
  __device__ void release(uint32_t n) const {
    if (lane_of() == 0) empty(n).arrive();
  }
};

// A thread's copies to matrices of queues: those of two matrices are under way at a time, and barriers hear of the first when the second's have begun, or
// when there is no room for a third.
struct Copies {
  PhaseBarrier told;
  bool pending = false;

  // Before the n-th matrix of a queue is copied: until its buffer is empty, as it is for the first.
  template <class Matrix, int Stages> __device__ void wait_empty(const Queue<Matrix, Stages>& queue, uint32_t n) {
    const PhaseBarrier empty = queue.empty(n);
    if (empty.is_over(n / Stages + 1)) return;
    finish();
    empty.wait(n / Stages + 1);
  }
  // After it.
  __device__ void commit(const PhaseBarrier& full) {
    asm volatile("cp.async.commit_group;" ::: "memory");
    if (pending) {
      asm volatile("cp.async.wait_group 1;\nfence.proxy.async.shared::cta;" ::: "memory");
      told.arrive();
    }
    told = full;
    pending = true;
  }
  // After the last.
  __device__ void finish() {
    if (!pending) return;
    finish_copies();
    told.arrive();
    pending = false;
  }
};

// A thread of this warpgroup may have that many registers from here on; all its warps say so.
template <int Registers> __device__ void lower_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers)); }
template <int Registers> __device__ void raise_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers)); }

// Turns of warpgroups: waits until two warpgroups, this one and one that gives it the turn, have come to barrier `id` (1 to 15).
__device__ inline void take_turn(int id) { asm volatile("bar.sync %0, 256;" ::"r"(id) : "memory"); }
__device__ inline void give_turn(int id) { asm volatile("bar.arrive %0, 256;" ::"r"(id) : "memory"); }

#endif
