// Products straight from stored weights of one block of outputs, and their decoding for dense products.
#pragma once
#include "../stored.hpp"
#include "lookup.hpp"
#include "product.hpp"

namespace dovetail::engine {
namespace {

constexpr int unrolled = width == 4 ? 1 : unit_groups;  // the plain level need not be fast, but compiled soon

// Readers give the weights of a unit group by group: as vectors of groups of four bytes, or column by column.
template <int bits>
class CodeReader {
 public:
  CodeReader(const Coded& coded, std::int8_t) : units_(coded.units), bytes_(coded.table), floats_(nothing) {}
  CodeReader(const Coded& coded, float)
      : units_(coded.units), bytes_(nothing), floats_(static_cast<const float*>(coded.table)) {}

  void begin(int unit, int) { unit_ = units_ + std::ptrdiff_t(unit) * int(sizeof(CodeUnit<bits>)); }
  Int bytes(int group, int vector) { return bytes_(code(group, vector, 0, 0x01010101)); }
  Float floats(int group, int column, int vector) { return floats_(code(group, vector, 8 * column, 1)); }

 private:
  static constexpr float nothing[64] = {};

  // The codes of a group in the places that `ones` has, of a vector shifted right. Where the look-up reads four bits
  // only, those above stay.
  Int code(int group, int vector, int shift, int ones) const {
    if constexpr (bits == 8) return (load<Int>(at(group, vector)) >> shift) & (255 * ones);
    Int code{};
    int first = 0, done = 0;
#pragma GCC unroll 4
    for (int plane = 4; plane; plane /= 2) {
      if (!(bits & plane)) continue;
      const int per_vector = 8 / plane;
      const Int word = load<Int>(at(first + group / per_vector, vector));
      const Int moved = word >> (shift + plane * (group % per_vector));
      if (bits == 4 && ones == 1 && width > 4) return moved;
      code |= (moved & ((1 << plane) - 1) * ones) << done;
      first += plane, done += plane;
    }
    return code;
  }
  const std::uint8_t* at(int i, int vector) const { return unit_ + 64 * i + 4 * width * vector; }

  const std::uint8_t *units_, *unit_ = nullptr;
  ByteTable<bits> bytes_;
  FloatTable<bits> floats_;
};

// Groups, columns and vectors must be asked for one after the other.
class MaskReader {
 public:
  template <class Weight>
  MaskReader(const Masked& masked, Weight) : units_(masked.units), values_(masked.values) {}

  void begin(int unit, int group) {
    unit_ = units_ + unit;
    next_ = unit_->first_value;
    for (int i = 0; i < group; ++i) next_ += ones(unit_->masks[i]);
  }
  Int bytes(int group, int vector) {
    constexpr std::uint64_t all = ~0ull >> (64 - 4 * width);
    const std::uint64_t mask = unit_->masks[group] >> (4 * width * vector) & all;
    const auto* from = static_cast<const std::int8_t*>(values_) + next_;
    next_ += ones(mask);
    return spread(mask, from);
  }
  Float floats(int group, int column, int vector) {
    const std::uint32_t mask = unit_->masks[group] >> (16 * column + width * vector) & ((1u << width) - 1);
    const auto* from = static_cast<const float*>(values_) + next_;
    next_ += ones(mask);
    return spread(mask, from);
  }

 private:
  const MaskUnit *units_, *unit_ = nullptr;
  const void* values_;
  std::uint64_t next_ = 0;
};

// Sums of one block, kept in several parts as an addition must wait for the one before.
template <class Vector, int pixels, int parts>
struct PartialSums {
  Vector at[pixels][parts][block_vectors] = {};

  template <class AnyTile>
  void store_to(const AnyTile& tile) const {
#pragma GCC unroll 4
    for (int p = 0; p < pixels; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < block_vectors; ++v) {
        auto* to = tile.sums + p * tile.blocks * lanes + v * width;
        Vector sum = load<Vector>(tile.start ? tile.start + v * width : to);
#pragma GCC unroll 4
        for (int part = 0; part < parts; ++part) sum += at[p][part][v];
        store(to, sum);
      }
  }
};

template <int pixels>
constexpr int sum_parts = pixels * block_vectors >= 4 ? 1 : 4 / (pixels * block_vectors);

// Adds the products of a group of four columns, or, of floats, of fewer.
template <class Reader, int pixels, int parts>
inline void add_group(Reader& reader, int group, const std::uint8_t* input, const std::int32_t* at, int,
                      PartialSums<Int, pixels, parts>& sums, int part) {
#pragma GCC unroll 4
  for (int v = 0; v < block_vectors; ++v) {
    const Signed4 w = signed4(reader.bytes(group, v));
#pragma GCC unroll 4
    for (int p = 0; p < pixels; ++p)
      sums.at[p][part][v] = dot4(unsigned4(broadcast4(input + at[p] + 4 * group)), w, sums.at[p][part][v]);
  }
}

template <class Reader, int pixels, int parts>
inline void add_group(Reader& reader, int group, const float* input, const std::int32_t* at, int columns,
                      PartialSums<Float, pixels, parts>& sums, int part) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    if (j >= columns) break;
#pragma GCC unroll 4
    for (int v = 0; v < block_vectors; ++v) {
      const Float w = reader.floats(group, j, v);
#pragma GCC unroll 4
      for (int p = 0; p < pixels; ++p)
        sums.at[p][part][v] = multiply_add(input[at[p] + 4 * group + j] - Float{}, w, sums.at[p][part][v]);
    }
  }
}

