// Matrix products of two activations, as in attention. Those by weights are convolutions (convolution.hpp).
#pragma once
#include "operation.hpp"

namespace dovetail::engine {

// reads = {a, b} or {a, b, residual}, of float32; writes = {output}. In each row, pixels of a by channels of a times
// pixels of b by channels of b: a row is a head of attention.
class Product : public Operation {
 public:
  Product(const Tensor& a, const Tensor& b, const Tensor& output, Epilogue epilogue);
  void run(const Run&) const override;
  std::size_t scratch_bytes(int threads) const override;
  std::string kernel() const override;

 private:
  void multiply_row(const Run& run, int image, int row, float* room) const;

  Epilogue epilogue_;
  std::vector<float> zeros_;  // what sums begin with
  std::size_t panels_;        // floats of one row of b, packed
};

}  // namespace dovetail::engine
