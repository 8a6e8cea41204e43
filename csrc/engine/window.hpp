// Where the weights of a convolution lie on the image; rows, then columns.
#pragma once
#include <algorithm>
#include <vector>

namespace dovetail::engine {

// The padding is that above and on the left.
struct Window {
  int size[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1}, padding[2] = {0, 0};
};

struct Range {
  int first, end;
  bool operator==(const Range&) const = default;
  bool empty() const { return first >= end; }
  int count() const { return std::max(0, end - first); }
  Range within(const Range& other) const { return {std::max(first, other.first), std::min(end, other.end)}; }
};

// The taps of a row or column that lie inside of the image, for every output.
inline std::vector<Range> taps_inside(const Window& window, int dimension, int outputs, int extent) {
  const int size = window.size[dimension], step = window.dilation[dimension];
  std::vector<Range> inside;
  for (int output = 0; output < outputs; ++output) {
    const int at = output * window.stride[dimension] - window.padding[dimension];
    const int first = std::clamp((step - 1 - at) / step, 0, size);
    inside.push_back({first, std::clamp((extent - at + step - 1) / step, first, size)});
  }
  return inside;
}

}  // namespace dovetail::engine
