// Batch-reduce products: a tile of sums stays in registers while it runs over taps and channels.
#pragma once
#include "vector.hpp"

namespace dovetail::engine {
namespace {

// Pixels of a tile so that its sums, the weights and one input fit into the registers (32 of AVX-512, else 16). More
// than 8 only pay where each is used twice: their addresses do not fit into the registers for integers.
constexpr int tile_pixels(int blocks) {
  constexpr int registers = width == 16 ? 28 : 12;
  const int pixels = registers / (blocks * block_vectors), most = blocks == 1 ? 8 : 14;
  return pixels > most ? most : pixels > 0 ? pixels : 1;
}

template <class Element, class Vector, int pixels, int vectors>
inline void load_sums(Vector (&sums)[pixels][vectors], const Element* start, const Element* from) {
#pragma GCC unroll 16
  for (int p = 0; p < pixels; ++p)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v)
      sums[p][v] = load<Vector>(start ? start + v * width : from + (p * vectors + v) * width);
}

template <class Element, class Vector, int pixels, int vectors>
inline void store_sums(Element* to, const Vector (&sums)[pixels][vectors]) {
#pragma GCC unroll 16
  for (int p = 0; p < pixels; ++p)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(to + (p * vectors + v) * width, sums[p][v]);
}

template <int pixels, int blocks>
void product(const Tile<float, float, float>& tile) {
  constexpr int vectors = blocks * block_vectors;
  Float sums[pixels][vectors];
  load_sums(sums, tile.start, tile.sums);
  const float* weights = tile.weights;
  for (int tap = 0; tap < tile.tap_count; ++tap) {
    const float* input = tile.input + tile.taps[tap];
    for (int channel = 0; channel < tile.channels; ++channel, ++input, weights += lanes) {
      Float w[vectors];
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v)
        w[v] = load<Float>(weights + v / block_vectors * tile.block_stride + v % block_vectors * width);
#pragma GCC unroll 16
      for (int p = 0; p < pixels; ++p) {
        const Float x = input[tile.pixels[p]] - Float{};
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) sums[p][v] = multiply_add(x, w[v], sums[p][v]);
      }
    }
  }
  store_sums(tile.sums, sums);
}

template <int pixels, int blocks>
void product(const Tile<std::uint8_t, std::int8_t, std::int32_t>& tile) {
  constexpr int vectors = blocks * block_vectors;
  Int sums[pixels][vectors];
  load_sums(sums, tile.start, tile.sums);
  const std::int8_t* weights = tile.weights;
  for (int tap = 0; tap < tile.tap_count; ++tap) {
    const std::uint8_t* input = tile.input + tile.taps[tap];
    for (int channel = 0; channel < tile.channels; channel += 4, input += 4, weights += 4 * lanes) {
      Signed4 w[vectors];
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v)
        w[v] = signed4(load<Int>(weights + v / block_vectors * tile.block_stride + v % block_vectors * 4 * width));
#pragma GCC unroll 16
      for (int p = 0; p < pixels; ++p) {
        const Unsigned4 x = unsigned4(broadcast4(input + tile.pixels[p]));
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) sums[p][v] = dot4(x, w[v], sums[p][v]);
      }
    }
  }
  store_sums(tile.sums, sums);
}

inline Float as_vector(const float* from) { return load<Float>(from); }
inline Int as_vector(const std::int32_t* from) { return load<Int>(from); }
inline Int as_vector(const std::uint8_t* from) { return widen(load<Byte>(from)); }

template <int pixels, int blocks, class Input, class Weight, class Sum>
void depthwise(const Tile<Input, Weight, Sum>& tile) {
  constexpr int vectors = blocks * block_vectors;
  using Vector = decltype(as_vector(tile.start));
  Vector sums[pixels][vectors];
  load_sums(sums, tile.start, tile.sums);
  const Weight* weights = tile.weights;
  for (int tap = 0; tap < tile.tap_count; ++tap, weights += lanes) {
    const Input* input = tile.input + tile.taps[tap];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      const Vector w = as_vector(weights + v / block_vectors * tile.block_stride + v % block_vectors * width);
#pragma GCC unroll 16
      for (int p = 0; p < pixels; ++p)
        sums[p][v] = multiply_add(as_vector(input + tile.pixels[p] + v * width), w, sums[p][v]);
    }
  }
  store_sums(tile.sums, sums);
}

// A run-time number of pixels and blocks finds its compiled kernel: pixels counts down to the tile's.
struct Products {
  template <int pixels, int blocks, class AnyTile>
  static void run(const AnyTile& tile) {
    product<pixels, blocks>(tile);
  }
};

struct Depthwises {
  template <int pixels, int blocks, class AnyTile>
  static void run(const AnyTile& tile) {
    depthwise<pixels, blocks>(tile);
  }
};

template <class Kernel, int blocks, int pixels, class AnyTile>
inline void with_pixels(const AnyTile& tile) {
  if (tile.pixel_count == pixels) return Kernel::template run<pixels, blocks>(tile);
  if constexpr (pixels > 1) with_pixels<Kernel, blocks, pixels - 1>(tile);
}

template <class Kernel, class AnyTile>
void dispatch(const AnyTile& tile) {
  if (tile.blocks == 4) return with_pixels<Kernel, 4, tile_pixels(4)>(tile);
  if (tile.blocks == 2) return with_pixels<Kernel, 2, tile_pixels(2)>(tile);
  with_pixels<Kernel, 1, tile_pixels(1)>(tile);
}

}  // namespace
}  // namespace dovetail::engine
