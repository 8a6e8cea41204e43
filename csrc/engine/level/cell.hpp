// What an LSTM or a GRU makes of the sums of a step.
#pragma once
#include "finish.hpp"

namespace dovetail::engine {
namespace {

inline Float hyperbolic(Float x) { return activate(x, Activation::tanh); }

// Gate number `gate` of channels i and on, before its activation.
inline Float gate_at(const Cell& cell, int gate, int i) {
  return load<Float>(cell.gates + gate * cell.width + i) + load<Float>(cell.sums + gate * cell.width + i);
}

void lstm(const Cell& cell) {
  for (int i = 0; i < cell.width; i += width) {
    const Float input = sigmoid(gate_at(cell, 0, i)), output = sigmoid(gate_at(cell, 1, i));
    const Float forget = sigmoid(gate_at(cell, 2, i)), candidate = hyperbolic(gate_at(cell, 3, i));
    const Float c = forget * load<Float>(cell.c + i) + input * candidate;
    store(cell.c + i, c);
    store(cell.h + i, output * hyperbolic(c));
  }
}

void gru_reset(const Cell& cell) {
  for (int i = 0; i < cell.width; i += width)
    store(cell.reset + i, sigmoid(gate_at(cell, 1, i)) * load<Float>(cell.h + i));
}

inline void gru_step(const Cell& cell, int i, Float candidate) {
  const Float update = sigmoid(gate_at(cell, 0, i)), h = load<Float>(cell.h + i), n = hyperbolic(candidate);
  store(cell.h + i, (1.0f - update) * n + update * h);
}

void gru(const Cell& cell) {
  for (int i = 0; i < cell.width; i += width) gru_step(cell, i, gate_at(cell, 2, i) + load<Float>(cell.bias + i));
}

void gru_reset_after(const Cell& cell) {
  for (int i = 0; i < cell.width; i += width) {
    const Float sum = load<Float>(cell.sums + 2 * cell.width + i) + load<Float>(cell.bias + i);
    gru_step(cell, i, load<Float>(cell.gates + 2 * cell.width + i) + sigmoid(gate_at(cell, 1, i)) * sum);
  }
}

}  // namespace
}  // namespace dovetail::engine
