// Depthwise products: every output reads the channel of its number.
#pragma once
#include "product.hpp"

namespace dovetail::engine {
namespace {

constexpr int depthwise_pixels = width == 16 ? 14 : 7;  // of a row whose sums of bytes stay in registers

template <int pixels, int blocks>
void depthwise(const FloatProduct& tile) {
  constexpr int vectors = blocks * block_vectors;
  Float sums[pixels][vectors];
  load_sums(sums, tile.start, tile.sums);
  const float* weights = tile.weights;
  for (int tap = 0; tap < tile.tap_count; ++tap, weights += lanes) {
    const float* input = tile.input + tile.taps[tap];
    repeat<vectors>([&](auto v) {
      const Float w = load<Float>(weights + v / block_vectors * tile.block_stride + v % block_vectors * width);
      repeat<pixels>([&](auto p) {
        sums[p][v] = multiply_add(load<Float>(input + tile.pixels[p] + v * width), w, sums[p][v]);
      });
    });
  }
  store_sums(tile.sums, sums);
}

struct Depthwises {
  template <int pixels, int blocks, class AnyTile>
  static void run(const AnyTile& tile) {
    depthwise<pixels, blocks>(tile);
  }
};

// Four taps below each other, from one on; those below the last row have weights of 0, whatever they read.
struct TapRows {
  std::ptrdiff_t at[4];

  TapRows(const ByteProduct& tile, int first, int column) {
    const int columns = tile.tap_count / tile.tap_rows;
    for (int i = 0; i < 4; ++i) {
      const int row = first + i < tile.tap_rows ? first + i : tile.tap_rows - 1;
      at[i] = tile.taps[row * columns + column];
    }
  }
  // In every lane the bytes of one channel.
  Unsigned4 read(const std::uint8_t* from) const {
    return unsigned4(interleave(from + at[0], from + at[1], from + at[2], from + at[3]));
  }
};

// Of one vector of outputs, all pixels.
void depthwise_vector(const ByteProduct& tile, const std::uint8_t* input, const std::int8_t* weights,
                      const std::int32_t* start, std::int32_t* sums) {
  const int columns = tile.tap_count / tile.tap_rows;
  for (int p = 0; p < tile.pixel_count; ++p) {
    Int sum = load<Int>(start);
    const std::int8_t* w = weights;
    for (int row = 0; row < tile.tap_rows; row += 4)
      for (int column = 0; column < columns; ++column, w += 4 * lanes)
        sum = dot4(TapRows(tile, row, column).read(input + tile.pixels[p]), signed4(load<Int>(w)), sum);
    store(sums + p * tile.blocks * lanes, sum);
  }
}

// The same where columns of taps are neighbours, as many as row_taps, so that each is read once for all outputs.
template <int pixels, int stride>
void depthwise_row(const ByteProduct& tile, const std::uint8_t* input, const std::int8_t* weights,
                   const std::int32_t* start, std::int32_t* sums) {
  Int sum[pixels];
  repeat<pixels>([&](auto p) { sum[p] = load<Int>(start); });
  for (int row = 0; row < tile.tap_rows; row += 4, weights += row_taps * 4 * lanes) {
    const TapRows taps(tile, row, 0);
    Signed4 w[row_taps];
    repeat<row_taps>([&](auto t) { w[t] = signed4(load<Int>(weights + t * 4 * lanes)); });
    const std::uint8_t* at = input + tile.pixels[0];
    repeat<(pixels - 1) * stride + row_taps>([&](auto i) {
      const Unsigned4 x = taps.read(at);
      at += tile.neighbour;
      repeat<row_taps>([&](auto t) {
        constexpr int p = (i - t) / stride;
        if constexpr (i >= t && (i - t) % stride == 0 && p < pixels) sum[p] = dot4(x, w[t], sum[p]);
      });
    });
  }
  repeat<pixels>([&](auto p) { store(sums + p * tile.blocks * lanes, sum[p]); });
}

template <int pixels>
auto depthwise_kernel(const ByteProduct& tile) {
  if (!tile.neighbour) return depthwise_vector;
  if (tile.pixel_count == pixels) return tile.stride == 1 ? depthwise_row<pixels, 1> : depthwise_row<pixels, 2>;
  if constexpr (pixels > 1) return depthwise_kernel<pixels - 1>(tile);
  return depthwise_vector;
}

void depthwise_bytes(const ByteProduct& tile) {
  const auto kernel = depthwise_kernel<depthwise_pixels>(tile);
  for (int block = 0; block < tile.blocks; ++block)
    for (int v = 0; v < block_vectors; ++v) {
      const int first = block * lanes + v * width;
      kernel(tile, tile.input + first, tile.weights + block * tile.block_stride + v * 4 * width, tile.start + first,
             tile.sums + first);
    }
}

}  // namespace
}  // namespace dovetail::engine
