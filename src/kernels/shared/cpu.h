// What a CPU kernel needs beside its mathematics: a thread pool whose use cannot change results, per-thread scratch memory,
// and the export of a C symbol with the contract's argument struct.
#pragma once
#include <cmath>
#include <functional>
#include "contracts.h"

// Runs body(task) for task = 0 .. tasks-1 on the pool; returns when all are done. Which thread takes which task is not fixed, so a task
// must depend on its number alone: partial sums are per task and are added in task order, never per thread.
void parallel_for(int64_t tasks, const std::function<void(int64_t task)>& body);

// Number of threads that parallel_for uses; for choosing block sizes only, never for anything that reaches a result.
int thread_count();

// At least `bytes` bytes of 64-byte aligned memory, one region per thread and slot (0..7), kept between calls.
void* scratch(int slot, int64_t bytes);

// Rows are cut in tasks of `grain`: body(begin, end).
template <class Body> void parallel_rows(int64_t rows, int64_t grain, const Body& body) {
  parallel_for((rows + grain - 1) / grain, [&](int64_t task) {
    const int64_t begin = task * grain;
    body(begin, begin + grain < rows ? begin + grain : rows);
  });
}

// A kernel with `act` arguments is a function template over their type; this gives it its two C symbols.
#define EXPORT_ACT(name)                                                                                     \
  extern "C" void name##_f32(const void* a) { name(*static_cast<const name##_args<float>*>(a)); }            \
  extern "C" void name##_bf16(const void* a) { name(*static_cast<const name##_args<bf16>*>(a)); }

// A kernel without `act` arguments: `static void run_<name>(const <name>_args&)`.
#define EXPORT(name) \
  extern "C" void name(const void* a) { run_##name(*static_cast<const name##_args*>(a)); }
