// Convolutions and matrix products, straight on the activations: no matrix of patches is made.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "operation.hpp"
#include "weights.hpp"
#include "window.hpp"

namespace dovetail::engine {

// reads = {input} or {input, residual}; writes = {output}. A matrix product of a sequence or a batch of vectors is a
// convolution by a window of one pixel; a vector product after flattening has a window as large as the image. The border
// of the input is as wide as the largest padding of the four sides. Throws std::invalid_argument where these do not fit
// together.
class Convolution : public Operation {
 public:
  Convolution(const Tensor& input, const Tensor& output, Window window, std::unique_ptr<Weights> weights,
              Epilogue epilogue);
  void run(const Run&) const override;
  std::size_t scratch_bytes(int threads) const override;
  std::size_t weight_bytes() const override { return weights_->bytes_stored(); }
  std::string kernel() const override;

 private:
  template <class Input, class Weight, class Sum>
  void run_nest(const Run& run, const std::vector<Sum>& start, void (*product)(const Tile<Input, Weight, Sum>&),
                void (*finish)(const Finish<Sum>&)) const;

  Window window_;
  std::vector<Range> inside_[2];          // taps inside of the image for every row of outputs, for every column
  std::unique_ptr<Weights> weights_;
  Epilogue epilogue_;
  std::vector<std::int32_t> taps_;        // offsets in elements from the window's first pixel
  int taps_in_one_ = 1;                   // a row of taps that read all channels is one: pixels follow each other
  std::vector<std::int32_t> start_;       // what sums begin with: - zero of the input * sum of the output's weights
  std::vector<float> zeros_;              // the same for float32
  std::int64_t multiplications_ = 0;      // for one image
};

// The same, or of signs (sign_convolution.hpp) where the weights are such.
std::unique_ptr<Operation> convolve(const Tensor& input, const Tensor& output, const Window& window,
                                    std::unique_ptr<Weights> weights, Epilogue epilogue);

}  // namespace dovetail::engine
