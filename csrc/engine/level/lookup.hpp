// Look-ups in registers: of codes in a table, of indices in a tile of inputs; and values spread by a mask.
#pragma once
#include "vector.hpp"

namespace dovetail::engine {
namespace {

// Byte for byte, or number for number, where nothing does better.
[[gnu::noinline, maybe_unused]] Int look_up_bytes(const void* table, Int codes) {
  std::uint8_t bytes[sizeof(Int)];
  __builtin_memcpy(bytes, &codes, sizeof codes);
  for (std::uint8_t& byte : bytes) byte = static_cast<const std::uint8_t*>(table)[byte];
  return load<Int>(bytes);
}
[[gnu::noinline, maybe_unused]] Float look_up_floats(const float* table, Int codes) {
  Float values;
  for (int i = 0; i < width; ++i) values[i] = table[codes[i]];
  return values;
}
inline int ones(std::uint64_t mask) { return __builtin_popcountll(mask); }
constexpr int inputs_at_once = 64;

#if defined(__AVX512F__)

alignas(64) constexpr std::uint8_t sixty_four[] = {
    0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
    32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};

// Bytes by codes of `bits` bits.
template <int bits>
class ByteTable {
 public:
  explicit ByteTable(const void* table) {
    for (int i = 0; i < parts; ++i) part_[i] = _mm512_loadu_si512(static_cast<const std::uint8_t*>(table) + 64 * i);
    if constexpr (bits <= 4) part_[0] = _mm512_broadcast_i32x4(_mm512_castsi512_si128(part_[0]));
  }
  Int operator()(Int codes) const {
    const __m512i at = __m512i(codes);
    if constexpr (bits <= 4) return Int(_mm512_shuffle_epi8(part_[0], at));
    if constexpr (bits <= 6) return Int(_mm512_permutexvar_epi8(at, part_[0]));
    const __m512i low = _mm512_permutex2var_epi8(part_[0], at, part_[1 % parts]);
    if constexpr (bits == 7) return Int(low);
    const __m512i high = _mm512_permutex2var_epi8(part_[2 % parts], at, part_[3 % parts]);
    return Int(_mm512_mask_blend_epi8(_mm512_movepi8_mask(at), low, high));
  }

 private:
  static constexpr int parts = bits <= 6 ? 1 : bits == 7 ? 2 : 4;
  __m512i part_[parts];
};

template <int bits>
class FloatTable {
 public:
  explicit FloatTable(const float* table) : table_(table) {
    for (int i = 0; i < parts; ++i) part_[i] = _mm512_loadu_ps(table + 16 * i);
  }
  Float operator()(Int codes) const {
    const __m512i at = __m512i(codes);
    if constexpr (bits <= 4) return Float(_mm512_permutexvar_ps(at, part_[0]));
    if constexpr (bits > 6) return Float(_mm512_i32gather_ps(at, table_, 4));
    const __m512 low = _mm512_permutex2var_ps(part_[0], at, part_[1 % parts]);
    if constexpr (bits == 5) return Float(low);
    const __m512 high = _mm512_permutex2var_ps(part_[2 % parts], at, part_[3 % parts]);
    return Float(_mm512_mask_blend_ps(_mm512_test_epi32_mask(at, _mm512_set1_epi32(32)), low, high));
  }

 private:
  static constexpr int parts = bits == 5 ? 2 : bits == 6 ? 4 : 1;
  const float* table_;
  __m512 part_[parts];
};

// A tile of inputs, `size` bytes at most, of which `count` are there.
template <int size>
class ByteTile {
 public:
  void load(const std::uint8_t* from, int count) {
    for (int i = 0; i < size / 64; ++i) {
      const int left = count - 64 * i;
      part_[i] = left >= 64 ? _mm512_loadu_si512(from + 64 * i)
                            : _mm512_maskz_loadu_epi8(left > 0 ? (1ull << left) - 1 : 0, from + 64 * i);
    }
  }
  Int dot(Int indices, Int values, Int sum) const {
    const __m512i at = __m512i(indices);
    __m512i x;
    if constexpr (size == 64) {
      x = _mm512_permutexvar_epi8(at, part_[0]);
    } else {
      x = _mm512_permutex2var_epi8(part_[0], at, part_[1]);
      if constexpr (size == 256)
        x = _mm512_mask_blend_epi8(_mm512_movepi8_mask(at), x, _mm512_permutex2var_epi8(part_[2], at, part_[3]));
    }
    return dot4(unsigned4(Int(x)), signed4(values), sum);
  }

