#include "stored_base.hpp"

namespace dovetail::engine {

namespace {

constexpr std::int64_t few_pixels = 16;  // for more, decoding once for all of them is faster

// Weight is std::int8_t or float: that of the table.
template <class Weight>
class CodeWeights final : public StoredWeights {
 public:
  CodeWeights(const std::uint8_t* codes, int bits, const Weight* table, const WeightShape& shape)
      : StoredWeights(shape, sizeof(Weight) == 1 ? Type::uint8 : Type::float32),
        bits_(bits),
        table_(table, table + 256),
        data_(unit_count() * 64 * bits) {
    if (shape.groups > 1)
      throw std::invalid_argument("weights as codes: groups have zeros between them, which have no code");
    for (std::int64_t i = 0; i < size(); ++i) put(position(i), codes[i]);
    if (type == Type::uint8 && shape.inputs % 4) fill_up();
    if (type == Type::uint8) sum_rows();
  }

  Panel panel(const Primitives& p, int first_block, int blocks, int first, int count, std::byte* room) const override {
    return decoded<Weight>(first_block, blocks, first, count, room, [&](int block, int group, int groups, Weight* to) {
      if constexpr (sizeof(Weight) == 1) p.codes.decode_int8(coded(block), group, groups, to);
      else p.codes.decode_float32(coded(block), group, groups, to);
    });
  }
  bool direct(std::int64_t pixels) const override { return pixels <= few_pixels && whole_units(); }
  void product(const Primitives& p, int block, const ByteProduct& tile) const override {
    p.codes.product_uint8(tile, coded(block));
  }
  void product(const Primitives& p, int block, const FloatProduct& tile) const override {
    p.codes.product_float32(tile, coded(block));
  }
  std::size_t bytes_stored() const override { return unit_count() * 64 * bits_; }
  std::string kind() const override {
    return std::to_string(bits_) + "-bit codes into " + (type == Type::uint8 ? "int8" : "float32");
  }

 private:
  std::size_t unit_count() const { return std::size_t(blocks()) * units(0); }
  Coded coded(int block) const { return {unit(block, 0), bits_, table_.data()}; }
  std::uint8_t* unit(int block, int number) const {
    return data_.data() + (std::size_t(block) * units(0) + number) * 64 * bits_;
  }

  void put(const Position& at, int code) {
    const int column = this->column(at), group = column / 4 % unit_groups, byte = 4 * at.lane + column % 4;
    std::uint8_t* to = unit(at.block, column / unit_columns) + byte;
    if (bits_ == 8) to[64 * group] = std::uint8_t(code);
    for (int plane = 4, first = 0; plane && bits_ < 8; plane /= 2) {
      if (!(bits_ & plane)) continue;
      const int per_vector = 8 / plane;
      to[64 * (first + group / per_vector)] |= (code & ((1 << plane) - 1)) << (plane * (group % per_vector));
      first += plane, code >>= plane;
    }
  }

  // The channels that only fill up a tap's last group: what they are multiplied with may be any number.
  void fill_up() {
    const Weight* zero = std::find(table_.data(), table_.data() + (1 << bits_), Weight(0));
    if (zero == table_.data() + (1 << bits_))
      throw std::invalid_argument("weights as codes: channels are filled up to a multiple of four, and no code is zero");
    for (int block = 0; block < blocks(); ++block)
      for (int tap = 0; tap < taps; ++tap)
        for (int channel = shape_.inputs; channel < spans[block].count; ++channel)
          for (int lane = 0; lane < lanes; ++lane) put({block, lane, tap, channel}, int(zero - table_.data()));
  }

  void sum_rows() {
    std::vector<Weight> all(std::size_t(divide_up(columns(0), 4)) * 4 * lanes);
    for (int block = 0; block < blocks(); ++block) {
      primitives("plain").codes.decode_int8(coded(block), 0, divide_up(columns(0), 4),
                                            reinterpret_cast<std::int8_t*>(all.data()));
      for (std::size_t i = 0; i < all.size(); ++i) sums_[block * lanes + i / 4 % lanes] += std::int32_t(all[i]);
    }
  }

