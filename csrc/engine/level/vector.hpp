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
using Bytes4 = std::uint8_t __attribute__((vector_size(4 * width)));

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
#if defined(__AVX2__) && !defined(__AVX512F__)  // compilers would take them through the registers for integers
  Int v;
  asm volatile("vpbroadcastd %1, %0" : "=x"(v) : "m"(*reinterpret_cast<const std::uint8_t(*)[4]>(from)));
  return v;
#else
  std::int32_t four;
  __builtin_memcpy(&four, from, 4);
  return four - Int{};
#endif
}

#if defined(__AVX512F__)

inline Int widen(Byte v) { return Int(_mm512_cvtepu8_epi32(__m128i(v))); }
inline Byte narrow(Int v) { return Byte(_mm512_cvtepi32_epi8(__m512i(v))); }  // of 0 .. 255
// Each plus `zero` (0 .. 255), limited to 0 .. 255.
inline Bytes4 as_codes(const Int (&v)[4], int zero) {
  const __m512i first = _mm512_packs_epi32(__m512i(v[0]), __m512i(v[1]));
  const __m512i last = _mm512_packs_epi32(__m512i(v[2]), __m512i(v[3])), zeros = _mm512_set1_epi16(short(zero));
  const __m512i codes = _mm512_packus_epi16(_mm512_adds_epi16(first, zeros), _mm512_adds_epi16(last, zeros));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return Bytes4(_mm512_permutexvar_epi32(order, codes));
}
// To even, of numbers up to 2 ** 22; far below, and where there is none (NaN), something below -32768.
inline Int nearest(Float v) { return Int(_mm512_cvtps_epi32(__m512(v))); }
inline Float whole(Float v) { return Float(_mm512_roundscale_ps(__m512(v), _MM_FROUND_TO_NEAREST_INT)); }
inline Float multiply_add(Float a, Float b, Float sum) { return Float(_mm512_fmadd_ps(a, b, sum)); }
inline Float square_root(Float v) { return Float(_mm512_sqrt_ps(__m512(v))); }
// a in 0 .. 255, b in -32768 .. 32767
inline Int multiply_add(Int a, Int b, Int sum) {
  return Int(_mm512_dpwssd_epi32(__m512i(sum), __m512i(a), __m512i(b)));
}
// Four products of unsigned and signed bytes are made in so many parts. They add in 32 bits: nothing saturates.
constexpr int dot_parts = 1;
template <int part>
inline Int unsigned_part(Int v) {
  return v;
}
template <int part>
inline Int signed_part(Int v) {
  return v;
}
inline Int dot_part(Int a, Int b, Int sum) {
  return Int(_mm512_dpbusd_epi32(__m512i(sum), __m512i(a), __m512i(b)));
}
// In every lane a byte of each.
inline Int interleave(const std::uint8_t* a, const std::uint8_t* b, const std::uint8_t* c, const std::uint8_t* d) {
  const auto at = [](const std::uint8_t* from) { return reinterpret_cast<const __m128i*>(from); };
  const __m256i first = _mm256_loadu2_m128i(at(b), at(a)), last = _mm256_loadu2_m128i(at(d), at(c));
  const Int lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, order = lane * 0x01010101 + 0x50401000;
  return Int(_mm512_permutex2var_epi8(_mm512_castsi256_si512(first), __m512i(order), _mm512_castsi256_si512(last)));
}
// The same of 4 * width bytes of each: vector v has in its lanes 4 q .. 4 q + 3 the bytes 16 q + 4 v .. 16 q + 4 v + 3.
inline void interleave(const std::uint8_t* const* rows, Int (&to)[4]) {
  const auto row = [&](int i) { return _mm512_loadu_si512(rows[i]); };
  const __m512i first = _mm512_unpacklo_epi8(row(0), row(1)), last = _mm512_unpacklo_epi8(row(2), row(3));
  const __m512i first_high = _mm512_unpackhi_epi8(row(0), row(1)), last_high = _mm512_unpackhi_epi8(row(2), row(3));
  to[0] = Int(_mm512_unpacklo_epi16(first, last)), to[1] = Int(_mm512_unpackhi_epi16(first, last));
  to[2] = Int(_mm512_unpacklo_epi16(first_high, last_high)), to[3] = Int(_mm512_unpackhi_epi16(first_high, last_high));
}

