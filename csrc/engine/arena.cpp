#include "arena.hpp"

#include <algorithm>
#include <numeric>

namespace dovetail::engine {

namespace {

using Order = std::vector<int>;

std::size_t rounded(std::size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

bool together(const Block& a, const Block& b) { return a.first <= b.last && b.first <= a.last; }

// Each block at the lowest place that is free while it is needed.
std::vector<std::size_t> place(const std::vector<Block>& blocks, const Order& order) {
  std::vector<std::size_t> offsets(blocks.size());
  Order placed;  // from low to high
  for (int block : order) {
    std::size_t offset = 0;
    for (int other : placed) {
      if (!together(blocks[block], blocks[other])) continue;
      if (offset + blocks[block].bytes <= offsets[other]) break;
      offset = std::max(offset, offsets[other] + rounded(blocks[other].bytes));
    }
    offsets[block] = offset;
    const auto above = [&](int other) { return offsets[other] > offset; };
    placed.insert(std::find_if(placed.begin(), placed.end(), above), block);
  }
  return offsets;
}

std::size_t largest_sum(const std::vector<Block>& blocks) {
  std::size_t largest = 0;
  for (const auto& at : blocks) {  // sums only grow where a block begins
    std::size_t sum = 0;
    for (const auto& block : blocks)
      if (block.first <= at.first && at.first <= block.last) sum += rounded(block.bytes);
    largest = std::max(largest, sum);
  }
  return largest;
}

}  // namespace

// The largest go first. What then reaches highest goes first the next time, until the bound is met or this has not
// helped for long: finding the least arena is NP-hard, but networks are mostly chains.
Arena arrange(const std::vector<Block>& blocks) {
  Order order(blocks.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return blocks[a].bytes > blocks[b].bytes; });
  Arena best{{}, 0, largest_sum(blocks)};
  constexpr int tries = 64;
  for (int attempt = 0; attempt < tries && !order.empty(); ++attempt) {
    auto offsets = place(blocks, order);
    const auto end = [&](int block) { return offsets[block] + rounded(blocks[block].bytes); };
    const auto highest = std::max_element(order.begin(), order.end(), [&](int a, int b) { return end(a) < end(b); });
    const std::size_t peak = end(*highest);
    std::rotate(order.begin(), highest, highest + 1);
    if (best.offsets.empty() || peak < best.peak) best.offsets = std::move(offsets), best.peak = peak;
    if (best.peak == best.bound) break;
  }
  return best;
}

}  // namespace dovetail::engine
