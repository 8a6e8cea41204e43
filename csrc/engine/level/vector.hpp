// Vectors as wide as the instruction set that this translation unit is compiled for, and the few operations in which
// instruction sets differ; all else is arithmetic on the compiler's vectors. Everything in this folder lies in an
// anonymous namespace and calls nothing of the standard library: a function that linkers share between translation
// units must not be compiled with instructions that a processor may lack.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../primitives.hpp"

namespace dovetail::engine {
namespace {

#if defined(__AVX512F__)
constexpr int width = 16;  // of 32 bits
#elif defined(__AVX2__)
constexpr int width = 8;
#else
constexpr int width = 4;
#endif
constexpr int block_vectors = lanes / width;

using Float = float __attribute__((vector_size(4 * width)));
using Int = std::int32_t __attribute__((vector_size(4 * width)));
using Byte = std::uint8_t __attribute__((vector_size(width)));

template <class Vector, class Element>
inline Vector load(const Element* from) {
  Vector v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class Vector, class Element>
inline void store(Element* to, Vector v) {
  __builtin_memcpy(to, &v, sizeof v);
}

inline Float to_float(Int v) { return __builtin_convertvector(v, Float); }
inline Int bits(Float v) { return __builtin_bit_cast(Int, v); }
inline Float from_bits(Int v) { return __builtin_bit_cast(Float, v); }

// The four bytes from here in every lane.
inline Int broadcast4(const std::uint8_t* from) {
  std::int32_t four;
  __builtin_memcpy(&four, from, 4);
  return four - Int{};
}

#if defined(__AVX512F__)

inline Int widen(Byte v) { return Int(_mm512_cvtepu8_epi32(__m128i(v))); }
inline Byte narrow(Int v) { return Byte(_mm512_cvtepi32_epi8(__m512i(v))); }  // of 0 .. 255
inline Float multiply_add(Float a, Float b, Float sum) { return Float(_mm512_fmadd_ps(a, b, sum)); }
inline Float square_root(Float v) { return Float(_mm512_sqrt_ps(__m512(v))); }
// a in 0 .. 255, b in -32768 .. 32767
inline Int multiply_add(Int a, Int b, Int sum) {
  return Int(_mm512_dpwssd_epi32(__m512i(sum), __m512i(a), __m512i(b)));
}
// Four products of unsigned and signed bytes. Adds in 32 bits, as all levels do: nothing saturates.
struct Signed4 {
  Int v;
};
struct Unsigned4 {
  Int v;
};
inline Int dot4(Unsigned4 a, Signed4 b, Int sum) {
  return Int(_mm512_dpbusd_epi32(__m512i(sum), __m512i(a.v), __m512i(b.v)));
}
inline Unsigned4 unsigned4(Int v) { return {v}; }
inline Signed4 signed4(Int v) { return {v}; }

#elif defined(__AVX2__)

inline Int widen(Byte v) { return Int(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(__builtin_bit_cast(long long, v)))); }
inline Byte narrow(Int v) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(__m256i(v)), _mm256_extracti128_si256(__m256i(v), 1));
  return __builtin_bit_cast(Byte, _mm_cvtsi128_si64(_mm_packus_epi16(words, words)));
}
inline Float multiply_add(Float a, Float b, Float sum) { return Float(_mm256_fmadd_ps(a, b, sum)); }
inline Float square_root(Float v) { return Float(_mm256_sqrt_ps(__m256(v))); }
inline Int multiply_add(Int a, Int b, Int sum) { return sum + Int(_mm256_madd_epi16(__m256i(a), __m256i(b))); }
// As pairs of 16 bits: vpmaddubsw would saturate.
struct Signed4 {
  Int even, odd;
};
using Unsigned4 = Signed4;
inline Int dot4(Unsigned4 a, Signed4 b, Int sum) {
  return sum + Int(_mm256_madd_epi16(__m256i(a.even), __m256i(b.even))) +
         Int(_mm256_madd_epi16(__m256i(a.odd), __m256i(b.odd)));
}
inline Unsigned4 unsigned4(Int v) {
  return {v & 0x00ff00ff, Int(_mm256_srli_epi16(__m256i(v), 8))};
}
inline Signed4 signed4(Int v) {
  return {Int(_mm256_srai_epi16(_mm256_slli_epi16(__m256i(v), 8), 8)), Int(_mm256_srai_epi16(__m256i(v), 8))};
}

#else

inline Int widen(Byte v) { return __builtin_convertvector(v, Int); }
inline Byte narrow(Int v) { return __builtin_convertvector(v, Byte); }
inline Float multiply_add(Float a, Float b, Float sum) { return a * b + sum; }
inline Float square_root(Float v) {
  for (int i = 0; i < width; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
}
inline Int multiply_add(Int a, Int b, Int sum) { return a * b + sum; }
struct Signed4 {
  Int v[4];
};
using Unsigned4 = Signed4;
inline Int dot4(Unsigned4 a, Signed4 b, Int sum) {
  return sum + a.v[0] * b.v[0] + a.v[1] * b.v[1] + a.v[2] * b.v[2] + a.v[3] * b.v[3];
}
inline Unsigned4 unsigned4(Int v) { return {{v & 255, (v >> 8) & 255, (v >> 16) & 255, (v >> 24) & 255}}; }
inline Signed4 signed4(Int v) { return {{(v << 24) >> 24, (v << 16) >> 24, (v << 8) >> 24, v >> 24}}; }

#endif

inline bool any(Int v) {
  std::int32_t all = 0;
  for (int i = 0; i < width; ++i) all |= v[i];
  return all != 0;
}

// Where a number is missing (NaN), the second.
inline Float larger(Float a, Float b) { return a > b ? a : b; }
inline Float smaller(Float a, Float b) { return a < b ? a : b; }
// To even; |v| <= 2 ** 22.
inline Int rounded(Float v) {
  constexpr float magic = 12582912.0f;  // 1.5 * 2 ** 23: its last bit counts ones
  return bits(v + magic) - __builtin_bit_cast(std::int32_t, magic);
}

}  // namespace
}  // namespace dovetail::engine
