// Where pixels of an output, and what they are computed from, lie.
#pragma once
#include <algorithm>
#include <cstdint>

#include "tensor.hpp"

namespace dovetail::engine {

constexpr int chunk_pixels = 224;  // at most: the sums of so many pixels stay in the first cache

// The pixels of a batch, counted image by image; or `across` them, place by place, so that neighbours have the same
// place.
struct PixelOrder {
  int batch, rows, columns;
  bool across = false;

  struct At {
    int image, row, column;
  };

  std::int64_t count() const { return std::int64_t(batch) * rows * columns; }
  At at(std::int64_t pixel) const {
    const int inner = across ? batch : rows * columns, outer = int(pixel / inner), rest = int(pixel % inner);
    return across ? At{rest, outer / columns, outer % columns} : At{outer, rest / columns, rest % columns};
  }
  // How many follow in the same row, or at the same place, this one included.
  int run(const At& at) const { return across ? batch - at.image : columns - at.column; }
  // As many, or fewer, later.
  void skip(At& at, int count) const {
    across ? at.image += count : at.column += count;
    if (across && at.image == batch) at.image = 0, ++at.column;
    if (at.column == columns) at.column = 0, ++at.row;
    if (at.row == rows && !across) at.row = 0, ++at.image;
  }
  // Offsets are counted from here.
  int first_image(std::int64_t pixel) const { return across ? 0 : at(pixel).image; }
};

// Offsets in elements from the pixel (0, 0) of the first pixel's image.
struct Offsets {
  std::int32_t at[chunk_pixels];

  // Of `count` pixels, from `first` on; their places in `tensor` are as far apart as `stride` says.
  void locate(std::int64_t first, int count, const PixelOrder& pixels, const Tensor& tensor, const int (&stride)[2]) {
    const std::ptrdiff_t step = pixels.across ? tensor.image_elements() : stride[1] * tensor.padded_channels();
    PixelOrder::At pixel = pixels.at(first);
    const int start = pixels.first_image(first);
    for (int p = 0, run = 0; p < count; pixels.skip(pixel, run)) {
      run = pixels.run(pixel);
      const int end = std::min(count, p + run);
      std::ptrdiff_t offset =
          tensor.at(pixel.image - start, pixel.row * stride[0], pixel.column * stride[1]) - tensor.at(0, 0, 0);
      for (; p < end; ++p, offset += step) at[p] = std::int32_t(offset);
    }
  }
};

}  // namespace dovetail::engine
