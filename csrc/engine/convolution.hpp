// Convolutions and matrix products, straight on the activations: no matrix of patches is made.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "operation.hpp"
#include "weights.hpp"

namespace dovetail::engine {

// Where the weights of a convolution lie on the image. Rows, then columns. The padding is the one above and to the left;
// the border of the input is as wide as the largest of all four sides.
struct Window {
  int size[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1}, padding[2] = {0, 0};
};

// reads = {input} or {input, residual}; writes = {output}. A matrix product of a sequence or a batch of vectors is a
// convolution by a window of one pixel; a vector product after flattening has a window as large as the image.
class Convolution : public Operation {
 public:
  Convolution(const Tensor& input, const Tensor& output, Window window, std::unique_ptr<Weights> weights,
              Epilogue epilogue);
  void run(const Run&) const override;
  std::size_t scratch_bytes(int threads) const override;
  std::string kernel() const override;

 private:
  Window window_;
  std::unique_ptr<Weights> weights_;
  Epilogue epilogue_;
  std::vector<std::int32_t> taps_;   // offsets in elements from the window's first pixel
  std::vector<std::int32_t> start_;  // - zero of the input * sum of the output's weights; what sums begin with
};

// One weight for each tap and channel, outputs = inputs. Weights in C order (channels, 1, rows, columns).
class Depthwise : public Operation {
 public:
  Depthwise(const Tensor& input, const Tensor& output, Window window, const float* weights, Epilogue epilogue);
  Depthwise(const Tensor& input, const Tensor& output, Window window, const std::int8_t* weights, Epilogue epilogue);
  void run(const Run&) const override;
  std::size_t scratch_bytes(int threads) const override;
  std::string kernel() const override;

 private:
  Window window_;
  Epilogue epilogue_;
  std::vector<float> weights_;              // [block][tap][16]
  std::vector<std::int32_t> integers_, start_;
  std::vector<std::int32_t> taps_;
};

}  // namespace dovetail::engine
