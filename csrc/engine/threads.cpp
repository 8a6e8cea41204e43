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

Threads::Threads(int count) : count_(count), next_(count) {
  for (int thread = 1; thread < count; ++thread) workers_.emplace_back(&Threads::serve, this);
}

Threads::~Threads() {
  over_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (auto& worker : workers_) worker.join();
}

// Shares are taken, not given: a thread that has no core just now holds nobody up. Whoever gets one knows that this round
// is not over, so that `work_` is this round's.
void Threads::take_shares() {
  for (int share; (share = next_.fetch_add(1, std::memory_order_acq_rel)) < size();) {
    (*work_)(share);
    done_.fetch_add(1, std::memory_order_release);
  }
}

void Threads::each(const std::function<void(int)>& work) {
  if (workers_.empty()) return work(0);
  work_ = &work;
  done_.store(0, std::memory_order_relaxed);
  next_.store(0, std::memory_order_release);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();  // costs a look at a counter where nobody sleeps
  take_shares();
  while (!spin([&] { return done_.load(std::memory_order_acquire) == size(); })) std::this_thread::yield();
}

void Threads::serve() {
  while (true) {
    const int seen = round_.load(std::memory_order_acquire);
    if (over_) return;
    take_shares();
    if (!spin([&] { return round_.load(std::memory_order_acquire) != seen; })) round_.wait(seen);
  }
}

}  // namespace dovetail::engine
