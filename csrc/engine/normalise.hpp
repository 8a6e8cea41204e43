// What looks at all channels of a pixel: layer normalisation and softmax.
#pragma once
#include "operation.hpp"

namespace dovetail::engine {

// reads = {input}, writes = {output}.
class Normalise : public Operation {
 public:
  enum class Kind : std::uint8_t { layer, softmax };
  // `epsilon` is added to the variance; scale and shift of a layer normalisation are the epilogue's.
  Normalise(const Tensor& input, const Tensor& output, Kind kind, float epsilon, Epilogue epilogue);
  void run(const Run&) const override;
  std::size_t scratch_bytes(int threads) const override;
  std::string kernel() const override;

 private:
  Kind kind_;
  float epsilon_;
  int at_once_;  // pixels
  Epilogue epilogue_;
};

}  // namespace dovetail::engine
