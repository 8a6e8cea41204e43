// Sums become outputs.
#pragma once
#include <limits>
#include <type_traits>

#include "vector.hpp"

namespace dovetail::engine {
namespace {

inline Float constant(float v) { return v - Float{}; }

// 2 ** (x / ln 2): the whole part goes into the exponent, the rest through a polynomial. Relative error below 2e-7.
inline Float exponential(Float x) {
  x = smaller(constant(88.0f), larger(constant(-87.0f), x));
  const Int n = rounded(x * 1.44269504f);
  const Float whole = to_float(n);
  const Float r = (x - whole * 0.693145752f) - whole * 1.42860677e-6f;  // ln 2 in two parts, the first of few bits
  Float p = r * 0.00138888889f + 0.00833333333f;
  p = p * r + 0.0416666667f;
  p = p * r + 0.166666667f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * from_bits((n + 127) << 23);
}

inline Float sigmoid(Float x) { return 1.0f / (1.0f + exponential(-x)); }

inline Float absolute(Float x) { return from_bits(bits(x) & 0x7fffffff); }

// 1 - erf(z) for z from 0 on, by Abramowitz and Stegun's 7.1.26, whose error is below 1.5e-7.
inline Float erf_tail(Float z) {
  const Float t = 1.0f / (1.0f + z * 0.3275911f);
  Float p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  return p * t * exponential(-(z * z));
}

inline Float erf(Float x) {
  const Float side = 1.0f - erf_tail(absolute(x));
  return x > 0.0f ? side : -side;
}

// x * (1 + erf(x / sqrt 2)) / 2
inline Float gelu(Float x) {
  const Float tail = erf_tail(absolute(x) * 0.707106781f) * 0.5f;  // of the side on which x lies
  return x * (x > 0.0f ? 1.0f - tail : tail);
}

// The square of e ** (x / 2), so that what float32 cannot hold becomes infinity or zero.
inline Float whole_exponential(Float x) {
  const Float half = exponential(x * 0.5f);
  return half * half;
}

constexpr float farthest = std::numeric_limits<float>::max();

inline Float activate(Float x, Activation activation, Float slope = Float{}) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return larger(Float{}, x);
    case Activation::hard_swish: return x * smaller(constant(6.0f), larger(Float{}, x + 3.0f)) * 0.166666667f;
    case Activation::sigmoid: return sigmoid(x);
    case Activation::silu: return x * sigmoid(x);
    case Activation::tanh: return 2.0f * sigmoid(2.0f * x) - 1.0f;
    case Activation::gelu: return gelu(x);
    case Activation::erf: return erf(x);
    case Activation::exponential: return whole_exponential(x);
    case Activation::square_root: return square_root(x);
    case Activation::absolute: return absolute(x);
    case Activation::elu: return x > 0.0f ? x : exponential(x) - 1.0f;
    case Activation::leaky_relu: return x > 0.0f ? x : x * slope;
    case Activation::step: return x >= 0.0f ? constant(farthest) : constant(-farthest);
  }
  return x;
}

inline Float sum_as_float(const float* from) { return load<Float>(from); }
inline Float sum_as_float(const std::int32_t* from) { return to_float(load<Int>(from)); }

// A number, or how many units of its scale a code stands for.
inline Float value_at(const void* data, Type type, std::ptrdiff_t at, float zero) {
  if (type == Type::float32) return load<Float>(static_cast<const float*>(data) + at);
  return to_float(widen(load<Byte>(static_cast<const std::uint8_t*>(data) + at))) - zero;
}

// What these are multiplied by.
template <class Sum>
inline Float residual_factor(const Finish<Sum>& f, int first) {
  const Float unit = constant(f.residual_type == Type::float32 ? 1.0f : f.residual_scale);
  return f.residual_factors ? unit * load<Float>(f.residual_factors + first) : unit;
}

inline Float on_grid(Float v, const Grid& grid) {
  const Float steps = smaller(larger(v * grid.inverse_scale, constant(grid.least)), constant(grid.most));
  return to_float(rounded(steps)) * grid.scale;
}

