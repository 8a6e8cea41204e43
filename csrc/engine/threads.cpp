#include "threads.hpp"

#include <chrono>

namespace dovetail::engine {

namespace {

// Longer than any step on one thread alone should take, shorter than anybody would notice.
constexpr std::chrono::microseconds patience{100};

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Spins until done() or out of patience; whether it is done.
bool spin(const auto& done) {
  const auto end = std::chrono::steady_clock::now() + patience;
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace

Threads::Threads(int count) {
  for (int thread = 1; thread < count; ++thread) workers_.emplace_back(&Threads::serve, this, thread);
}

Threads::~Threads() {
  work_ = nullptr;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Threads::each(const std::function<void(int)>& work) {
  if (workers_.empty()) return work(0);
  work_ = &work;
  busy_.store(int(workers_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();  // costs a look at a counter where nobody sleeps
  work(0);
  const auto done = [&] { return busy_.load(std::memory_order_acquire) == 0; };
  // A worker that takes this long waits for a core, which may be this one.
  while (!spin(done)) std::this_thread::yield();
}

void Threads::serve(int thread) {
  for (int seen = 0;; ++seen) {
    if (!spin([&] { return round_.load(std::memory_order_acquire) != seen; })) round_.wait(seen);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (!work_) return;
    (*work_)(thread);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace dovetail::engine