  int bits_;
  std::vector<Weight> table_;
  Aligned<std::uint8_t> data_;
};

template <class Value>
class MaskWeights final : public StoredWeights {
 public:
  MaskWeights(const Nonzeros<Value>& nonzeros, const WeightShape& shape)
      : StoredWeights(shape, sizeof(Value) == 1 ? Type::uint8 : Type::float32),
        count_(nonzeros.count),
        values_(count_ + 64) {
    for (int block = 0; block < blocks(); ++block) {
      first_units_.push_back(int(units_.size()));
      units_.resize(units_.size() + units(block));
    }
    for (std::int64_t i = 0; i < nonzeros.count; ++i) {
      const auto [group, bit] = place(position(nonzeros.places[i]));
      units_[group / unit_groups].masks[group % unit_groups] |= 1ull << bit;
    }
    std::uint64_t before = 0;
    for (MaskUnit& unit : units_) {
      unit.first_value = before;
      for (std::uint64_t mask : unit.masks) before += __builtin_popcountll(mask);
    }
    for (std::int64_t i = 0; i < nonzeros.count; ++i) put(position(nonzeros.places[i]), nonzeros.values[i]);
  }

  Panel panel(const Primitives& p, int first_block, int blocks, int first, int count, std::byte* room) const override {
    return decoded<Value>(first_block, blocks, first, count, room, [&](int block, int group, int groups, Value* to) {
      if constexpr (sizeof(Value) == 1) p.masks.decode_int8(masked(block), group, groups, to);
      else p.masks.decode_float32(masked(block), group, groups, to);
    });
  }
  bool direct(std::int64_t pixels) const override { return pixels <= few_pixels && whole_units(); }
  void product(const Primitives& p, int block, const ByteProduct& tile) const override {
    p.masks.product_uint8(tile, masked(block));
  }
  void product(const Primitives& p, int block, const FloatProduct& tile) const override {
    p.masks.product_float32(tile, masked(block));
  }
  std::size_t bytes_stored() const override { return units_.size() * sizeof(MaskUnit) + count_ * sizeof(Value); }
  std::string kind() const override { return type == Type::uint8 ? "bitmap of int8" : "bitmap of float32"; }

 private:
  struct Place {
    int group, bit;  // the group counted from the first block's
  };
  Masked masked(int block) const { return {units_.data() + first_units_[block], values_.data()}; }
  Place place(const Position& at) const {
    const int column = this->column(at), group = first_units_[at.block] * unit_groups + column / 4;
    return {group, type == Type::uint8 ? 4 * at.lane + column % 4 : lanes * (column % 4) + at.lane};
  }
  void put(const Position& position, Value value) {
    const auto [group, bit] = place(position);
    const MaskUnit& unit = units_[group / unit_groups];
    std::uint64_t at = unit.first_value;
    for (int i = 0; i < group % unit_groups; ++i) at += __builtin_popcountll(unit.masks[i]);
    values_.data()[at + __builtin_popcountll(unit.masks[group % unit_groups] & ((1ull << bit) - 1))] = value;
    sums_[position.block * lanes + position.lane] += std::int32_t(type == Type::uint8 ? value : 0);
  }

  std::vector<int> first_units_;  // of each block
  std::vector<MaskUnit> units_;
  std::size_t count_;
  Aligned<Value> values_;
};

}  // namespace

std::unique_ptr<Weights> pack_codes(const std::uint8_t* codes, int bits, const float* table, const WeightShape& shape) {
  return std::make_unique<CodeWeights<float>>(codes, bits, table, shape);
}
std::unique_ptr<Weights> pack_codes(const std::uint8_t* codes, int bits, const std::int8_t* table,
                                    const WeightShape& shape) {
  return std::make_unique<CodeWeights<std::int8_t>>(codes, bits, table, shape);
}
std::unique_ptr<Weights> pack_mask(const Nonzeros<float>& nonzeros, const WeightShape& shape) {
  return std::make_unique<MaskWeights<float>>(nonzeros, shape);
}
std::unique_ptr<Weights> pack_mask(const Nonzeros<std::int8_t>& nonzeros, const WeightShape& shape) {
  return std::make_unique<MaskWeights<std::int8_t>>(nonzeros, shape);
}

}  // namespace dovetail::engine
