// Where the activations of a program lie in one piece of memory, those that are not needed at the same time over each other.
#pragma once
#include <cstddef>
#include <vector>

namespace dovetail::engine {

// Memory needed from step `first` to step `last`.
struct Block {
  std::size_t bytes;
  int first, last;
};

struct Arena {
  std::vector<std::size_t> offsets;  // of each block, multiples of `alignment`
  std::size_t peak;                  // bytes in all
  std::size_t bound;                 // the most that is needed at one step: no arena is smaller
};

constexpr std::size_t alignment = 64;

Arena arrange(const std::vector<Block>& blocks);

}  // namespace dovetail::engine
