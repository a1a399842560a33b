// What a CPU kernel needs beside its mathematics: a thread pool whose use cannot change results, per-thread scratch memory,
// and the export of a C symbol with the contract's argument struct.
#pragma once
#include <cmath>
#include "contracts.h"

// Calls run(body, task) for task = 0 .. tasks-1 on the pool; returns when all are done. Where a task finds no memory, it throws what that threw.
void run_on_pool(int64_t tasks, void (*run)(const void* body, int64_t task), const void* body);

// Runs body(task) for task = 0 .. tasks-1 so. Which thread takes which task is not fixed, so a task must depend on its number alone:
// partial sums are per task and are added in task order, never per thread.
template <class Body> void parallel_for(int64_t tasks, const Body& body) {
  run_on_pool(tasks, [](const void* of, int64_t task) { (*static_cast<const Body*>(of))(task); }, &body);
}

// Number of threads that parallel_for uses; for choosing block sizes only, never for anything that reaches a result.
int thread_count();

// Memory that could not be had.
struct OutOfMemory {
  int64_t bytes;
};

// At least `bytes` bytes of 64-byte aligned memory, one region per thread and slot (0..7), kept between calls. Throws OutOfMemory.
void* scratch(int slot, int64_t bytes);

// Rows are cut in tasks of `grain`: body(begin, end).
template <class Body> void parallel_rows(int64_t rows, int64_t grain, const Body& body) {
  parallel_for((rows + grain - 1) / grain, [&](int64_t task) {
    const int64_t begin = task * grain;
    body(begin, begin + grain < rows ? begin + grain : rows);
  });
}

// No exception may reach JavaScript: a kernel's C symbol returns the bytes that it wanted and could not have, 0 where it is done.
template <class Args> int64_t call_kernel(void (*kernel)(const Args&), const void* args) {
  try {
    kernel(*static_cast<const Args*>(args));
  } catch (const OutOfMemory& missing) {
    return missing.bytes;
  }
  return 0;
}

// A kernel with `act` arguments is a function template over their type; this gives it its two C symbols.
#define EXPORT_ACT(name)                                                                                  \
  extern "C" int64_t name##_f32(const void* a) { return call_kernel<name##_args<float>>(name, a); }       \
  extern "C" int64_t name##_bf16(const void* a) { return call_kernel<name##_args<bf16>>(name, a); }

// A kernel without `act` arguments: `static void run_<name>(const <name>_args&)`.
#define EXPORT(name) \
  extern "C" int64_t name(const void* a) { return call_kernel<name##_args>(run_##name, a); }