#elif defined(__AVX2__)

inline Int widen(Byte v) { return Int(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(__builtin_bit_cast(long long, v)))); }
inline Byte narrow(Int v) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(__m256i(v)), _mm256_extracti128_si256(__m256i(v), 1));
  return __builtin_bit_cast(Byte, _mm_cvtsi128_si64(_mm_packus_epi16(words, words)));
}
inline Bytes4 as_codes(const Int (&v)[4], int zero) {
  const __m256i first = _mm256_packs_epi32(__m256i(v[0]), __m256i(v[1]));
  const __m256i last = _mm256_packs_epi32(__m256i(v[2]), __m256i(v[3])), zeros = _mm256_set1_epi16(short(zero));
  const __m256i codes = _mm256_packus_epi16(_mm256_adds_epi16(first, zeros), _mm256_adds_epi16(last, zeros));
  return Bytes4(_mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}
inline Int nearest(Float v) { return Int(_mm256_cvtps_epi32(__m256(v))); }
inline Float whole(Float v) { return Float(_mm256_round_ps(__m256(v), _MM_FROUND_TO_NEAREST_INT)); }
inline Float multiply_add(Float a, Float b, Float sum) { return Float(_mm256_fmadd_ps(a, b, sum)); }
inline Float square_root(Float v) { return Float(_mm256_sqrt_ps(__m256(v))); }
inline Int multiply_add(Int a, Int b, Int sum) { return sum + Int(_mm256_madd_epi16(__m256i(a), __m256i(b))); }
// The even bytes and the odd ones, as pairs of 16 bits: vpmaddubsw would saturate.
constexpr int dot_parts = 2;
alignas(32) const std::uint32_t even_bytes[] = {0xff00ff, 0xff00ff, 0xff00ff, 0xff00ff,
                                                0xff00ff, 0xff00ff, 0xff00ff, 0xff00ff};
template <int part>
inline Int unsigned_part(Int v) {
  if constexpr (part == 1) return Int(_mm256_srli_epi16(__m256i(v), 8));
  Int even;  // masked in memory: there is no register left
  asm("vpand %2, %1, %0" : "=x"(even) : "x"(v), "m"(even_bytes));
  return even;
}
template <int part>
inline Int signed_part(Int v) {
  return Int(_mm256_srai_epi16(part == 0 ? _mm256_slli_epi16(__m256i(v), 8) : __m256i(v), 8));
}
inline Int dot_part(Int a, Int b, Int sum) {
  sum = multiply_add(a, b, sum);
  asm volatile("" : "+x"(sum));  // added now: compilers would put sums aside, of which there are too many
  return sum;
}

inline Int interleave(const std::uint8_t* a, const std::uint8_t* b, const std::uint8_t* c, const std::uint8_t* d) {
  const auto eight = [](const std::uint8_t* from) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)); };
  const __m128i first = _mm_unpacklo_epi8(eight(a), eight(b)), last = _mm_unpacklo_epi8(eight(c), eight(d));
  return Int(_mm256_set_m128i(_mm_unpackhi_epi16(first, last), _mm_unpacklo_epi16(first, last)));
}
inline void interleave(const std::uint8_t* const* rows, Int (&to)[4]) {
  const auto row = [&](int i) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[i])); };
  const __m256i first = _mm256_unpacklo_epi8(row(0), row(1)), last = _mm256_unpacklo_epi8(row(2), row(3));
  const __m256i first_high = _mm256_unpackhi_epi8(row(0), row(1)), last_high = _mm256_unpackhi_epi8(row(2), row(3));
  to[0] = Int(_mm256_unpacklo_epi16(first, last)), to[1] = Int(_mm256_unpackhi_epi16(first, last));
  to[2] = Int(_mm256_unpacklo_epi16(first_high, last_high)), to[3] = Int(_mm256_unpackhi_epi16(first_high, last_high));
}

#else

