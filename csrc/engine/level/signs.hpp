// Products of signs by signs: XOR, and counting the ones.
#pragma once
#include "stored.hpp"

namespace dovetail::engine {
namespace {

#if defined(__AVX512F__)

inline Int count_ones(Int v) { return Int(_mm512_popcnt_epi32(__m512i(v))); }
// Which of `count` values, 32 at most, are at least the threshold.
inline std::uint32_t at_least(const std::uint8_t* x, int count, int threshold) {
  const __mmask32 there = count < 32 ? (1u << count) - 1 : ~0u;
  return _mm256_mask_cmpge_epu8_mask(there, _mm256_maskz_loadu_epi8(there, x), _mm256_set1_epi8(char(threshold)));
}
inline std::uint32_t at_least(const float* x, int count, int) {
  const __mmask32 there = count < 32 ? (1u << count) - 1 : ~0u;
  const __mmask16 low = __mmask16(there), high = __mmask16(there >> 16);
  const __m512 zero = _mm512_setzero_ps();
  return _mm512_mask_cmp_ps_mask(low, _mm512_maskz_loadu_ps(low, x), zero, _CMP_GE_OQ) |
         std::uint32_t(_mm512_mask_cmp_ps_mask(high, _mm512_maskz_loadu_ps(high, x + 16), zero, _CMP_GE_OQ)) << 16;
}

#else

inline Int count_ones(Int v) {
#if defined(__AVX2__)
  const __m256i counts = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i fifteen = _mm256_set1_epi8(15), low = _mm256_and_si256(__m256i(v), fifteen);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(__m256i(v), 4), fifteen);
  const __m256i bytes = _mm256_add_epi8(_mm256_shuffle_epi8(counts, low), _mm256_shuffle_epi8(counts, high));
  const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
  return Int(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
  for (int i = 0; i < width; ++i) v[i] = __builtin_popcount(unsigned(v[i]));
  return v;
#endif
}

inline std::uint32_t at_least(const std::uint8_t* x, int count, int threshold) {
  std::uint32_t mask = 0;
#if defined(__AVX2__)
  if (count >= 32) {
    const __m256i values = _mm256_loadu_si256((const __m256i*)x), least = _mm256_set1_epi8(char(threshold));
    return std::uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(values, least), values)));
  }
#endif
  for (int i = 0; i < 32 && i < count; ++i) mask |= std::uint32_t(x[i] >= threshold) << i;
  return mask;
}
inline std::uint32_t at_least(const float* x, int count, int) {
  std::uint32_t mask = 0;
#if defined(__AVX2__)
  if (count >= 32) {
    for (int i = 0; i < 32; i += 8) {
      const __m256 values = _mm256_loadu_ps(x + i);
      mask |= std::uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(values, _mm256_setzero_ps(), _CMP_GE_OQ))) << i;
    }
    return mask;
  }
#endif
  for (int i = 0; i < 32 && i < count; ++i) mask |= std::uint32_t(x[i] >= 0) << i;
  return mask;
}

#endif

inline Int signed_sum(Int ones, int all, const std::int32_t*) { return all - 2 * ones; }
inline Float signed_sum(Int ones, int all, const float*) { return to_float(all - 2 * ones); }

// The signs of some channels of a pixel.
struct SignBits {
  static constexpr int channels = 2048;
  std::int32_t words[channels / 32];

  template <class Input>
  void load(const Input* input, int count, int threshold) {
    int done = 0;
    for (; done + 32 <= count; done += 32) words[done / 32] = std::int32_t(at_least(input + done, 32, threshold));
    if (done < count) words[done / 32] = std::int32_t(at_least(input + done, count - done, threshold));
  }
};

template <int pixels, class AnyTile>
void signs_of(const AnyTile& tile, const Signs& signs) {
  constexpr int parts = sum_parts<pixels> > 1 ? 2 : 1;
  PartialSums<Int, pixels, parts> ones;
  SignBits inputs[pixels];
  const std::uint32_t* weights = signs.words;
  const auto step = [&](int word, int part) {
#pragma GCC unroll 4
    for (int v = 0; v < block_vectors; ++v, weights += width)
#pragma GCC unroll 4
      for (int p = 0; p < pixels; ++p)
        ones.at[p][part][v] += count_ones(load<Int>(weights) ^ inputs[p].words[word]);
  };
  for (int tap = 0; tap < tile.tap_count; ++tap)
    for (int channel = 0; channel < signs.channels; channel += SignBits::channels) {
      const int left = signs.channels - channel, count = left < SignBits::channels ? left : SignBits::channels;
      for (int p = 0; p < pixels; ++p)
        inputs[p].load(tile.input + tile.taps[tap] + channel + tile.pixels[p], count, signs.threshold);
      int word = 0;
      for (; word < count / 64 * 2; word += 2) step(word, 0), step(word + 1, parts - 1);
      for (; word < (count + 31) / 32; ++word) step(word, 0);
    }
  PartialSums<decltype(as_vector(tile.start)), pixels, 1> sums;
  for (int p = 0; p < pixels; ++p)
    for (int v = 0; v < block_vectors; ++v) {
      Int count = ones.at[p][0][v];
      if (parts > 1) count += ones.at[p][parts - 1][v];
      sums.at[p][0][v] = signed_sum(count, signs.channels * tile.tap_count, tile.sums);
    }
  sums.store_to(tile);
}

template <class AnyTile>
void signs_product(const AnyTile& tile, const Signs& signs) {
  by_pixels(tile, [&]<int pixels>(const AnyTile& some) { signs_of<pixels>(some, signs); });
}

}  // namespace
}  // namespace dovetail::engine