// All columns of one block; a tap's channels begin with a unit.
template <class Reader, int pixels, class Input, class Weight, class Sum, class Stored>
void stored_product(const Tile<Input, Weight, Sum>& tile, const Stored& stored) {
  constexpr int parts = sum_parts<pixels>;
  Reader reader(stored, Weight{});
  PartialSums<decltype(as_vector(tile.start)), pixels, parts> sums;
  for (int tap = 0, unit = 0; tap < tile.tap_count; ++tap) {
    const Input* input = tile.input + tile.taps[tap];
    int left = tile.channels;
    for (; left >= unit_columns; left -= unit_columns, input += unit_columns) {
      reader.begin(unit++, 0);
#pragma GCC unroll unrolled
      for (int i = 0; i < unit_groups; ++i) add_group(reader, i, input, tile.pixels, 4, sums, i % parts);
    }
    if (left > 0) reader.begin(unit++, 0);
    for (int i = 0; 4 * i < left; ++i) add_group(reader, i, input, tile.pixels, left - 4 * i, sums, 0);
  }
  sums.store_to(tile);
}

template <class Reader>
inline void decode_group(Reader& reader, int group, std::int8_t* to) {
#pragma GCC unroll 4
  for (int v = 0; v < block_vectors; ++v) store(to + 4 * width * v, reader.bytes(group, v));
}

template <class Reader>
inline void decode_group(Reader& reader, int group, float* to) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j)
#pragma GCC unroll 4
    for (int v = 0; v < block_vectors; ++v) store(to + lanes * j + width * v, reader.floats(group, j, v));
}

// Groups of four columns as dense products read them.
template <class Reader, class Weight, class Stored>
void decode(const Stored& stored, int first, int count, Weight* to) {
  Reader reader(stored, Weight{});
  for (int end = first + count; first < end;) {
    const int begin = first % unit_groups, stop = begin + end - first;
    reader.begin(first / unit_groups, begin);
#pragma GCC unroll unrolled
    for (int i = 0; i < unit_groups; ++i) {
      if (i < begin || i >= stop) continue;
      decode_group(reader, i, to);
      to += 4 * lanes, ++first;
    }
  }
}

// Calls use.operator()<pixels>(tile) for a tile's pixels, some at a time.
template <class AnyTile, class Use>
void by_pixels(AnyTile tile, const Use& use) {
  for (int left = tile.pixel_count; left > 0;) {
    const int count = left >= stored_pixels ? stored_pixels : 1;
    if (count == 1) use.template operator()<1>(tile);
    if (count > 1) use.template operator()<stored_pixels>(tile);
    tile.pixels += count, tile.sums += std::ptrdiff_t(count) * tile.blocks * lanes, left -= count;
  }
}

template <class Reader, class AnyTile, class Stored>
void product_as_stored(const AnyTile& tile, const Stored& stored) {
  by_pixels(tile, [&]<int pixels>(const AnyTile& some) { stored_product<Reader, pixels>(some, stored); });
}

// Calls kernel.operator()<bits>().
template <class Kernel>
void with_bits(int bits, const Kernel& kernel) {
  switch (bits) {
    case 1: return kernel.template operator()<1>();
    case 2: return kernel.template operator()<2>();
    case 3: return kernel.template operator()<3>();
    case 4: return kernel.template operator()<4>();
    case 5: return kernel.template operator()<5>();
    case 6: return kernel.template operator()<6>();
    case 7: return kernel.template operator()<7>();
    default: return kernel.template operator()<8>();
  }
}

template <class AnyTile>
void product_codes(const AnyTile& tile, const Coded& coded) {
  with_bits(coded.bits, [&]<int bits>() { product_as_stored<CodeReader<bits>>(tile, coded); });
}
template <class Weight>
void decode_codes(const Coded& coded, int first, int count, Weight* to) {
  with_bits(coded.bits, [&]<int bits>() { decode<CodeReader<bits>>(coded, first, count, to); });
}

constexpr StoredPrimitives<Coded> codes = {decode_codes<std::int8_t>, decode_codes<float>, product_codes<ByteProduct>,
                                           product_codes<FloatProduct>};
constexpr StoredPrimitives<Masked> masks = {decode<MaskReader, std::int8_t, Masked>, decode<MaskReader, float, Masked>,
                                            product_as_stored<MaskReader, ByteProduct, Masked>,
                                            product_as_stored<MaskReader, FloatProduct, Masked>};

}  // namespace
}  // namespace dovetail::engine
