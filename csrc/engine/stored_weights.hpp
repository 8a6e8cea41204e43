// Weights executed as they are stored: codes, masks with nonzeros, slots of few nonzeros, nonzero blocks; or input by
// input, so that what inputs of zero would be multiplied with is not read.
#pragma once
#include "weights.hpp"

namespace dovetail::engine {

// Weights in C order (outputs, inputs / groups, rows, columns), each a code of up to 8 bits. Float32 activations take
// them from a table of floats, uint8 ones from one of bytes, of 256 entries each.
std::unique_ptr<Weights> pack_codes(const std::uint8_t* codes, int bits, const float* table, const WeightShape& shape);
std::unique_ptr<Weights> pack_codes(const std::uint8_t* codes, int bits, const std::int8_t* table,
                                    const WeightShape& shape);

// Places of nonzeros in this order, ascending, and what is there.
template <class Value>
struct Nonzeros {
  const std::int64_t* places;
  const Value* values;
  std::int64_t count;
};

std::unique_ptr<Weights> pack_mask(const Nonzeros<float>& nonzeros, const WeightShape& shape);
std::unique_ptr<Weights> pack_mask(const Nonzeros<std::int8_t>& nonzeros, const WeightShape& shape);

std::unique_ptr<Weights> pack_slots(const Nonzeros<float>& nonzeros, const WeightShape& shape);
std::unique_ptr<Weights> pack_slots(const Nonzeros<std::int8_t>& nonzeros, const WeightShape& shape);
std::unique_ptr<Weights> pack_steps(const Nonzeros<float>& nonzeros, const WeightShape& shape);
std::unique_ptr<Weights> pack_steps(const Nonzeros<std::int8_t>& nonzeros, const WeightShape& shape);

// Codes into a table of `entries` floats, 256 at most, whose first one is 0.
std::unique_ptr<Weights> pack_slots(const Nonzeros<std::uint8_t>& nonzeros, const float* table, int entries,
                                    const WeightShape& shape);

// Dense weights in C order, of one group; or codes of 4 bits into a table of 16 bytes.
std::unique_ptr<Weights> pack_inputs(const float* weights, const WeightShape& shape);
std::unique_ptr<Weights> pack_inputs(const std::int8_t* weights, const WeightShape& shape);
std::unique_ptr<Weights> pack_inputs(const std::uint8_t* codes, const std::int8_t* table, const WeightShape& shape);

}  // namespace dovetail::engine
