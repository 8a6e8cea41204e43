// Arithmetic on each value: of one tensor, of two of the same shape, or of one and a vector for all its pixels, or a
// number for each of them.
#pragma once
#include "operation.hpp"

namespace dovetail::engine {

enum class Arithmetic : std::uint8_t { none, add, subtract, multiply, divide, maximum, minimum, reciprocal };

constexpr bool takes_two(Arithmetic arithmetic) {
  return arithmetic != Arithmetic::none && arithmetic != Arithmetic::reciprocal;
}

// reads = {a} or {a, b}; writes = {output}: the epilogue of `a (arithmetic) b`, or of 1 / a. Maxima and minima are of
// two tensors of the same shape.
class Elementwise : public Operation {
 public:
  Elementwise(const Tensor& a, const Tensor* b, const Tensor& output, Arithmetic arithmetic, Epilogue epilogue);
  void run(const Run&) const override;
  std::size_t scratch_bytes(int threads) const override;
  std::string kernel() const override;

 private:
  void spread(const Run& run, float* room) const;
  void combine(const Run& run, float* room) const;
  void repeat(const Place& b, int image, int row, int first, int count, float* to) const;

  Arithmetic arithmetic_;
  bool numbers_;  // b is one channel for all of a's
  bool vector_;   // b is one pixel for all of a's
  Epilogue epilogue_;
  int pixels_, channels_, padded_;
};

}  // namespace dovetail::engine