 private:
  __m512i part_[size / 64];
};

class FloatTile {
 public:
  void load(const float* from, int count) {
    for (int i = 0; i < 4; ++i) {
      const int left = count - 16 * i;
      part_[i] = left >= 16 ? _mm512_loadu_ps(from + 16 * i)
                            : _mm512_maskz_loadu_ps(__mmask16(left > 0 ? (1u << left) - 1 : 0), from + 16 * i);
    }
  }
  Float operator()(Int indices) const {  // what is above their lowest six bits does not matter
    const __m512i at = __m512i(indices);
    return Float(_mm512_mask_blend_ps(_mm512_test_epi32_mask(at, _mm512_set1_epi32(32)),
                                      _mm512_permutex2var_ps(part_[0], at, part_[1]),
                                      _mm512_permutex2var_ps(part_[2], at, part_[3])));
  }

 private:
  __m512 part_[4];
};

// The next values go where the mask has ones, the rest is zero.
inline Int spread(std::uint64_t mask, const std::int8_t* values) {
  return Int(_mm512_maskz_expand_epi8(mask, _mm512_loadu_si512(values)));
}
inline Float spread(std::uint32_t mask, const float* values) {
  return Float(_mm512_maskz_expand_ps(__mmask16(mask), _mm512_loadu_ps(values)));
}
inline Int words(const std::uint16_t* from) {
  return Int(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)));
}

// Those of `inputs` (inputs_at_once at most) numbers that are not zero, and their places from `first` on; returns how
// many. There must be room for inputs_at_once of each.
inline int append_nonzeros(const std::uint8_t* from, int inputs, int first, std::uint8_t* values, std::uint16_t* places) {
  const __m512i v = _mm512_maskz_loadu_epi8(~0ull >> (64 - inputs), from);
  const std::uint64_t mask = _mm512_test_epi8_mask(v, v);
  const __m512i low = _mm512_add_epi16(_mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)sixty_four)),
                                       _mm512_set1_epi16(short(first)));
  _mm512_storeu_si512(values, _mm512_maskz_compress_epi8(mask, v));
  _mm512_storeu_si512(places, _mm512_maskz_compress_epi16(__mmask32(mask), low));
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(32));
  _mm512_storeu_si512(places + ones(mask << 32), _mm512_maskz_compress_epi16(__mmask32(mask >> 32), high));
  return ones(mask);
}
inline int append_nonzeros(const float* from, int inputs, int first, float* values, std::uint16_t* places) {
  int count = 0;
  for (int i = 0; i < inputs; i += 16) {
    const int left = inputs - i;
    const __m512 v = _mm512_maskz_loadu_ps(left >= 16 ? 0xffff : (1u << left) - 1, from + i);
    const __mmask16 mask = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    const __m256i numbers = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(sixty_four + i)));
    _mm512_storeu_ps(values + count, _mm512_maskz_compress_ps(mask, v));
    _mm256_storeu_si256((__m256i*)(places + count),
                        _mm256_maskz_compress_epi16(mask, _mm256_add_epi16(numbers, _mm256_set1_epi16(short(first)))));
    count += ones(mask);
  }
  return count;
}

#else

