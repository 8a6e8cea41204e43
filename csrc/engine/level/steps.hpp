// Products that leave out whole steps: those whose weights are zero for all outputs of a block.
#pragma once
#include "product.hpp"

namespace dovetail::engine {
namespace {

struct StepProducts {
  template <int pixels, int, class Input, class Weight, class Sum>
  static void run(const Tile<Input, Weight, Sum>& tile, const Steps& steps) {
    constexpr int each = 4 / sizeof(Input);
    decltype(as_vector(tile.start)) sums[pixels][block_vectors];
    repeat<pixels>([&](auto p) {
      repeat<block_vectors>([&](auto v) { sums[p][v] = as_vector(tile.start + v * width); });
    });
    const Input* inputs[pixels];
    repeat<pixels>([&](auto p) { inputs[p] = tile.input + tile.pixels[p]; });
    const Weight* weights = static_cast<const Weight*>(steps.weights);
    const std::int32_t *next = steps.offsets, *end = next + steps.count;
    do {
      const std::ptrdiff_t offset = *next;
      decltype(weights_of(weights)) w[block_vectors];
      repeat<block_vectors>([&](auto v) { w[v] = weights_of(weights + v * each * width); });
      repeat<pixels>([&](auto p) {
        const auto x = input_of(inputs[p] + offset);
        repeat<block_vectors>([&](auto v) { sums[p][v] = added(sums[p][v], x, w[v]); });
      });
      weights += each * lanes;
    } while (++next != end);
    repeat<pixels>([&](auto p) {
      repeat<block_vectors>([&](auto v) { store(tile.sums + p * tile.blocks * lanes + v * width, sums[p][v]); });
    });
  }
};

template <class AnyTile>
void steps_product(const AnyTile& whole, const Steps& steps) {
  constexpr int most = tile_pixels(1);
  AnyTile tile = whole;
  for (int left = whole.pixel_count; left > 0; left -= tile.pixel_count) {
    tile.pixel_count = left < most ? left : most;
    with_pixels<StepProducts, 1, most>(tile, steps);
    tile.pixels += tile.pixel_count, tile.sums += std::ptrdiff_t(tile.pixel_count) * tile.blocks * lanes;
  }
}

}  // namespace
}  // namespace dovetail::engine
