// Threads that wait by spinning between the steps of one inference: a small network has no time to wake them.
#pragma once
#include <functional>

namespace dovetail::engine {

class Threads {
 public:
  explicit Threads(int count);
  ~Threads();
  int size() const;
  // Calls work(thread) on all of them, 0 being the caller, and returns when all are done.
  void each(const std::function<void(int)>& work);
};

}  // namespace dovetail::engine
