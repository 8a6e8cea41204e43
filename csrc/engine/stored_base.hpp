// What all weights that are executed as stored have in common.
#pragma once
#include <algorithm>
#include <stdexcept>

#include "stored_weights.hpp"
#include "work.hpp"

namespace dovetail::engine {

// Where a weight lies.
struct Position {
  int block, lane, tap, channel;  // the channel counted from the block's first one
};

class StoredWeights : public Weights {
 public:
  std::vector<std::int32_t> row_sums() const override { return sums_; }

 protected:
  StoredWeights(const WeightShape& shape, Type activations) : shape_(shape) {
    if (shape.depthwise())
      throw std::invalid_argument("depthwise weights are few: there are no kernels for them as stored");
    type = activations;
    depthwise = false;
    outputs = shape.outputs;
    taps = shape.rows * shape.columns;
    spans = channel_spans(shape, activations);
    sums_.resize(std::size_t(blocks()) * lanes);
  }

  std::int64_t size() const { return std::int64_t(outputs) * (shape_.inputs / shape_.groups) * taps; }
  int columns(int block) const { return taps * spans[block].count; }
  int units(int block) const { return divide_up(columns(block), unit_columns); }

  // Of the weight with this number in C order.
  Position position(std::int64_t number) const {
    const int inputs = shape_.inputs / shape_.groups, tap = int(number % taps), input = int(number / taps % inputs);
    const int output = int(number / taps / inputs), block = output / lanes;
    const int first = output / (outputs / shape_.groups) * inputs;
    return {block, output % lanes, tap, first + input - spans[block].first};
  }
  int column(const Position& at) const { return at.tap * spans[at.block].count + at.channel; }
  // A tap's channels must begin with a unit for products straight from the stored weights.
  bool whole_units() const {
    return taps == 1 || std::all_of(spans.begin(), spans.end(), [](Span s) { return s.count % unit_columns == 0; });
  }

  // A panel of what `decode(block, first group, groups, to)` gives for each block.
  template <class Weight, class Decode>
  static Panel decoded(int first_block, int blocks, int first, int count, std::byte* room, const Decode& decode) {
    const int groups = divide_up(first % 4 + count, 4);
    const std::ptrdiff_t stride = std::ptrdiff_t(groups) * 4 * lanes;
    Weight* to = reinterpret_cast<Weight*>(room);
    for (int block = 0; block < blocks; ++block) decode(first_block + block, first / 4, groups, to + block * stride);
    return {to + first % 4 * lanes, stride};
  }

  WeightShape shape_;
  std::vector<std::int32_t> sums_;
};

}  // namespace dovetail::engine
