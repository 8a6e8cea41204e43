#include "plan_weights.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sign_convolution.hpp"
#include "stored_weights.hpp"

namespace dovetail::engine {

namespace {

constexpr int wide = 255;                       // a gap that goes on
constexpr std::int64_t longest_row = 1 << 23;   // weights of one output: sums of so many bytes fit into 32 bits
constexpr std::int64_t most_weights = std::numeric_limits<std::int32_t>::max();
constexpr std::size_t most_entries = 256;

WeightShape shape_of(const PlanWeights& header, const Window& window) {
  for (const std::int32_t count : {header.outputs, header.inputs, header.groups})
    check_plan(count > 0 && count <= longest_row, "weights for " + std::to_string(count) + " channels");
  check_plan(header.inputs % header.groups == 0, "groups of unequal size");
  const std::int64_t row = std::int64_t(header.inputs / header.groups) * window.size[0] * window.size[1];
  check_plan(row <= longest_row && row * header.outputs <= most_weights, "too many weights");
  return {header.outputs, header.inputs, window.size[0], window.size[1], header.groups};
}

std::int64_t count_of(const WeightShape& shape) {
  return std::int64_t(shape.outputs) * (shape.inputs / shape.groups) * shape.rows * shape.columns;
}

void expect(std::size_t found, std::int64_t wanted, const char* what) {
  check_plan(found == std::size_t(wanted),
             std::to_string(found) + " " + what + ", where there should be " + std::to_string(wanted));
}

std::vector<std::uint8_t> read_codes(PlanReader& reader, int bits, std::int64_t count) {
  auto packed = reader.numbers<std::uint8_t>();
  expect(packed.size(), (count * bits + 7) / 8, "bytes of codes");
  packed.push_back(0);  // a code may end with the last byte
  std::vector<std::uint8_t> codes(count);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t first = i * bits;
    codes[i] = ((packed[first / 8] | packed[first / 8 + 1] << 8) >> first % 8) & ((1 << bits) - 1);
  }
  return codes;
}

template <class Weight>
std::unique_ptr<Weights> codes(PlanReader& reader, int bits, const WeightShape& shape) {
  check_plan(bits >= 1 && bits <= 8, "codes of " + std::to_string(bits) + " bits");
  auto table = reader.numbers<Weight>();
  check_plan(table.size() <= most_entries, "a table of more than 256 entries");
  table.resize(most_entries);
  return pack_codes(read_codes(reader, bits, count_of(shape)).data(), bits, table.data(), shape);
}

std::vector<std::int64_t> masked_places(PlanReader& reader, std::int64_t count) {
  const auto mask = read_codes(reader, 1, count);
  std::vector<std::int64_t> places;
  for (std::int64_t i = 0; i < count; ++i)
    if (mask[i]) places.push_back(i);
  return places;
}

std::vector<std::int64_t> gap_places(PlanReader& reader, std::int64_t count) {
  std::vector<std::int64_t> places;
  std::int64_t next = 0;
  for (const int gap : reader.numbers<std::uint8_t>()) {
    next += gap;
    if (gap != wide) places.push_back(next++);
  }
  check_plan(next <= count, "nonzeros outside of the weights");
  return places;
}

template <class Value>
std::unique_ptr<Weights> nonzeros(PlanReader& reader, Form form, const WeightShape& shape) {
  const std::int64_t count = count_of(shape);
  const auto places = form == Form::slots ? gap_places(reader, count) : masked_places(reader, count);
  const auto values = reader.numbers<Value>();
  expect(values.size(), std::int64_t(places.size()), "nonzeros");
  const Nonzeros<Value> all{places.data(), values.data(), std::int64_t(places.size())};
  return form == Form::mask ? pack_mask(all, shape) : form == Form::slots ? pack_slots(all, shape) : pack_steps(all, shape);
}

std::unique_ptr<Weights> coded_slots(PlanReader& reader, const WeightShape& shape) {
  const auto table = reader.numbers<float>();
  check_plan(!table.empty() && table.size() <= most_entries && table[0] == 0, "a table that does not begin with zero");
  const auto places = gap_places(reader, count_of(shape));
  const auto codes = reader.numbers<std::uint8_t>();
  expect(codes.size(), std::int64_t(places.size()), "codes of nonzeros");
  return pack_slots({places.data(), codes.data(), std::int64_t(places.size())}, table.data(), int(table.size()), shape);
}

std::unique_ptr<Weights> signs(PlanReader& reader, Type activations, int least, const WeightShape& shape) {
  const auto middle = reader.numbers<float>();
  check_plan(middle.size() == 1 && std::isfinite(middle[0]), "signs that stand for no number");
  return std::make_unique<SignWeights>(read_codes(reader, 1, count_of(shape)), activations, least, middle[0], shape);
}

std::unique_ptr<Weights> coded_inputs(PlanReader& reader, const WeightShape& shape) {
  const auto table = reader.numbers<std::int8_t>();
  expect(table.size(), 16, "entries of a table");
  return pack_inputs(read_codes(reader, 4, count_of(shape)).data(), table.data(), shape);
}

template <class Weight>
std::unique_ptr<Weights> read(PlanReader& reader, const PlanWeights& header, const WeightShape& shape) {
  switch (header.form) {
    case Form::dense:
    case Form::inputs: {
      const auto values = reader.numbers<Weight>();
      expect(values.size(), count_of(shape), "weights");
      return header.form == Form::dense ? pack(values.data(), shape) : pack_inputs(values.data(), shape);
    }
    case Form::codes: return codes<Weight>(reader, header.bits, shape);
    case Form::mask:
    case Form::blocks:
    case Form::slots: return nonzeros<Weight>(reader, header.form, shape);
    case Form::signs: return signs(reader, header.bytes ? Type::uint8 : Type::float32, header.least, shape);
    case Form::coded_slots: check_plan(!header.bytes, "codes into a table of bytes"); return coded_slots(reader, shape);
    case Form::coded_inputs: check_plan(header.bytes, "codes into a table of bytes"); return coded_inputs(reader, shape);
  }
  check_plan(false, "there is no form of weights " + std::to_string(int(header.form)));
  return nullptr;
}

}  // namespace

std::unique_ptr<Weights> read_weights(PlanReader& reader, const Window& window) {
  const auto header = reader.number<PlanWeights>();
  const WeightShape shape = shape_of(header, window);
  return header.bytes ? read<std::int8_t>(reader, header, shape) : read<float>(reader, header, shape);
}

}  // namespace dovetail::engine
