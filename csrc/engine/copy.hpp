// Everything that only moves values: input and output, slice, pad, concatenate, transpose, reshape, repeat, and changes
// of type on the way.
#pragma once
#include <array>

#include "operation.hpp"

namespace dovetail::engine {

// One of the nested loops of a copy: how often, and how many rows, columns and channels a step goes in either tensor.
struct Loop {
  int count;
  std::array<int, 3> from, to;
};

// A box of values: where it begins in either tensor, and its loops. Values are repeated by a loop that stands still.
struct Box {
  std::array<int, 3> from, to;
  std::vector<Loop> loops;
};

// reads: one tensor for each list of boxes; writes: one. What no box covers is zero.
class Copy : public Operation {
 public:
  // Codes that are made stand for `low` to `high`.
  Copy(const std::vector<Tensor>& inputs, const Tensor& output, const std::vector<std::vector<Box>>& boxes, float low,
       float high);
  // Throws std::domain_error where a number that has no code, as NaN has none, should get one.
  void run(const Run&) const override;
  std::string kernel() const override;

 private:
  struct Stride {
    int count;
    std::ptrdiff_t from, to;  // in elements
  };
  struct Part {
    int input;
    std::ptrdiff_t from, to;
    std::vector<Stride> strides;  // the outermost first; one at least
  };

  bool copy(const Part& part, const Place& input, const Place& output, const Primitives& primitives, int image) const;

  std::vector<Part> parts_;
  bool covers_;  // the whole image, padding included
  float low_, high_;
};

}  // namespace dovetail::engine
