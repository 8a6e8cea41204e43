// Where pixels of an output, and what they are computed from, lie.
#pragma once
#include <algorithm>
#include <cstdint>

#include "tensor.hpp"

namespace dovetail::engine {

constexpr int chunk_pixels = 224;  // at most: the sums of so many pixels stay in the first cache

// Offsets in elements from the pixel (0, 0) of the first pixel's image. Pixels are counted over all images of a batch.
struct Offsets {
  std::int32_t at[chunk_pixels];

  // Of `count` pixels of images like `pixels`, from `first` on; their places in `tensor` are as far apart as `stride`
  // says, the first at (row, column).
  void locate(std::int64_t first, int count, const Tensor& pixels, const Tensor& tensor, const int (&stride)[2],
              int row, int column) {
    const std::int64_t image_pixels = std::int64_t(pixels.rows) * pixels.columns;
    const int step = stride[1] * tensor.padded_channels();
    int y = int(first % image_pixels) / pixels.columns, x = int(first % pixels.columns), image = 0;
    for (int p = 0; p < count; x = 0) {
      const int end = std::min(count, p + pixels.columns - x);
      std::ptrdiff_t offset = tensor.at(image, y * stride[0] + row, x * stride[1] + column) - tensor.at(0, 0, 0);
      for (; p < end; ++p, offset += step) at[p] = std::int32_t(offset);
      if (++y == pixels.rows) y = 0, ++image;
    }
  }
};

}  // namespace dovetail::engine
