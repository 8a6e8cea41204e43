// LSTM and GRU: what they make of one step after the other. The products with the input are a convolution before.
#pragma once
#include <array>
#include <memory>

#include "operation.hpp"
#include "weights.hpp"

namespace dovetail::engine {

// reads = {gates}, writes = {output}, of float32, a step to a pixel, in one row. A step's output h of the one before:
//
//   lstm  i, o, f = sigmoid, g = tanh of gates + recurrent * h;  c = f * c + i * g;  h = o * tanh(c)
//   gru   z, r = sigmoid of gates + recurrent * h;  h = (1 - z) * n + z * h, where n is, if it is reset afterwards,
//         tanh(gate + r * (recurrent * h + bias)), else tanh(gate + recurrent * (r * h) + bias)
//
// Gates lie in this order (z, r, n), each padded to whole blocks; those of the second direction, which begins at the
// last step, after those of the first.
class Recurrent : public Operation {
 public:
  enum class Kind : std::uint8_t { lstm, gru, gru_reset_after };
  struct Direction {
    std::vector<float> weights;     // (gates * padded, padded): recurrent
    std::vector<float> h, c, bias;  // what it begins with, and n's bias: padded values each
    bool backward;
  };
  Recurrent(const Tensor& gates, const Tensor& output, Kind kind, std::vector<Direction> directions);
  void run(const Run&) const override;
  std::size_t scratch_bytes(int threads) const override;
  std::string kernel() const override;

 private:
  struct Room;
  int gates() const { return kind_ == Kind::lstm ? 4 : 3; }
  void run_images(const Run& run, int direction, int first, int count, const Room& room) const;
  void multiply(const Run& run, const Weights& weights, const float* h, int images, int first, int last,
                const Room& room) const;

  Kind kind_;
  std::vector<Direction> directions_;
  std::vector<std::unique_ptr<Weights>> weights_;  // of each direction, packed
  int channels_, padded_;  // of a direction
  std::vector<float> zeros_;
};

}  // namespace dovetail::engine
