// Weights of which many are zero for all 16 outputs of a block: only the steps that are left are packed and multiplied.
#include "stored_base.hpp"

namespace dovetail::engine {

namespace {

template <class Value>
class StepWeights final : public StoredWeights {
 public:
  StepWeights(const Nonzeros<Value>& nonzeros, const WeightShape& shape)
      : StoredWeights(shape, sizeof(Value) == 1 ? Type::uint8 : Type::float32) {
    std::vector<std::int32_t> numbers = used(nonzeros);
    for (int block = 0, i = 0; block < blocks(); ++block) {
      firsts_.push_back(int(steps_.size()));
      for (int step = 0; step < all_steps(block); ++step, ++i) {
        if (numbers[i] == 0 && step > 0) continue;  // a block has one step at least
        numbers[i] = int(steps_.size());
        const int of_tap = spans[block].count / each;
        steps_.push_back({step / of_tap, step % of_tap * each});
      }
    }
    firsts_.push_back(int(steps_.size()));
    values_ = Aligned<Value>(steps_.size() * per_step);
    for (std::int64_t i = 0; i < nonzeros.count; ++i) {
      const Position at = position(nonzeros.places[i]);
      values_.data()[numbers[number(at)] * std::size_t(per_step) + at.lane * each + at.channel % each] =
          nonzeros.values[i];
      sums_[at.block * lanes + at.lane] += std::int32_t(sizeof(Value) == 1 ? nonzeros.values[i] : 0);
    }
  }

  void locate(const std::vector<std::int32_t>& taps) override {
    offsets_.clear();
    for (const Step& step : steps_) offsets_.push_back(taps[step.tap] + step.channel);
  }
  // Never asked for.
  Panel panel(const Primitives&, int, int, int, int, std::byte*) const override { return {}; }
  bool direct(std::int64_t) const override { return true; }
  void product(const Primitives& p, int block, const ByteProduct& tile) const override {
    p.steps_uint8(tile, steps(block));
  }
  void product(const Primitives& p, int block, const FloatProduct& tile) const override {
    p.steps_float32(tile, steps(block));
  }
  std::size_t bytes_stored() const override {
    return steps_.size() * (per_step * sizeof(Value) + sizeof(std::int32_t));
  }
  std::string kind() const override {
    return std::string("block-sparse ") + (sizeof(Value) == 1 ? "int8" : "float32");
  }

 private:
  static constexpr int each = 4 / sizeof(Value), per_step = each * lanes;
  struct Step {
    int tap, channel;  // the first one, counted from the block's
  };

  int all_steps(int block) const { return columns(block) / each; }
  // Of a weight's step, among those of all blocks.
  std::size_t number(const Position& at) const {
    return before_[at.block] + at.tap * (spans[at.block].count / each) + at.channel / each;
  }
  // 1 for each step that is not zero.
  std::vector<std::int32_t> used(const Nonzeros<Value>& nonzeros) {
    std::size_t count = 0;
    for (int block = 0; block < blocks(); ++block) before_.push_back(count), count += all_steps(block);
    std::vector<std::int32_t> found(count);
    for (std::int64_t i = 0; i < nonzeros.count; ++i) found[number(position(nonzeros.places[i]))] = 1;
    return found;
  }
  Steps steps(int block) const {
    const int first = firsts_[block];
    return {values_.data() + std::size_t(first) * per_step, offsets_.data() + first, firsts_[block + 1] - first};
  }

  std::vector<std::size_t> before_;  // steps of the blocks before, zero or not
  std::vector<int> firsts_;          // of each block; last, how many there are
  std::vector<Step> steps_;
  std::vector<std::int32_t> offsets_;
  Aligned<Value> values_{0};
};

}  // namespace

std::unique_ptr<Weights> pack_steps(const Nonzeros<float>& nonzeros, const WeightShape& shape) {
  return std::make_unique<StepWeights<float>>(nonzeros, shape);
}
std::unique_ptr<Weights> pack_steps(const Nonzeros<std::int8_t>& nonzeros, const WeightShape& shape) {
  return std::make_unique<StepWeights<std::int8_t>>(nonzeros, shape);
}

}  // namespace dovetail::engine