template <class Sum, Activation activation>
void finish_with(const Finish<Sum> f) {  // a copy, as outputs might alias the original
  const int outputs = f.blocks * lanes;
  const Float low = constant(f.low), high = constant(f.high);
  const Float least = constant(-f.zero), most = constant(255.0f - f.zero);
  for (int o = 0; o < outputs; o += width) {
    const Float scale = load<Float>(f.scale + o), bias = load<Float>(f.bias + o), factor = residual_factor(f, o);
    const Float slope = activation == Activation::leaky_relu ? load<Float>(f.slopes + o) : Float{};
    for (int p = 0; p < f.pixel_count; ++p) {
      Float v = sum_as_float(f.sums + p * outputs + o) * scale + bias;
      if (f.rounding.scale > 0) v = on_grid(v, f.rounding);
      if (f.residual)
        v = v + value_at(f.residual, f.residual_type, f.residual_pixels[p] + o, f.residual_zero) * factor;
      v = smaller(high, larger(low, activate(v, activation, slope)));  // NaN stays NaN, but has the lowest code
      const std::ptrdiff_t at = f.output_pixels[p] + o;
      if (f.output_type == Type::float32) {
        store(static_cast<float*>(f.output) + at, v);
      } else {
        v = smaller(larger(v * f.inverse_scale, least), most);
        store(static_cast<std::uint8_t*>(f.output) + at, narrow(rounded(v, std::int32_t(f.zero))));
      }
    }
  }
}

// The same for sums of integers that become codes, with no activation but limits: counted in steps of the output's codes
// all along, which takes fewer operations. Of 4 / vectors pixels at once so many vectors of outputs, from `first` on.
template <bool adds, bool rounds, int vectors>
inline void finish_columns(const Finish<std::int32_t>& f, int first) {
  constexpr int together = 4 / vectors;
  const float low = f.activation == Activation::relu && f.low < 0.0f ? 0.0f : f.low;
  const Float highest = constant(255.0f - f.zero), most = smaller(highest, constant(f.high * f.inverse_scale));
  // Rounding keeps the order of numbers: this limit can be one of codes, which saturate.
  const Int least = nearest(smaller(highest, larger(constant(low * f.inverse_scale), constant(-f.zero))));
  const int zero = int(f.zero);
  const Bytes4 lowest = as_codes({least, least, least, least}, zero);
  const Float grid_least = constant(f.rounding.least), grid_most = constant(f.rounding.most);
  const Float grid_step = constant(f.rounding.scale * f.inverse_scale);
  const float unit = rounds ? f.rounding.inverse_scale : f.inverse_scale;
  Float scale[vectors], bias[vectors], factor[vectors];
  Float offset[vectors];  // of the residual: its zero, and the bias where that is not rounded before
  repeat<vectors>([&](auto i) {
    const int at = first + i * width;
    scale[i] = load<Float>(f.scale + at) * unit, bias[i] = load<Float>(f.bias + at) * unit;
    if constexpr (adds) {
      factor[i] = residual_factor(f, at) * f.inverse_scale, offset[i] = factor[i] * -f.residual_zero;
      if constexpr (!rounds) offset[i] = offset[i] + bias[i];
    }
  });
  // Field by field, as outputs might alias them; a copy of all would wait for what was just written.
  const int outputs = f.blocks * lanes, pixel_count = f.pixel_count;
  const std::int32_t *sums = f.sums + first, *output_pixels = f.output_pixels, *residual_pixels = f.residual_pixels;
  const std::uint8_t* residual = static_cast<const std::uint8_t*>(f.residual) + first;
  std::uint8_t* output = static_cast<std::uint8_t*>(f.output) + first;
  const auto steps = [&](int pixel, auto i) {
    const Float sum = sum_as_float(sums + pixel * outputs + i * width);
    if constexpr (!adds) return fused(sum, scale[i], bias[i]);
    const Float code = to_float(widen(load<Byte>(residual + residual_pixels[pixel] + i * width)));
    const Float added = fused(code, factor[i], offset[i]);
    if constexpr (!rounds) return fused(sum, scale[i], added);
    return fused(whole(smaller(larger(fused(sum, scale[i], bias[i]), grid_least), grid_most)), grid_step, added);
  };
  for (int p = 0; p < pixel_count; p += together) {
    int pixel[together];  // the last one more than once
    repeat<together>([&](auto q) { pixel[q] = p + q < pixel_count ? p + q : pixel_count - 1; });
    Int counts[4];
    repeat<together>([&](auto q) {
      repeat<vectors>([&](auto i) { counts[q * vectors + i] = nearest(smaller(most, steps(pixel[q], i))); });
    });
    Bytes4 codes = as_codes(counts, zero);
    codes = codes > lowest ? codes : lowest;
    Byte each[4];
    store(each, codes);
    repeat<4>([&](auto k) { store(output + output_pixels[pixel[k / vectors]] + k % vectors * width, each[k]); });
  }
}

