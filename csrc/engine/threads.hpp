// Threads that wait by spinning between the steps of one inference: a small network has no time to wake them.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace dovetail::engine {

// The items from `first` up to `last` of `count` that fall to one of several threads.
struct Share {
  int first, last;
  Share(int count, int thread, int threads)
      : first(int(std::int64_t(count) * thread / threads)), last(int(std::int64_t(count) * (thread + 1) / threads)) {}
};

// For one caller at a time.
class Threads {
 public:
  explicit Threads(int count);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  int size() const { return count_; }
  // Calls work(i) for each i below size(), at the same time, and returns when all are done. Work may not throw.
  void each(const std::function<void(int)>& work);

 private:
  void serve();
  void take_shares();

  const int count_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<bool> over_ = false;
  // On cache lines of their own: all threads write to the last two.
  alignas(64) std::atomic<int> round_ = 0;
  alignas(64) std::atomic<int> next_;
  alignas(64) std::atomic<int> done_ = 0;
};

}  // namespace dovetail::engine
