// The thread pool behind parallel_for, and memory for the cpu backend.
//
// Tasks are taken from one atomic counter, and a job is over when its tasks are: a worker that the system has not woken yet is not waited
// for, because on a busy machine that takes longer than most jobs. Workers spin for a short while after a job, since the next kernel follows
// within microseconds, then sleep. Nested calls run on the calling thread.
#include "cpu.h"
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

struct Pool {
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<int> sleeping{0};
  std::atomic<bool> stopping{false};
  // Tasks that nobody has taken. While it is not 0, and until `done` reaches `tasks`, the job stays as it is; so whoever lowers it by one
  // may read `tasks`, `run` and `body` afterwards, however long ago it looked.
  std::atomic<int64_t> left{0};
  std::atomic<int64_t> done{0};
  // What a task of the job could not have.
  std::atomic<int64_t> missing{0};
  int64_t tasks = 0;
  void (*run)(const void*, int64_t) = nullptr;
  const void* body = nullptr;

  void take() {
    for (int64_t seen = left.load(std::memory_order_acquire); seen > 0;) {
      if (!left.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      try {
        run(body, tasks - seen);
      } catch (const OutOfMemory& wanted) {
        missing.store(wanted.bytes, std::memory_order_relaxed);
      }
      done.fetch_add(1, std::memory_order_release);
      seen = left.load(std::memory_order_acquire);
    }
  }

  bool called() const { return left.load(std::memory_order_acquire) > 0 || stopping.load(); }

  void work();

  void post(int64_t count, void (*job)(const void*, int64_t), const void* of) {
    tasks = count;
    run = job;
    body = of;
    done.store(0, std::memory_order_relaxed);
    missing.store(0, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex);
      left.store(count, std::memory_order_release);
    }
    if (sleeping.load() > 0) wake.notify_all();
  }

  void finish() {
    for (int spins = 0; done.load(std::memory_order_acquire) != tasks; spins++) {
      if (spins < 4000) relax();
      else std::this_thread::yield();
    }
  }

  // Returns how many there are then: fewer where the system starts no more.
  int resize(int threads) {
    stop();
    try {
      for (int i = 1; i < threads; i++) workers.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
    }
    return threads_now();
  }

  int threads_now() const { return (int)workers.size() + 1; }

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stopping.store(true);
    }
    wake.notify_all();
    for (auto& worker : workers) worker.join();
    workers.clear();
    stopping.store(false);
  }
};

// Never destroyed: a static destructor would join threads while the process is already being torn down.
Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

thread_local bool inside = false;

void Pool::work() {
  inside = true;
  while (!stopping.load()) {
    for (int spins = 0; spins < 20000 && !called(); spins++) relax();
    if (!called()) {
      std::unique_lock<std::mutex> lock(mutex);
      sleeping.fetch_add(1);
      wake.wait(lock, [this] { return called(); });
      sleeping.fetch_sub(1);
    }
    take();
  }
}

struct Region {
  void* data = nullptr;
  int64_t bytes = 0;
  ~Region() { free(data); }
};
thread_local Region regions[8];

void* aligned(int64_t bytes) {
  void* data = nullptr;
  const int64_t alignment = bytes >= (1 << 21) ? (1 << 21) : 64;
  if (posix_memalign(&data, (size_t)alignment, (size_t)bytes) != 0) return nullptr;
#if defined(__linux__)
  if (bytes >= (1 << 21)) madvise(data, (size_t)bytes, MADV_HUGEPAGE);
#endif
  return data;
}

}  // namespace

void run_on_pool(int64_t tasks, void (*run)(const void*, int64_t), const void* body) {
  Pool& p = pool();
  if (inside || p.workers.empty() || tasks <= 1) {
    for (int64_t task = 0; task < tasks; task++) run(body, task);
    return;
  }
  p.post(tasks, run, body);
  inside = true;
  p.take();
  inside = false;
  p.finish();
  if (const int64_t bytes = p.missing.load(std::memory_order_relaxed)) throw OutOfMemory{bytes};
}

int thread_count() { return pool().threads_now(); }

void* scratch(int slot, int64_t bytes) {
  Region& region = regions[slot];
  if (region.bytes < bytes) {
    free(region.data);
    region.bytes = bytes + bytes / 4;
    // A large page even for less: products spend less time on finding the pages of their panels.
    if (region.bytes > (1 << 16) && region.bytes < (1 << 21)) region.bytes = 1 << 21;
    region.data = aligned(region.bytes);
    if (!region.data) {
      region.bytes = 0;
      throw OutOfMemory{bytes};
    }
  }
  return region.data;
}

extern "C" int32_t halfbyte_threads(int32_t threads) { return pool().resize(threads); }
extern "C" void* halfbyte_alloc(int64_t bytes) { return aligned(bytes); }
extern "C" void halfbyte_free(void* data) { free(data); }
extern "C" void halfbyte_copy(void* to, const void* from, int64_t bytes) { memmove(to, from, (size_t)bytes); }
extern "C" void halfbyte_zero(void* to, int64_t bytes) { memset(to, 0, (size_t)bytes); }
