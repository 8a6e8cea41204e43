// The weights of a layer in a plan: PlanWeights, then the lists that its form has. Weights are in C order (outputs,
// inputs / groups, rows, columns), float32 or int8 as `bytes` says; n is how many there are.
//
//   dense, inputs n weights
//   codes         a table, n codes of `bits` bits without gaps, the first in the lowest bits
//   mask, blocks  n bits, 1 for what is not zero; the nonzeros
//   slots         gaps, the nonzeros
//   coded_slots   a table of float32 that begins with zero, gaps, a code of 8 bits for each nonzero
//   coded_inputs  a table of 16 int8, n codes of 4 bits without gaps
//   signs         one float32, SignWeights' middle; n bits, 1 for +; activations are + from `least` on
//
// A gap is how many zeros lie before the next nonzero; 255 stands for 255 zeros of a longer gap.
// src/dovetail/runtime/engine/plan_weights.py writes it.
#pragma once
#include <cstdint>
#include <memory>

#include "convolution.hpp"
#include "plan_reader.hpp"
#include "weights.hpp"

namespace dovetail::engine {

enum class Form : std::uint8_t { dense, codes, mask, slots, coded_slots, signs, blocks, inputs, coded_inputs };

struct PlanWeights {
  Form form;
  std::uint8_t bytes;  // 1: int8, for activations of uint8
  std::uint8_t bits;   // of a code
  std::uint8_t least;
  std::int32_t outputs, inputs, groups;
};
static_assert(sizeof(PlanWeights) == 16);

// Throws std::invalid_argument where they do not fit together.
std::unique_ptr<Weights> read_weights(PlanReader& reader, const Window& window);

}  // namespace dovetail::engine