template <int bits>
class ByteTable {
 public:
  explicit ByteTable(const void* table) : table_(static_cast<const std::uint8_t*>(table)) {}
  Int operator()(Int codes) const {
#if defined(__AVX2__)
    const auto part = [&](int i) {
      return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)(table_ + 16 * i)));
    };
    const __m256i at = __m256i(codes);
    if constexpr (bits <= 4) return Int(_mm256_shuffle_epi8(part(0), at));
    const __m256i fifteen = _mm256_set1_epi8(15);
    const __m256i low = _mm256_and_si256(at, fifteen), high = _mm256_andnot_si256(fifteen, at);
    __m256i values = _mm256_setzero_si256();
#pragma GCC unroll 16
    for (int i = 0; i < 1 << (bits > 4 ? bits - 4 : 0); ++i)
      values = _mm256_blendv_epi8(values, _mm256_shuffle_epi8(part(i), low),
                                  _mm256_cmpeq_epi8(high, _mm256_set1_epi8(char(16 * i))));
    return Int(values);
#else
    return look_up_bytes(table_, codes);
#endif
  }

 private:
  const std::uint8_t* table_;
};

template <int bits>
class FloatTable {
 public:
  explicit FloatTable(const float* table) : table_(table) {}
  Float operator()(Int codes) const {
#if defined(__AVX2__)
    const __m256i at = __m256i(codes);
    if constexpr (bits <= 4) {
      const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table_), at);
      if constexpr (bits <= 3) return Float(low);
      const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table_ + 8), at);
      return Float(_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(at, 28))));
    }
    return Float(_mm256_i32gather_ps(table_, at, 4));
#else
    return look_up_floats(table_, codes);
#endif
  }

 private:
  const float* table_;
};

// Copied, so that what is read beside a byte is there.
template <int size>
class ByteTile {
 public:
  void load(const std::uint8_t* from, int count) { __builtin_memcpy(bytes_, from, count < size ? count : size); }
  Int dot(Int indices, Int values, Int sum) const {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
      sum = multiply_add(gather((indices >> 8 * j) & 255), (values << (24 - 8 * j)) >> 24, sum);
    return sum;
  }

 private:
  Int gather(Int at) const {
#if defined(__AVX2__)
    return Int(_mm256_i32gather_epi32(reinterpret_cast<const int*>(bytes_), __m256i(at), 1)) & 255;
#else
    Int x;
    for (int i = 0; i < width; ++i) x[i] = bytes_[at[i]];
    return x;
#endif
  }
  std::uint8_t bytes_[size + 3] = {};
};

class FloatTile {
 public:
  void load(const float* from, int count) { __builtin_memcpy(values_, from, 4 * (count < 64 ? count : 64)); }
  Float operator()(Int indices) const {
#if defined(__AVX2__)
    return Float(_mm256_i32gather_ps(values_, __m256i(indices & 63), 4));
#else
    return look_up_floats(values_, indices & 63);
#endif
  }

 private:
  float values_[64] = {};
};

template <class Vector, class Element>
inline Vector spread_one_by_one(std::uint64_t mask, const Element* values) {
  Element spread[sizeof(Vector) / sizeof(Element)] = {};
  for (; mask; mask &= mask - 1) spread[__builtin_ctzll(mask)] = *values++;
  return load<Vector>(spread);
}
inline Int spread(std::uint64_t mask, const std::int8_t* values) { return spread_one_by_one<Int>(mask, values); }
inline Float spread(std::uint32_t mask, const float* values) { return spread_one_by_one<Float>(mask, values); }
inline Int words(const std::uint16_t* from) {
  Int v;
  for (int i = 0; i < width; ++i) v[i] = from[i];
  return v;
}
template <class Input>
inline int append_nonzeros(const Input* from, int inputs, int first, Input* values, std::uint16_t* places) {
  int count = 0;
  for (int i = 0; i < inputs; ++i) {
    values[count] = from[i], places[count] = std::uint16_t(first + i);
    count += from[i] != 0;
  }
  return count;
}

#endif

}  // namespace
}  // namespace dovetail::engine
