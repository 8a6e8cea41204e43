#include "weights.hpp"

#include <algorithm>
#include <stdexcept>

namespace dovetail::engine {

namespace {

std::size_t padded_elements(const std::vector<Span>& spans, int taps) {
  std::size_t columns = 0;
  for (const Span& span : spans) columns += std::size_t(span.count) * taps;
  return columns * lanes;
}

// Where taps are grouped, four rows of them are, with zeros below the last.
int places(const WeightShape& shape, bool taps_in_groups) {
  return (taps_in_groups ? (shape.rows + 3) / 4 * 4 : shape.rows) * shape.columns;
}

int place(const WeightShape& shape, bool taps_in_groups, int tap) {
  const int row = tap / shape.columns, column = tap % shape.columns;
  return taps_in_groups ? (row / 4 * shape.columns + column) * 4 + row % 4 : tap;
}

template <class Element>
class Packed final : public Weights {
 public:
  // `group` columns lie next to each other for each output: channels of one tap, or taps where there is one channel.
  template <class Source>
  Packed(const Source* weights, const WeightShape& shape, Type activations, int group)
      : places_(places(shape, shape.depthwise() && group > 1)),
        data_(padded_elements(channel_spans(shape, activations), places_)) {
    type = activations;
    depthwise = shape.depthwise();
    outputs = shape.outputs;
    taps = shape.rows * shape.columns;
    spans = channel_spans(shape, activations);
    sums_.resize(std::size_t(blocks()) * lanes);
    starts_.reserve(blocks());
    std::size_t start = 0;
    for (int block = 0; block < this->blocks(); ++block) {
      starts_.push_back(start);
      for (int lane = 0; lane < lanes && block * lanes + lane < outputs; ++lane)
        pack_output(weights, shape, block, lane, group);
      start += std::size_t(spans[block].count) * places_ * lanes;
    }
  }

  Panel panel(const Primitives&, int first_block, int, int first, int, std::byte*) const override {
    return {data_.data() + starts_[first_block] + std::size_t(first) * lanes,
            std::ptrdiff_t(spans[first_block].count) * places_ * lanes};
  }
  std::vector<std::int32_t> row_sums() const override { return sums_; }
  std::size_t bytes_stored() const override { return padded_elements(spans, places_) * sizeof(Element); }
  std::string kind() const override { return type == Type::float32 ? "float32" : "int8"; }

 private:
  template <class Source>
  void pack_output(const Source* weights, const WeightShape& shape, int block, int lane, int group) {
    const Span span = spans[block];
    const int output = block * lanes + lane, inputs = shape.inputs / shape.groups;
    const int first = depthwise ? span.first : output / (outputs / shape.groups) * inputs;
    Element* to = data_.data() + starts_[block] + lane * group;
    for (int input = 0; input < inputs; ++input)
      for (int tap = 0; tap < taps; ++tap) {
        const std::size_t column =
            std::size_t(place(shape, depthwise && group > 1, tap)) * span.count + first + input - span.first;
        const Source weight = weights[(std::size_t(output) * inputs + input) * taps + tap];
        to[column / group * group * lanes + column % group] = weight;
        sums_[output] += std::int32_t(type == Type::uint8 ? weight : 0);
      }
  }

  int places_;  // for taps
  Aligned<Element> data_;
  std::vector<std::size_t> starts_;  // of each block
  std::vector<std::int32_t> sums_;
};

}  // namespace

std::vector<Span> channel_spans(const WeightShape& shape, Type type) {
  if (shape.groups < 1 || shape.inputs < 1 || shape.outputs < 1 || shape.rows < 1 || shape.columns < 1 ||
      shape.inputs % shape.groups || shape.outputs % shape.groups)
    throw std::invalid_argument("a convolution of " + std::to_string(shape.inputs) + " channels to " +
                                std::to_string(shape.outputs) + " cannot have " + std::to_string(shape.groups) +
                                " groups: both must be multiples of it");
  const int multiple = type == Type::uint8 ? 4 : 1;
  const int inputs = shape.inputs / shape.groups, outputs = shape.outputs / shape.groups;
  std::vector<Span> spans;
  for (int output = 0; output < shape.outputs; output += lanes) {
    const int last = std::min(output + lanes, shape.outputs) - 1;
    const int first = output / outputs * inputs / multiple * multiple;
    const int end = ((last / outputs + 1) * inputs + multiple - 1) / multiple * multiple;
    spans.push_back(shape.depthwise() ? Span{output, 1} : Span{first, end - first});
  }
  return spans;
}

std::unique_ptr<Weights> pack(const float* weights, const WeightShape& shape) {
  return std::make_unique<Packed<float>>(weights, shape, Type::float32, 1);
}

std::unique_ptr<Weights> pack(const std::int8_t* weights, const WeightShape& shape) {
  return std::make_unique<Packed<std::int8_t>>(weights, shape, Type::uint8, 4);
}

}  // namespace dovetail::engine
