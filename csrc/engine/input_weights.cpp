// Weights input by input: what belongs to inputs that are zero is not read. For one pixel; for more they are packed
// densely as well, when they are first needed so.
#include <cstring>
#include <mutex>
#include <type_traits>

#include "stored_base.hpp"

namespace dovetail::engine {

namespace {

// Value is std::int8_t, float, or std::uint8_t: a code into a table of 16 bytes.
template <class Value>
class InputWeights final : public StoredWeights {
 public:
  InputWeights(const Value* values, const std::int8_t* table, const WeightShape& shape)
      : StoredWeights(shape, bytes ? Type::uint8 : Type::float32),
        rows_(std::size_t(columns(0)) * row_bytes()) {
    if (shape.groups > 1)
      throw std::invalid_argument("weights input by input: in groups an input has weights for some outputs only");
    for (int i = 0; coded && i < 4 * entries; ++i) table_.push_back(table[i % entries]);
    each([&](const Position& at, std::int64_t number) { put(at, values[number]); });
  }

  Panel panel(const Primitives& p, int first_block, int blocks, int first, int count, std::byte* room) const override {
    std::call_once(packed_, [&] {
      std::vector<Weight> values(size());
      each([&](const Position& at, std::int64_t number) { values[number] = weight(at); });
      dense_ = pack(values.data(), shape_);
    });
    return dense_->panel(p, first_block, blocks, first, count, room);
  }
  bool direct(std::int64_t pixels) const override { return pixels == 1; }
  Together together() const override { return {unit_outputs / lanes, row_outputs / lanes}; }
  void product(const Primitives& p, int block, const ByteProduct& tile) const override {
    p.inputs_uint8(tile, rows(block));
  }
  void product(const Primitives& p, int block, const FloatProduct& tile) const override {
    p.inputs_float32(tile, rows(block));
  }
  std::size_t bytes_stored() const override { return columns(0) * row_bytes(); }
  std::string kind() const override {
    return std::string(coded ? "4-bit codes into int8" : bytes ? "int8" : "float32") + " by input";
  }

 private:
  static constexpr bool coded = std::is_same_v<Value, std::uint8_t>, bytes = !std::is_same_v<Value, float>;
  static constexpr int entries = 16;
  static constexpr int unit_outputs = coded ? 128 : 64 / int(sizeof(Value));  // in 64 bytes
  using Weight = std::conditional_t<bytes, std::int8_t, float>;

  std::size_t row_bytes() const { return std::size_t(64) * divide_up(outputs, unit_outputs); }
  InputRows rows(int block) const {
    return {.rows = rows_.data() + block * lanes / unit_outputs * 64,
            .row_bytes = std::ptrdiff_t(row_bytes()),
            .channels = shape_.inputs,
            .table = coded ? table_.data() : nullptr};
  }
  // Where a weight lies; of codes, those from bit `shift` on.
  std::uint8_t* place(const Position& at) const {
    const int output = at.block * lanes + at.lane, unit = output / unit_outputs;
    const std::size_t in_unit = coded ? output % 64 : output % unit_outputs * sizeof(Value);
    return rows_.data() + column(at) * row_bytes() + unit * 64 + in_unit;
  }
  static int shift(const Position& at) { return at.block * lanes % 128 / 64 * 4; }

  Weight weight(const Position& at) const {
    Value value;
    std::memcpy(&value, place(at), sizeof value);
    if constexpr (coded) return table_[value >> shift(at) & (entries - 1)];
    else return value;
  }
  void put(const Position& at, Value value) {
    if constexpr (coded) *place(at) |= std::uint8_t(value << shift(at));
    else std::memcpy(place(at), &value, sizeof value);
    sums_[at.block * lanes + at.lane] += std::int32_t(coded ? table_[value] : bytes ? value : 0);
  }
  // Every weight's position, in the order in which they lie, and its number in C order.
  template <class Use>
  void each(const Use& use) const {
    for (int block = 0; block < blocks(); ++block)
      for (int tap = 0; tap < taps; ++tap)
        for (int channel = 0; channel < shape_.inputs; ++channel)
          for (int lane = 0, output = block * lanes; lane < lanes && output < outputs; ++lane, ++output)
            use({block, lane, tap, channel}, (std::int64_t(output) * shape_.inputs + channel) * taps + tap);
  }

  std::vector<std::int8_t> table_;  // its entries four times
  Aligned<std::uint8_t> rows_;
  mutable std::once_flag packed_;
  mutable std::unique_ptr<Weights> dense_;
};

}  // namespace

std::unique_ptr<Weights> pack_inputs(const float* weights, const WeightShape& shape) {
  return std::make_unique<InputWeights<float>>(weights, nullptr, shape);
}
std::unique_ptr<Weights> pack_inputs(const std::int8_t* weights, const WeightShape& shape) {
  return std::make_unique<InputWeights<std::int8_t>>(weights, nullptr, shape);
}
std::unique_ptr<Weights> pack_inputs(const std::uint8_t* codes, const std::int8_t* table, const WeightShape& shape) {
  return std::make_unique<InputWeights<std::uint8_t>>(codes, table, shape);
}

}  // namespace dovetail::engine
