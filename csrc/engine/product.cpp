#include "product.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>

#include "rows.hpp"

namespace dovetail::engine {

namespace {

constexpr int widest = 4;         // blocks of a tile
constexpr int most_pixels = 128;  // of a tile

// A row of b in blocks of 16 outputs, as a Tile reads them: [block][pixel][16].
void pack_row(const Place& b, int image, int row, float* panels) {
  const int blocks = b.tensor->padded_channels() / lanes;
  const float* from = reinterpret_cast<const float*>(b.data) + b.tensor->at(image, row, 0);
  for (int pixel = 0; pixel < b.tensor->columns; ++pixel)
    for (int block = 0; block < blocks; ++block, from += lanes)
      std::copy_n(from, lanes, panels + (std::size_t(block) * b.tensor->columns + pixel) * lanes);
}

}  // namespace

Product::Product(const Tensor& a, const Tensor& b, const Tensor& output, Epilogue epilogue)
    : epilogue_(completed(std::move(epilogue), output)),
      zeros_(widest * lanes),
      panels_(std::size_t(b.columns) * b.padded_channels()) {
  if (a.type != Type::float32 || b.type != Type::float32 || a.external || b.external)
    throw std::invalid_argument("product: both sides must be of float32, and padded");
  if (a.rows != b.rows || a.rows != output.rows || a.channels != b.columns || a.columns != output.columns ||
      b.channels != output.channels)
    throw std::invalid_argument("product: the sides do not fit together");
}

std::size_t Product::scratch_bytes(int threads) const {
  return sizeof(float) * threads * (panels_ + std::size_t(most_pixels) * widest * lanes);
}

void Product::run(const Run& run) const {
  const Tensor &a = *run.reads[0].tensor, &output = *run.writes[0].tensor;
  const std::size_t each = panels_ + std::size_t(most_pixels) * widest * lanes;
  share(run.threads, run.batch * output.rows, output.row_elements() * a.channels / lanes, [&](int thread, int i) {
    multiply_row(run, i / output.rows, i % output.rows, reinterpret_cast<float*>(run.scratch) + thread * each);
  });
}

void Product::multiply_row(const Run& run, int image, int row, float* room) const {
  const Tensor &a = *run.reads[0].tensor, &output = *run.writes[0].tensor;
  const Place* residual = epilogue_.residual.empty() ? nullptr : &run.reads[2];
  constexpr std::int32_t tap = 0;
  std::array<std::int32_t, most_pixels> pixels{};
  for (int i = 0; i < std::min(most_pixels, a.columns); ++i) pixels[i] = i * a.padded_channels();
  float* sums = room + panels_;
  pack_row(run.reads[1], image, row, room);
  const int blocks = output.padded_channels() / lanes;
  for (int block = 0, wide = widest; block < blocks; block += wide) {
    while (block + wide > blocks) wide /= 2;
    const int step = std::min(run.primitives.tile_pixels(wide), most_pixels);
    for (int pixel = 0; pixel < output.columns; pixel += step) {
      const int count = std::min(step, output.columns - pixel);
      run.primitives.product_float32(
          {.input = reinterpret_cast<const float*>(run.reads[0].data) + a.at(image, row, pixel),
           .pixels = pixels.data(),
           .pixel_count = count,
           .taps = &tap,
           .tap_count = 1,
           .channels = a.channels,
           .weights = room + std::size_t(block) * a.channels * lanes,
           .block_stride = std::ptrdiff_t(a.channels) * lanes,
           .blocks = wide,
           .start = zeros_.data(),
           .sums = sums});
      const std::ptrdiff_t first = block * lanes;
      write(run, epilogue_, residual,
            {.values = sums,
             .count = count,
             .at = output.at(image, row, pixel) + first,
             .residual_at = residual ? residual->tensor->at(image, row, pixel) + first : 0,
             .scale = epilogue_.scale.data() + first,
             .bias = epilogue_.bias.data() + first,
             .residual_factors = residual ? epilogue_.residual.data() + first : nullptr,
             .slopes = epilogue_.slopes.empty() ? nullptr : epilogue_.slopes.data() + first,
             .blocks = wide});
    }
  }
}

std::string Product::kernel() const { return "product of two values, float32"; }

}  // namespace dovetail::engine
