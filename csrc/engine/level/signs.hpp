// Products of signs by signs: XOR, and counting the ones.
#pragma once
#include "product.hpp"

namespace dovetail::engine {
namespace {

// So that the sums, their weights and, but for AVX-512, what counting needs fit into the registers.
constexpr int sign_pixels = width == 16 ? 8 : width == 8 ? 4 : 2;

// The bits in which the two differ and that the mask has, counted.
inline Int differing(Int a, Int b, Int mask) {
#if defined(__AVX512F__)
  constexpr int differ_and_mask = 0x48;  // (a ^ c) & b
  return Int(_mm512_popcnt_epi32(_mm512_ternarylogic_epi32(__m512i(a), __m512i(mask), __m512i(b), differ_and_mask)));
#elif defined(__AVX2__)
  const __m256i counts = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i fifteen = _mm256_set1_epi8(15), bits = _mm256_and_si256(__m256i(a ^ b), __m256i(mask));
  const __m256i low = _mm256_and_si256(bits, fifteen), high = _mm256_and_si256(_mm256_srli_epi16(bits, 4), fifteen);
  const __m256i bytes = _mm256_add_epi8(_mm256_shuffle_epi8(counts, low), _mm256_shuffle_epi8(counts, high));
  const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
  return Int(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
  Int bits = (a ^ b) & mask;
  for (int i = 0; i < width; ++i) bits[i] = __builtin_popcount(unsigned(bits[i]));
  return bits;
#endif
}

template <int pixels>
void product_of_signs(const SignProduct& product) {
  Int ones[pixels][block_vectors] = {};
  const auto at = [](const std::uint16_t* halves) { return reinterpret_cast<const std::uint8_t*>(halves); };
  const std::uint8_t* inputs[pixels];
  repeat<pixels>([&](auto p) { inputs[p] = at(product.input) + 2 * std::ptrdiff_t(product.pixels[p]); });
  for (int run = 0; run < product.run_count; ++run) {
    const SignRun words = product.runs[run];
    const std::uint32_t *weights = product.weights + std::ptrdiff_t(words.first) * lanes;
    const std::uint8_t* mask = reinterpret_cast<const std::uint8_t*>(product.masks + words.first);
    std::ptrdiff_t from = 2 * std::ptrdiff_t(words.input);
    for (int word = 0; word < words.words; ++word, from += 4, mask += 4, weights += lanes) {
      const Int counts = broadcast4(mask);
      Int w[block_vectors];
      repeat<block_vectors>([&](auto v) { w[v] = load<Int>(weights + v * width); });
      repeat<pixels>([&](auto p) {
        const Int x = broadcast4(inputs[p] + from);
        repeat<block_vectors>([&](auto v) { ones[p][v] += differing(w[v], x, counts); });
      });
    }
  }
  repeat<pixels>([&](auto p) {
    repeat<block_vectors>([&](auto v) {
      store(product.sums + p * product.stride + v * width, product.all - 2 * ones[p][v]);
    });
  });
}

struct SignProducts {
  template <int pixels, int>
  static void run(const SignProduct& product) {
    product_of_signs<pixels>(product);
  }
};

// Of sixteen values.
inline std::uint16_t signs_of(const std::uint8_t* values, int least) {
#if defined(__AVX2__)
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values)), bound = _mm_set1_epi8(char(least));
  return std::uint16_t(_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_max_epu8(codes, bound), codes)));
#else
  int signs = 0;
  for (int i = 0; i < 16; ++i) signs |= (values[i] >= least) << i;
  return std::uint16_t(signs);
#endif
}

inline std::uint16_t signs_of(const float* values, int) {
  int signs = 0;
#if defined(__AVX2__)
  for (int i = 0; i < 16; i += 8)
    signs |= _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(values + i), _mm256_setzero_ps(), _CMP_GE_OQ)) << i;
#else
  for (int i = 0; i < 16; ++i) signs |= (values[i] >= 0) << i;
#endif
  return std::uint16_t(signs);
}

template <class Value>
void read_signs(const SignReading<Value>& reading) {
  const Value* values = reading.values;
  std::uint16_t* signs = reading.signs;
  std::int64_t left = reading.count;
#if defined(__AVX512F__)
  if constexpr (sizeof(Value) == 1)
    for (const __m512i least = _mm512_set1_epi8(char(reading.least)); left >= 64; left -= 64, values += 64, signs += 4)
      store(signs, _mm512_cmpge_epu8_mask(_mm512_loadu_si512(values), least));
#endif
  for (; left > 0; left -= 16, values += 16) *signs++ = signs_of(values, reading.least);
}

}  // namespace
}  // namespace dovetail::engine
