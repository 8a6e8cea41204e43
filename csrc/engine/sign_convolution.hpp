// Convolutions of signs by signs: what is read is one of two numbers, and so is every weight of an output.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "operation.hpp"
#include "weights.hpp"
#include "window.hpp"

namespace dovetail::engine {

// Weights of which only the sign counts, 1 for +, in C order (outputs, inputs, rows, columns), and how the activations
// that they are multiplied with are read: codes from `least` on are +, of float32 numbers from 0 on. A sign s of these
// stands for `middle` + s. Throws std::invalid_argument where there are groups.
class SignWeights final : public Weights {
 public:
  SignWeights(std::vector<std::uint8_t> signs, Type activations, int least, float middle, const WeightShape& shape);
  bool positive(int output, int channel, int row, int column) const {
    return signs_[((std::size_t(output) * shape.inputs + channel) * shape.rows + row) * shape.columns + column];
  }
  // Of all channels of one tap.
  int sum(int output, int row, int column) const { return sums_[(output * shape.rows + row) * shape.columns + column]; }
  // There is no dense product of them: convolve (convolution.hpp) makes an operation of their own.
  Panel panel(const Primitives&, int, int, int, int, std::byte*) const override { return {}; }
  std::vector<std::int32_t> row_sums() const override { return {}; }
  std::size_t bytes_stored() const override { return (signs_.size() + 7) / 8; }
  std::string kind() const override { return "signs of both"; }

  const WeightShape shape;
  const int least;
  const float middle;

 private:
  std::vector<std::uint8_t> signs_;
  std::vector<int> sums_;
};

// reads = {input} or {input, residual}; writes = {output}. What lies outside of the image counts nothing. Throws
// std::invalid_argument where these do not fit together.
//
// The signs of an image are packed first, all channels of a pixel next to each other, so that a row of taps is a run of
// bits. Outputs whose windows reach out of the image in the same way are computed together: masks leave out what is not
// inside, and as `middle` times the weights' sum depends on that, they have a bias of their own.
class SignConvolution : public Operation {
 public:
  SignConvolution(const Tensor& input, const Tensor& output, const Window& window, const SignWeights& weights,
                  Epilogue epilogue);
  void run(const Run&) const override;
  std::size_t scratch_bytes(int threads) const override { return threads * scratch_of_thread_; }
  std::size_t weight_bytes() const override { return words_.size() * sizeof(std::uint32_t); }
  std::string kernel() const override { return "convolution of signs"; }

 private:
  // Outputs that read the same taps, and where their masks and biases begin.
  struct Group {
    int first_run, runs, all;
    std::size_t masks, biases;
  };
  // Some outputs of a group, next to each other in rows_ and columns_.
  struct Chunk {
    int group, first, count;
  };

  void pack_weights(const SignWeights& weights, const Tensor& input);
  void add_group(const SignWeights& weights, const Range& rows, const Range& columns);
  void locate(const Chunk& chunk, std::ptrdiff_t row, std::ptrdiff_t column, std::ptrdiff_t start,
              std::int32_t* offsets) const;
  void read_image(const Run& run, int image, std::uint16_t* signs) const;
  void run_chunk(const Run& run, int image, int tile, const Chunk& chunk, const std::uint16_t* signs,
                 std::int32_t* sums) const;

  Window window_;
  Epilogue epilogue_;
  int blocks_, least_, halves_;          // halves of words of a pixel
  std::vector<SignRun> runs_;            // row by row
  std::size_t words_of_block_ = 0;
  std::vector<std::uint32_t> words_, masks_;  // [block][word][16], [group][word]
  std::vector<float> biases_;
  std::vector<Group> groups_;
  std::vector<Chunk> chunks_;
  std::vector<std::int32_t> rows_, columns_;  // of the outputs, group by group
  std::size_t slack_, scratch_of_thread_;  // halves of words on both sides of an image, that masks leave out
  std::int64_t products_ = 0;              // of one image
};

}  // namespace dovetail::engine