inline Int widen(Byte v) { return __builtin_convertvector(v, Int); }
inline Byte narrow(Int v) { return __builtin_convertvector(v, Byte); }
inline Bytes4 as_codes(const Int (&v)[4], int zero) {
  Byte codes[4];
  for (int i = 0; i < 4; ++i) {
    const Int code = v[i] + zero, limited = code > 255 ? Int{} + 255 : code;
    codes[i] = narrow(limited > 0 ? limited : Int{});
  }
  return __builtin_bit_cast(Bytes4, codes);
}
inline Float multiply_add(Float a, Float b, Float sum) { return a * b + sum; }
inline Float square_root(Float v) {
  for (int i = 0; i < width; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
}
inline Int multiply_add(Int a, Int b, Int sum) { return a * b + sum; }
constexpr int dot_parts = 4;
template <int part>
inline Int unsigned_part(Int v) {
  return (v >> 8 * part) & 255;
}
template <int part>
inline Int signed_part(Int v) {
  return (v << (24 - 8 * part)) >> 24;
}
inline Int dot_part(Int a, Int b, Int sum) { return multiply_add(a, b, sum); }
inline Int interleave(const std::uint8_t* a, const std::uint8_t* b, const std::uint8_t* c, const std::uint8_t* d) {
  return widen(load<Byte>(a)) | widen(load<Byte>(b)) << 8 | widen(load<Byte>(c)) << 16 | widen(load<Byte>(d)) << 24;
}
inline void interleave(const std::uint8_t* const* rows, Int (&to)[4]) {
  for (int v = 0; v < 4; ++v) to[v] = interleave(rows[0] + 4 * v, rows[1] + 4 * v, rows[2] + 4 * v, rows[3] + 4 * v);
}

#endif

// Calls step with 0, 1, ... n - 1, each of which is a constant: arrays so indexed lie in registers.
template <int i>
struct Constant {
  constexpr operator int() const { return i; }
};

template <int n, class Step>
[[gnu::always_inline]] inline void repeat(const Step& step) {
  if constexpr (n > 0) {
    repeat<n - 1>(step);
    step(Constant<n - 1>{});
  }
}

struct Unsigned4 {
  Int part[dot_parts];
};
struct Signed4 {
  Int part[dot_parts];
};
inline Unsigned4 unsigned4(Int v) {
  Unsigned4 all;
  repeat<dot_parts>([&](auto part) { all.part[part] = unsigned_part<part>(v); });
  return all;
}
inline Signed4 signed4(Int v) {
  Signed4 all;
  repeat<dot_parts>([&](auto part) { all.part[part] = signed_part<part>(v); });
  return all;
}
inline Int dot4(const Unsigned4& a, const Signed4& b, Int sum) {
  repeat<dot_parts>([&](auto part) { sum = dot_part(a.part[part], b.part[part], sum); });
  return sum;
}

inline bool any(Int v) {
  std::int32_t all = 0;
  for (int i = 0; i < width; ++i) all |= v[i];
  return all != 0;
}

// Where a number is missing (NaN), the second.
inline Float larger(Float a, Float b) { return a > b ? a : b; }
inline Float smaller(Float a, Float b) { return a < b ? a : b; }
// To even, and added to; |v| <= 2 ** 22.
inline Int rounded(Float v, std::int32_t added = 0) {
  constexpr float magic = 12582912.0f;  // 1.5 * 2 ** 23: its last bit counts ones
  return bits(v + magic) + (added - __builtin_bit_cast(std::int32_t, magic));
}

#if defined(__AVX2__)
inline Float fused(Float a, Float b, Float sum) { return multiply_add(a, b, sum); }
#else
inline Int nearest(Float v) { return rounded(larger(v, Float{} - 65536.0f)); }
inline Float whole(Float v) { return to_float(rounded(v)); }
// Rounded once, as elsewhere: a product of two float32 is exact in float64.
inline Float fused(Float a, Float b, Float sum) {
  using Double = double __attribute__((vector_size(8 * width)));
  const auto exact = [](Float v) { return __builtin_convertvector(v, Double); };
  return __builtin_convertvector(exact(a) * exact(b) + exact(sum), Float);
}
#endif

}  // namespace
}  // namespace dovetail::engine
