// How work that is alike is cut into pieces and shared among threads.
#pragma once
#include <cstdint>

#include "threads.hpp"

namespace dovetail::engine {

inline int divide_up(std::int64_t a, std::int64_t b) { return int((a + b - 1) / b); }

// Calls item(thread, i) for i from 0 up to `count`; on one thread if it is done sooner than others are told.
template <class Item>
void share(Threads& threads, int count, std::int64_t values_each, const Item& item) {
  constexpr std::int64_t worth_telling = 16384;  // values, about two microseconds
  if (count == 1 || threads.size() == 1 || count * values_each < worth_telling) {
    for (int i = 0; i < count; ++i) item(0, i);
    return;
  }
  threads.each([&](int thread) {
    const Share mine(count, thread, threads.size());
    for (int i = mine.first; i < mine.last; ++i) item(thread, i);
  });
}

}  // namespace dovetail::engine
