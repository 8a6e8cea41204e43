// Weights of which few are not zero: packed so that sixteen outputs find their next factors in one look-up.
#include <cstring>
#include <type_traits>

#include "stored_base.hpp"

namespace dovetail::engine {

namespace {

// Entry 0 of a table is zero.
struct Table {
  const float* values = nullptr;
  int entries = 0;
};

// The tiles of all blocks: those of a block's first tap, of its second, and so on.
struct Tiles {
  int size;
  std::vector<std::size_t> firsts;  // of each block; last, how many there are
};

// Value is std::int8_t, float, or std::uint8_t: a code into a table of floats.
template <class Value>
class SlotWeights final : public StoredWeights {
 public:
  SlotWeights(const Nonzeros<Value>& nonzeros, const Table& table, const WeightShape& shape)
      : StoredWeights(shape, bytes ? Type::uint8 : Type::float32),
        table_(table.values, table.values + table.entries),
        entries_(table.entries) {
    if (coded) table_.resize(256);
    choose_tiles(nonzeros);
    first_steps_.resize(steps_.size() + 1);
    for (std::size_t i = 0; i < steps_.size(); ++i) first_steps_[i + 1] = first_steps_[i] + steps_[i];
    indices_ = Aligned<std::uint8_t>(first_steps_.back() * index_bytes);
    values_ = Aligned<Value>(coded ? 0 : first_steps_.back() * per_step);
    fill(nonzeros);
  }

  // Never asked for: the weights are not dense enough for it.
  Panel panel(const Primitives&, int, int, int, int, std::byte*) const override { return {}; }
  bool direct(std::int64_t) const override { return true; }
  void product(const Primitives& p, int block, const ByteProduct& tile) const override {
    p.slots_uint8(tile, slots(block));
  }
  void product(const Primitives& p, int block, const FloatProduct& tile) const override {
    p.slots_float32(tile, slots(block));
  }
  std::string kind() const override {
    return std::string("sparse ") + (bytes ? "int8" : coded ? "codes into float32" : "float32");
  }
  std::size_t bytes_stored() const override {
    return steps_.size() * 2 + first_steps_.back() * (index_bytes + (coded ? 0 : sizeof(Value) * per_step));
  }

 private:
  static constexpr bool bytes = std::is_same_v<Value, std::int8_t>, coded = std::is_same_v<Value, std::uint8_t>;
  static constexpr int each = bytes ? 4 : 1;  // nonzeros of an output in a step
  static constexpr int per_step = lanes * each, index_bytes = coded ? 2 * lanes : per_step;

  Tiles tiles_of(int size) const {
    Tiles tiles{size, {0}};
    for (const Span& span : spans)
      tiles.firsts.push_back(tiles.firsts.back() + std::size_t(taps) * divide_up(span.count, size));
    return tiles;
  }
  std::size_t tile_of(const Position& at, const Tiles& tiles) const {
    const int of_tap = divide_up(spans[at.block].count, tiles.size);
    return tiles.firsts[at.block] + std::size_t(at.tap) * of_tap + at.channel / tiles.size;
  }

  std::vector<std::uint16_t> count_steps(const Nonzeros<Value>& nonzeros, const Tiles& tiles) const {
    std::vector<std::uint16_t> counts(tiles.firsts.back() * lanes), steps(tiles.firsts.back());
    for (std::int64_t i = 0; i < nonzeros.count; ++i) {
      const Position at = position(nonzeros.places[i]);
      ++counts[tile_of(at, tiles) * lanes + at.lane];
    }
    for (std::size_t i = 0; i < counts.size(); ++i)
      steps[i / lanes] = std::max(steps[i / lanes], std::uint16_t(divide_up(counts[i], each)));
    return steps;
  }

  // Look-ups in larger tiles are slower, but leave fewer places empty.
  void choose_tiles(const Nonzeros<Value>& nonzeros) {
    struct Choice {
      int size;
      double of_step, of_tile;  // time
    };
    constexpr Choice choices[] = {{64, 1, 1}, {128, 1.2, 1.5}, {256, 1.8, 2.5}};
    double least = 0;
    for (const Choice& choice : choices) {
      Tiles tiles = tiles_of(choice.size);
      auto steps = count_steps(nonzeros, tiles);
      double time = 1;
      for (int count : steps) time += choice.of_step * count + choice.of_tile;
      if (least > 0 && time >= least) continue;
      least = time, tiles_ = std::move(tiles), steps_ = std::move(steps);
      if (!bytes) return;
    }
  }

  void fill(const Nonzeros<Value>& nonzeros) {
    std::vector<std::uint16_t> done(steps_.size() * lanes);
    for (std::int64_t i = 0; i < nonzeros.count; ++i) {
      const Position at = position(nonzeros.places[i]);
      const std::size_t tile = tile_of(at, tiles_);
      const int number = done[tile * lanes + at.lane]++;
      put((first_steps_[tile] + number / each) * per_step + at.lane * each + number % each, at.channel % tiles_.size,
          nonzeros.values[i]);
      sums_[at.block * lanes + at.lane] += std::int32_t(bytes ? nonzeros.values[i] : 0);
    }
  }
  void put(std::size_t slot, int index, Value value) {
    if constexpr (coded) {
      const std::uint16_t entry = std::uint16_t(int(value) << slots_index_bits | index);
      std::memcpy(indices_.data() + 2 * slot, &entry, 2);
    } else {
      indices_.data()[slot] = std::uint8_t(index);
      values_.data()[slot] = value;
    }
  }

  Slots slots(int block) const {
    const std::size_t tile = tiles_.firsts[block], step = first_steps_[tile];
    return {.steps = steps_.data() + tile,
            .indices = indices_.data() + step * index_bytes,
            .values = coded ? nullptr : values_.data() + step * per_step,
            .table = coded ? table_.data() : nullptr,
            .entries = entries_,
            .tile = tiles_.size};
  }

  std::vector<float> table_;
  int entries_;
  Tiles tiles_;
  std::vector<std::uint16_t> steps_;        // of each tile
  std::vector<std::size_t> first_steps_;    // of each tile; last, how many there are
  Aligned<std::uint8_t> indices_{0};
  Aligned<Value> values_{0};
};

}  // namespace

std::unique_ptr<Weights> pack_slots(const Nonzeros<float>& nonzeros, const WeightShape& shape) {
  return std::make_unique<SlotWeights<float>>(nonzeros, Table{}, shape);
}
std::unique_ptr<Weights> pack_slots(const Nonzeros<std::int8_t>& nonzeros, const WeightShape& shape) {
  return std::make_unique<SlotWeights<std::int8_t>>(nonzeros, Table{}, shape);
}
std::unique_ptr<Weights> pack_slots(const Nonzeros<std::uint8_t>& nonzeros, const float* table, int entries,
                                    const WeightShape& shape) {
  return std::make_unique<SlotWeights<std::uint8_t>>(nonzeros, Table{table, entries}, shape);
}

}  // namespace dovetail::engine
