// Weights of which only the sign counts, as of the activations.
#include "stored_base.hpp"

namespace dovetail::engine {

namespace {

class SignWeights final : public StoredWeights {
 public:
  SignWeights(const std::uint8_t* signs, Type activations, int zero, const WeightShape& shape)
      : StoredWeights(shape, activations),
        zero_(zero),
        words_of_tap_(divide_up(shape.inputs, 32)),
        words_(std::size_t(blocks()) * taps * words_of_tap_ * lanes) {
    if (shape.groups > 1)
      throw std::invalid_argument("weights as signs: groups have zeros between them, which have no sign");
    for (std::int64_t i = 0; i < size(); ++i) {
      const Position at = position(i);
      const std::size_t word = std::size_t(at.tap) * words_of_tap_ + at.channel / 32;
      block_words(at.block)[word * lanes + at.lane] |= std::uint32_t(signs[i]) << at.channel % 32;
    }
  }

  // Never asked for: there is no dense product of signs.
  Panel panel(const Primitives&, int, int, int, int, std::byte*) const override { return {}; }
  bool direct(std::int64_t) const override { return true; }
  void product(const Primitives& p, int block, const ByteProduct& tile) const override {
    p.signs_uint8(tile, {block_words(block), shape_.inputs, zero_});
  }
  void product(const Primitives& p, int block, const FloatProduct& tile) const override {
    p.signs_float32(tile, {block_words(block), shape_.inputs, 0});
  }
  std::size_t bytes_stored() const override { return std::size_t(blocks()) * taps * words_of_tap_ * lanes * 4; }
  std::string kind() const override { return "signs of both"; }

 private:
  std::uint32_t* block_words(int block) const {
    return words_.data() + std::size_t(block) * taps * words_of_tap_ * lanes;
  }

  int zero_, words_of_tap_;
  Aligned<std::uint32_t> words_;
};

}  // namespace

std::unique_ptr<Weights> pack_signs(const std::uint8_t* signs, Type activations, int zero, const WeightShape& shape) {
  return std::make_unique<SignWeights>(signs, activations, zero, shape);
}

}  // namespace dovetail::engine
