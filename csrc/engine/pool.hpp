// Maxima and means over windows of an image.
#pragma once
#include <array>

#include "convolution.hpp"

namespace dovetail::engine {

// reads = {input}, writes = {output}. What lies outside the image does not count, but in a mean over `padded` windows,
// where the padding, below and on the right as wide as given, counts as zeros.
class Pool : public Operation {
 public:
  enum class Kind : std::uint8_t { maximum, mean, padded_mean };
  Pool(const Tensor& input, const Tensor& output, const Window& window, std::array<int, 2> padding_after, Kind kind,
       Epilogue epilogue);
  void run(const Run&) const override;
  std::size_t scratch_bytes(int threads) const override;
  std::string kernel() const override;

 private:
  struct Range {
    int first, last, counted;  // taps within the image, and those that count
  };
  Range range(int axis, int position) const;
  template <class T, class Sum>
  void reduce(const Run& run, int image, int row, int column, Sum* sums) const;

  Window window_;
  std::array<int, 2> sides_, padding_after_;
  Kind kind_;
  Epilogue epilogue_;
};

}  // namespace dovetail::engine
