// Batch-reduce products: a tile of sums stays in registers while it runs over taps and channels. There is at least one
// of each: a loop that might not run costs copies of all sums.
#pragma once
#include "vector.hpp"

namespace dovetail::engine {
namespace {

// Pixels of a tile so that its sums, the weights and one input fit into the registers (32 of AVX-512, which has inputs
// in memory multiplied, else 16). More than 8 only pay where each is used twice: their addresses do not fit into the
// registers for integers.
constexpr int tile_pixels(int blocks) {
  const int vectors = blocks * block_vectors, registers = width == 16 ? 27 : 14 - vectors;
  const int pixels = registers / vectors, most = blocks == 1 ? 8 : 14;
  return pixels > most ? most : pixels > 0 ? pixels : 1;
}

// The same where pixels are neighbours and rows of taps overlap, so that an input is loaded once for all taps of a row.
// None where there are not enough registers for these taps' weights as well.
constexpr int row_pixels(int blocks) {
  if (width < 16 || blocks > 2) return 0;
  return blocks == 1 ? 16 : 10;
}

template <class Element, class Vector, int pixels, int vectors>
[[gnu::always_inline]] inline void load_sums(Vector (&sums)[pixels][vectors], const Element* start,
                                             const Element* from) {
  repeat<pixels>([&](auto p) {
    repeat<vectors>([&](auto v) {
      sums[p][v] = load<Vector>(start ? start + v * width : from + (p * vectors + v) * width);
    });
  });
}

template <class Element, class Vector, int pixels, int vectors>
[[gnu::always_inline]] inline void store_sums(Element* to, const Vector (&sums)[pixels][vectors]) {
  repeat<pixels>([&](auto p) { repeat<vectors>([&](auto v) { store(to + (p * vectors + v) * width, sums[p][v]); }); });
}

template <int pixels, int blocks>
void product(const Tile<float, float, float>& tile) {
  constexpr int vectors = blocks * block_vectors;
  Float sums[pixels][vectors];
  load_sums(sums, tile.start, tile.sums);
  const float* weights = tile.weights;
  int tap = 0;
  do {
    const float *input = tile.input + tile.taps[tap], *end = input + tile.channels;
    do {
      Float w[vectors];
      repeat<vectors>([&](auto v) {
        w[v] = load<Float>(weights + v / block_vectors * tile.block_stride + v % block_vectors * width);
      });
      repeat<pixels>([&](auto p) {
        const Float x = input[tile.pixels[p]] - Float{};
        repeat<vectors>([&](auto v) { sums[p][v] = multiply_add(x, w[v], sums[p][v]); });
      });
      ++input, weights += lanes;
    } while (input != end);
  } while (++tap < tile.tap_count);
  store_sums(tile.sums, sums);
}

template <int pixels, int blocks>
void product(const Tile<std::uint8_t, std::int8_t, std::int32_t>& tile) {
  constexpr int vectors = blocks * block_vectors;
  Int sums[pixels][vectors];
  load_sums(sums, tile.start, tile.sums);
  const std::uint8_t* inputs[pixels];
  repeat<pixels>([&](auto p) { inputs[p] = tile.input + tile.pixels[p]; });
  const std::int8_t* weights = tile.weights;
  int tap = 0;
  do {
    std::ptrdiff_t at = tile.taps[tap], end = at + tile.channels;
    do {
      repeat<dot_parts>([&](auto part) {  // one after the other, so that the weights of one fit into the registers
        Int w[vectors];
        repeat<vectors>([&](auto v) {
          const auto from = weights + v / block_vectors * tile.block_stride + v % block_vectors * 4 * width;
          w[v] = signed_part<part>(load<Int>(from));
        });
        repeat<pixels>([&](auto p) {
          const Int x = unsigned_part<part>(broadcast4(inputs[p] + at));
          repeat<vectors>([&](auto v) { sums[p][v] = dot_part(x, w[v], sums[p][v]); });
        });
      });
      at += 4, weights += 4 * lanes;
    } while (at != end);
  } while (++tap < tile.tap_count);
  store_sums(tile.sums, sums);
}

// What the two types of products differ in: the channels of a step, and a step of one pixel and one vector.
inline Float input_of(const float* from) { return *from - Float{}; }
inline Unsigned4 input_of(const std::uint8_t* from) { return unsigned4(broadcast4(from)); }
inline Float weights_of(const float* from) { return load<Float>(from); }
inline Signed4 weights_of(const std::int8_t* from) { return signed4(load<Int>(from)); }
inline Float added(Float sum, Float x, Float w) { return multiply_add(x, w, sum); }
inline Int added(Int sum, Unsigned4 x, Signed4 w) { return dot4(x, w, sum); }

// Neighbours: the input of pixel p at tap t of a row is that of pixel p + t at the first.
template <int pixels, int blocks, class Input, class Weight, class Sum>
void row_product(const Tile<Input, Weight, Sum>& tile) {
  constexpr int vectors = blocks * block_vectors, step = 4 / sizeof(Input);
  using Vector = std::conditional_t<std::is_same_v<Sum, float>, Float, Int>;
  Vector sums[pixels][vectors];
  load_sums(sums, tile.start, tile.sums);
  const std::ptrdiff_t next = tile.neighbour, next_tap = next * lanes;
  const Weight* weights = tile.weights;
  int tap = 0;
  do {
    const Input *input = tile.input + tile.taps[tap] + tile.pixels[0], *end = input + next;
    do {
      decltype(weights_of(weights)) w[row_taps][vectors];
      repeat<row_taps>([&](auto t) {
        repeat<vectors>([&](auto v) {
          w[t][v] = weights_of(weights + t * next_tap + v / block_vectors * tile.block_stride +
                               v % block_vectors * step * width);
        });
      });
      const Input* at = input;
      repeat<pixels + row_taps - 1>([&](auto i) {
        const auto x = input_of(at);
        at += next;
        repeat<row_taps>([&](auto t) {
          constexpr int p = i - t;
          if constexpr (p >= 0 && p < pixels)
            repeat<vectors>([&](auto v) { sums[p][v] = added(sums[p][v], x, w[t][v]); });
        });
      });
      input += step, weights += step * lanes;
    } while (input != end);
    weights += (row_taps - 1) * next_tap;
  } while (++tap < tile.tap_count);
  store_sums(tile.sums, sums);
}

inline Float as_vector(const float* from) { return load<Float>(from); }
inline Int as_vector(const std::int32_t* from) { return load<Int>(from); }

// A run-time number of pixels and blocks finds its compiled kernel: pixels counts down to the tile's.
struct Products {
  template <int pixels, int blocks, class AnyTile>
  static void run(const AnyTile& tile) {
    product<pixels, blocks>(tile);
  }
};

struct RowProducts {
  template <int pixels, int blocks, class AnyTile>
  static void run(const AnyTile& tile) {
    row_product<pixels, blocks>(tile);
  }
};

template <class Kernel, int blocks, int pixels, class AnyTile, class... More>
inline void with_pixels(const AnyTile& tile, const More&... more) {
  if (tile.pixel_count == pixels) return Kernel::template run<pixels, blocks>(tile, more...);
  if constexpr (pixels > 1) with_pixels<Kernel, blocks, pixels - 1>(tile, more...);
}

template <class Kernel, class AnyTile>
void dispatch(const AnyTile& tile) {
  if (tile.blocks == 4) return with_pixels<Kernel, 4, tile_pixels(4)>(tile);
  if (tile.blocks == 2) return with_pixels<Kernel, 2, tile_pixels(2)>(tile);
  with_pixels<Kernel, 1, tile_pixels(1)>(tile);
}

template <class AnyTile>
void dispatch_product(const AnyTile& tile) {
  if constexpr (row_pixels(1) > 0)
    if (tile.neighbour) {
      if (tile.blocks == 2) return with_pixels<RowProducts, 2, row_pixels(2)>(tile);
      return with_pixels<RowProducts, 1, row_pixels(1)>(tile);
    }
  dispatch<Products>(tile);
}

}  // namespace
}  // namespace dovetail::engine
