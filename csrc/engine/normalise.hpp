// What looks at all channels of a pixel: layer normalisation, softmax, local response normalisation.
#pragma once
#include "operation.hpp"

namespace dovetail::engine {

// reads = {input}, writes = {output}.
class Normalise : public Operation {
 public:
  enum class Kind : std::uint8_t { layer, softmax, local_response };
  // `epsilon` is added to the variance; scale and shift of a layer normalisation are the epilogue's.
  Normalise(const Tensor& input, const Tensor& output, Kind kind, float epsilon, Response response, Epilogue epilogue);
  void run(const Run&) const override;
  std::size_t scratch_bytes(int threads) const override;
  std::string kernel() const override;

 private:
  std::size_t room_of_thread() const;

  Kind kind_;
  float epsilon_;
  Response response_;
  int at_once_;  // pixels
  Epilogue epilogue_;
};

}  // namespace dovetail::engine
