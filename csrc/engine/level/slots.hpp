// Products with few nonzeros: each takes its factor out of a tile of inputs that lies in registers.
#pragma once
#include "stored.hpp"

namespace dovetail::engine {
namespace {

template <int size, int pixels>
void slots_product(const ByteProduct& tile, const Slots& slots) {
  constexpr int parts = sum_parts<pixels> > 1 ? 2 : 1;
  PartialSums<Int, pixels, parts> sums;
  const std::uint16_t* steps = slots.steps;
  const std::uint8_t* indices = slots.indices;
  const std::int8_t* values = static_cast<const std::int8_t*>(slots.values);
  ByteTile<size> inputs[pixels];
  const auto step = [&](int part) {
#pragma GCC unroll 4
    for (int v = 0; v < block_vectors; ++v, indices += 4 * width, values += 4 * width)
#pragma GCC unroll 4
      for (int p = 0; p < pixels; ++p)
        sums.at[p][part][v] = inputs[p].dot(load<Int>(indices), load<Int>(values), sums.at[p][part][v]);
  };
  for (int tap = 0; tap < tile.tap_count; ++tap)
    for (int channel = 0; channel < tile.channels; channel += size, ++steps) {
      int left = *steps;
      if (left == 0) continue;
#pragma GCC unroll 4
      for (int p = 0; p < pixels; ++p)
        inputs[p].load(tile.input + tile.taps[tap] + channel + tile.pixels[p], tile.channels - channel);
      for (; left >= 2; left -= 2) step(0), step(parts - 1);
      if (left) step(0);
    }
  sums.store_to(tile);
}

// The nonzeros of a step as they are, or as codes.
struct Values {
  const std::uint8_t* indices;
  const float* values;
  explicit Values(const Slots& slots) : indices(slots.indices), values(static_cast<const float*>(slots.values)) {}
  template <class Use>
  void each(const Use& use) {
#pragma GCC unroll 4
    for (int v = 0; v < block_vectors; ++v, indices += width, values += width)
      use(v, widen(load<Byte>(indices)), load<Float>(values));
  }
};

template <int bits>
struct CodedValues {
  const std::uint16_t* entries;
  FloatTable<bits> table;
  explicit CodedValues(const Slots& slots)
      : entries(reinterpret_cast<const std::uint16_t*>(slots.indices)), table(slots.table) {}
  template <class Use>
  void each(const Use& use) {
#pragma GCC unroll 4
    for (int v = 0; v < block_vectors; ++v, entries += width) {
      const Int entry = words(entries);
      use(v, entry, table(entry >> slots_index_bits));
    }
  }
};

template <class Source, int pixels>
void slots_product(const FloatProduct& tile, const Slots& slots) {
  constexpr int parts = sum_parts<pixels> > 1 ? 2 : 1;
  PartialSums<Float, pixels, parts> sums;
  const std::uint16_t* steps = slots.steps;
  Source source(slots);
  FloatTile inputs[pixels];
  const auto step = [&](int part) {
    source.each([&](int v, Int indices, Float weights) {
#pragma GCC unroll 4
      for (int p = 0; p < pixels; ++p)
        sums.at[p][part][v] = multiply_add(inputs[p](indices), weights, sums.at[p][part][v]);
    });
  };
  for (int tap = 0; tap < tile.tap_count; ++tap)
    for (int channel = 0; channel < tile.channels; channel += slots_tile_float32, ++steps) {
      int left = *steps;
      if (left == 0) continue;
#pragma GCC unroll 4
      for (int p = 0; p < pixels; ++p)
        inputs[p].load(tile.input + tile.taps[tap] + channel + tile.pixels[p], tile.channels - channel);
      for (; left >= 2; left -= 2) step(0), step(parts - 1);
      if (left) step(0);
    }
  sums.store_to(tile);
}

template <int size>
void slots_of_size(const ByteProduct& tile, const Slots& slots) {
  by_pixels(tile, [&]<int pixels>(const ByteProduct& some) { slots_product<size, pixels>(some, slots); });
}

void slots_uint8(const ByteProduct& tile, const Slots& slots) {
  switch (slots.tile) {
    case 64: return slots_of_size<64>(tile, slots);
    case 128: return slots_of_size<128>(tile, slots);
    default: return slots_of_size<256>(tile, slots);
  }
}

template <class Source>
void slots_of_source(const FloatProduct& tile, const Slots& slots) {
  by_pixels(tile, [&]<int pixels>(const FloatProduct& some) { slots_product<Source, pixels>(some, slots); });
}

void slots_float32(const FloatProduct& tile, const Slots& slots) {
  if (!slots.table) return slots_of_source<Values>(tile, slots);
  if (slots.entries <= 16) return slots_of_source<CodedValues<4>>(tile, slots);
  slots_of_source<CodedValues<8>>(tile, slots);
}

}  // namespace
}  // namespace dovetail::engine
