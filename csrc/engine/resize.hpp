// Images made larger or smaller.
#pragma once
#include "operation.hpp"

namespace dovetail::engine {

// A row or column of the output lies between two of the input: (1 - share) * first + share * second.
struct Between {
  int first, second;
  float share;
};

// reads = {input}, writes = {output}. Nearest pixels have a share of 0.
class Resize : public Operation {
 public:
  Resize(const Tensor& input, const Tensor& output, std::vector<Between> rows, std::vector<Between> columns,
         Epilogue epilogue);
  void run(const Run&) const override;
  std::size_t scratch_bytes(int threads) const override;
  std::string kernel() const override { return "resize"; }

 private:
  std::vector<Between> rows_, columns_;
  Epilogue epilogue_;
};

}  // namespace dovetail::engine