template <bool adds, bool rounds>
void finish_codes(const Finish<std::int32_t>& f) {
  const int outputs = f.blocks * lanes;
  int o = 0;
  for (; o + 4 * width <= outputs; o += 4 * width) finish_columns<adds, rounds, 4>(f, o);
  for (; o < outputs; o += width) finish_columns<adds, rounds, 1>(f, o);
}

inline bool only_limits(const Finish<std::int32_t>& f) {
  return f.output_type == Type::uint8 && f.activation <= Activation::relu &&
         (f.residual ? f.residual_type == Type::uint8 : f.rounding.scale == 0);
}

template <class Sum>
void finish(const Finish<Sum>& f) {
  if constexpr (std::is_same_v<Sum, std::int32_t>)
    if (only_limits(f))
      return !f.residual              ? finish_codes<false, false>(f)
             : f.rounding.scale == 0 ? finish_codes<true, false>(f)
                                     : finish_codes<true, true>(f);
  switch (f.activation) {
    case Activation::none: return finish_with<Sum, Activation::none>(f);
    case Activation::relu: return finish_with<Sum, Activation::relu>(f);
    case Activation::hard_swish: return finish_with<Sum, Activation::hard_swish>(f);
    case Activation::sigmoid: return finish_with<Sum, Activation::sigmoid>(f);
    case Activation::silu: return finish_with<Sum, Activation::silu>(f);
    case Activation::tanh: return finish_with<Sum, Activation::tanh>(f);
    case Activation::gelu: return finish_with<Sum, Activation::gelu>(f);
    case Activation::erf: return finish_with<Sum, Activation::erf>(f);
    case Activation::exponential: return finish_with<Sum, Activation::exponential>(f);
    case Activation::square_root: return finish_with<Sum, Activation::square_root>(f);
    case Activation::absolute: return finish_with<Sum, Activation::absolute>(f);
    case Activation::elu: return finish_with<Sum, Activation::elu>(f);
    case Activation::leaky_relu: return finish_with<Sum, Activation::leaky_relu>(f);
    case Activation::step: return finish_with<Sum, Activation::step>(f);
  }
}

bool encode(const Encoding& e) {
  const Float least = constant(e.least), most = constant(e.most);
  Int nan{};
  int i = 0;
  for (; i + width <= e.count; i += width) {
    const Float v = load<Float>(e.values + i) / e.scale;
    nan |= v != v;
    store(e.codes + i, narrow(rounded(smaller(larger(v, least), most), e.zero)));
  }
  if (i == e.count) return any(nan);
  float rest[width] = {};
  std::uint8_t codes[width];
  for (int k = 0; i + k < e.count; ++k) rest[k] = e.values[i + k];
  const bool last = encode({rest, width, e.scale, e.least, e.most, e.zero, codes});
  for (int k = 0; i + k < e.count; ++k) e.codes[i + k] = codes[k];
  return last || any(nan);
}

}  // namespace
}  // namespace dovetail::engine
