// Layer normalisation, softmax and local response normalisation of the channels of a pixel. Sums of all of them are those
// of 16 values next to each other, and then of halves of these, at every level.
#pragma once
#include "finish.hpp"

namespace dovetail::engine {
namespace {

using Two = float __attribute__((vector_size(8)));
using Four = float __attribute__((vector_size(16)));
using Eight = float __attribute__((vector_size(32)));
using Sixteen = float __attribute__((vector_size(64)));

template <class Half, class Vector, class Join>
inline Half joined(const Vector& v, const Join& join) {
  Half halves[2];
  static_assert(sizeof v == sizeof halves);
  __builtin_memcpy(halves, &v, sizeof v);
  return join(halves[0], halves[1]);
}

struct Lanes {
  Float v[block_vectors];

  explicit Lanes(float first) {
    for (Float& each : v) each = constant(first);
  }
  float sum() const {
    return all([](auto a, auto b) { return a + b; });
  }
  float largest() const {
    return all([](auto a, auto b) { return a > b ? a : b; });
  }

 private:
  template <class Join>
  float all(const Join& join) const {
    static_assert(lanes == 16);
    const Eight eight = joined<Eight>(load<Sixteen>(reinterpret_cast<const float*>(v)), join);
    const Two two = joined<Two>(joined<Four>(eight, join), join);
    return join(two[0], two[1]);
  }
};

// Calls step(c, the vector of the accumulators that c belongs to) for all padded channels.
template <class Step>
inline void each_vector(const Normalised& n, const Step& step) {
  for (int c = 0; c < n.padded; c += lanes)
    for (int i = 0; i < block_vectors; ++i) step(c + i * width, i);
}

// The values, each times the unit, and `rest` after the last.
inline void spread_out(const Normalised& n, float rest) {
  int c = 0;
  for (; c + width <= n.channels; c += width) store(n.result + c, load<Float>(n.values + c) * n.unit);
  for (; c < n.channels; ++c) n.result[c] = n.values[c] * n.unit;
  for (; c < n.padded; ++c) n.result[c] = rest;
}

void layer(const Normalised& n) {
  spread_out(n, 0);
  Lanes sums(0), squares(0);
  each_vector(n, [&](int c, int i) { sums.v[i] += load<Float>(n.result + c); });
  const float mean = sums.sum() / float(n.channels);
  each_vector(n, [&](int c, int) { store(n.result + c, load<Float>(n.result + c) - mean); });
  for (int c = n.channels; c < n.padded; ++c) n.result[c] = 0;
  each_vector(n, [&](int c, int i) {
    const Float v = load<Float>(n.result + c);
    squares.v[i] += v * v;
  });
  const Float deviation = square_root(constant(squares.sum() / float(n.channels) + n.epsilon));
  const Float factor = 1.0f / deviation;
  each_vector(n, [&](int c, int) { store(n.result + c, load<Float>(n.result + c) * factor); });
}

void softmax(const Normalised& n) {
  spread_out(n, n.values[0] * n.unit);
  Lanes most(n.result[0]), sums(0);
  each_vector(n, [&](int c, int i) { most.v[i] = larger(load<Float>(n.result + c), most.v[i]); });
  const float largest = most.largest();
  each_vector(n, [&](int c, int i) {
    const Float v = exponential(load<Float>(n.result + c) - largest);
    store(n.result + c, v);
    if (c + width <= n.channels) sums.v[i] += v;
  });
  for (int c = n.channels; c < n.padded; ++c) n.result[c] = 0;
  each_vector(n, [&](int c, int i) {
    if (c < n.channels && n.channels < c + width) sums.v[i] += load<Float>(n.result + c);
  });
  const Float factor = constant(1 / sums.sum());
  each_vector(n, [&](int c, int) { store(n.result + c, load<Float>(n.result + c) * factor); });
}

inline Float raised(Float v, float power) {
  if (power == 1.0f) return v;
  if (power == 0.5f) return square_root(v);
  if (power == 0.75f) return square_root(v) * square_root(square_root(v));
  for (int i = 0; i < width; ++i) v[i] = __builtin_powf(v[i], power);
  return v;
}

void local_response(const Normalised& n) {
  spread_out(n, 0);
  const Response& r = n.response;
  for (int i = 0; i < r.before; ++i) n.squares[i] = 0;
  for (int i = 0; i < r.after; ++i) n.squares[r.before + n.padded + i] = 0;
  each_vector(n, [&](int c, int) {
    const Float v = load<Float>(n.result + c);
    store(n.squares + r.before + c, v * v);
  });
  each_vector(n, [&](int c, int) {
    Float sum = load<Float>(n.squares + c);
    for (int i = 1; i <= r.before + r.after; ++i) sum += load<Float>(n.squares + c + i);
    store(n.result + c, load<Float>(n.result + c) / raised(sum * r.factor + r.offset, r.power));
  });
  for (int c = n.channels; c < n.padded; ++c) n.result[c] = 0;
}

}  // namespace
}  // namespace dovetail::engine
