// One step of a program: reads activations, writes activations, holds its weights.
#pragma once
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "primitives.hpp"
#include "tensor.hpp"
#include "threads.hpp"

namespace dovetail::engine {

using Id = int;  // of a tensor of the program

struct Place {
  const Tensor* tensor;
  std::byte* data;
};

// What a step is run with: where each of its tensors lies, in the order of `reads`, then of `writes`.
struct Run {
  int batch;
  std::span<const Place> reads, writes;
  std::byte* scratch;  // scratch_bytes(threads.size()) bytes
  Threads& threads;
  const Primitives& primitives;
};

class Operation {
 public:
  std::vector<Id> reads, writes;
  virtual ~Operation() = default;
  virtual void run(const Run&) const = 0;
  virtual std::size_t scratch_bytes(int threads) const { return 0 * threads; }
  virtual std::size_t weight_bytes() const { return 0; }
  // For people: the kernel that runs it, as "direct convolution, int8, 4-bit codebook".
  virtual std::string kernel() const = 0;
};

// What happens to a sum before it is written, in this order: times scale, plus bias, (rounded to a grid), (plus the
// residual times its factors), activation, limits; where the output is uint8, then times 1 / its scale, rounded to even,
// and its zero added. Sums of integers that become uint8, with limits only and nothing added but uint8, are counted in
// the output's steps from the start: scale, bias and factors are times 1 / its scale first.
struct Epilogue {
  std::vector<float> scale, bias;  // one for each (padded) output channel
  Grid rounding;
  std::vector<float> residual;     // factors of reads.back(), as scale; empty: nothing is added
  Activation activation = Activation::none;
  std::vector<float> slopes;       // of a leaky_relu, as scale
  float low = -std::numeric_limits<float>::infinity(), high = std::numeric_limits<float>::infinity();
};

// Whether it has numbers for so many (padded) outputs.
inline bool fits(const Epilogue& epilogue, std::size_t outputs) {
  return epilogue.scale.size() == outputs && epilogue.bias.size() == outputs &&
         (epilogue.residual.empty() || epilogue.residual.size() == outputs) &&
         epilogue.slopes.size() == (epilogue.activation == Activation::leaky_relu ? outputs : 0);
}

}  // namespace dovetail::engine
