// Products that read the weights of those inputs alone that are not zero.
#pragma once
#include "lookup.hpp"
#include "product.hpp"

namespace dovetail::engine {
namespace {

constexpr int rows_at_once = 8;
constexpr int most_listed = 1024;
constexpr int farthest_column = 65535;  // as they are counted in 16 bits

// Inputs that are not zero, and their columns, counted from `first`.
template <class Input>
struct InputList {
  int first = 0, count = 0;
  Input values[most_listed + inputs_at_once + 2 * rows_at_once];
  std::uint16_t columns[most_listed + inputs_at_once + 2 * rows_at_once];

  bool full(int column) const { return count > most_listed || column - first > farthest_column - inputs_at_once; }
  void begin(int column) { first = column, count = 0; }
  void append(const Input* from, int inputs, int column) {
    count += append_nonzeros(from, inputs, column - first, values + count, columns + count);
  }
  // So that the last rows are as many as all, and have some after them.
  void fill_up() {
    for (int i = 0; i < 2 * rows_at_once; ++i) values[count + i] = 0, columns[count + i] = 0;
  }
};

// Rows of a kind: a vector of each is multiplied with the rows' inputs and added to vectors of sums. Of vector number
// `n`, `place` says which output is the first of each four in these.
struct ByteRows {
  using Sum = Int;
  static constexpr int sums = 4, unit_outputs = 64;
  struct Inputs {
    Unsigned4 of_four[rows_at_once / 4];
    explicit Inputs(const std::uint8_t* from) {
      repeat<rows_at_once / 4>([&](auto f) { of_four[f] = unsigned4(broadcast4(from + 4 * f)); });
    }
  };
  explicit ByteRows(const InputRows&) {}
  void add(const std::uint8_t* const (&rows)[rows_at_once], const Inputs& x, Int (&to)[sums]) const {
    repeat<rows_at_once / 4>([&](auto f) {
      Int columns[4];
      interleave(rows + 4 * f, columns);
      repeat<4>([&](auto v) { to[v] = dot4(x.of_four[f], signed4(columns[v]), to[v]); });
    });
  }
  static int place(int n, int sum, int quarter) { return 4 * width * n + 16 * quarter + 4 * sum; }
};

struct CodeRows {
  using Sum = Int;
  using Inputs = ByteRows::Inputs;
  static constexpr int sums = 8, unit_outputs = 128;
  explicit CodeRows(const InputRows& rows) : table_(rows.table) {}
  void add(const std::uint8_t* const (&rows)[rows_at_once], const Inputs& x, Int (&to)[sums]) const {
    repeat<rows_at_once / 4>([&](auto f) {
      Int columns[4];
      interleave(rows + 4 * f, columns);
      repeat<4>([&](auto v) {
        to[v] = dot4(x.of_four[f], signed4(table_(code(columns[v]))), to[v]);
        to[4 + v] = dot4(x.of_four[f], signed4(table_(code(columns[v] >> 4))), to[4 + v]);
      });
    });
  }
  static int place(int n, int sum, int quarter) {
    const int byte = ByteRows::place(n, sum % 4, quarter);
    return byte / 64 * 128 + sum / 4 * 64 + byte % 64;
  }

 private:
  // Where a look-up reads six bits, the table's copies make the two above a code no matter.
  static constexpr int looked_up = width == 16 ? 6 : 4;
  static Int code(Int bits) { return looked_up == 6 ? bits : bits & 0x0f0f0f0f; }
  ByteTable<looked_up> table_;
};

struct FloatRows {
  using Sum = Float;
  static constexpr int sums = 1, unit_outputs = 16;
  struct Inputs {
    Float of_each[rows_at_once];
    explicit Inputs(const float* from) {
      repeat<rows_at_once>([&](auto j) { of_each[j] = from[j] - Float{}; });
    }
  };
  explicit FloatRows(const InputRows&) {}
  void add(const std::uint8_t* const (&rows)[rows_at_once], const Inputs& x, Float (&to)[sums]) const {
    repeat<rows_at_once>([&](auto j) { to[0] = multiply_add(x.of_each[j], load<Float>(rows[j]), to[0]); });
  }
  static int place(int n, int, int quarter) { return width * n + 4 * quarter; }
};

// Adds the products of all listed inputs to `vectors` groups of sums. Several rows at once: sums lie in memory.
template <class Rows, class Input>
void add_rows(const Rows& reader, const InputList<Input>& list, const InputRows& rows, int vectors,
              typename Rows::Sum (*sums)[Rows::sums]) {
  for (int i = 0; i < list.count; i += rows_at_once) {
    const auto row = [&](int j) { return rows.rows + (list.first + list.columns[i + j]) * rows.row_bytes; };
    const std::uint8_t* at[rows_at_once];
    repeat<rows_at_once>([&](auto j) {
      at[j] = row(j);  // and the beginning of the one that comes in its place: the rest follows by itself
      for (int line = 0; line < 4; ++line) __builtin_prefetch(row(j + rows_at_once) + 64 * line);
    });
    const typename Rows::Inputs x(list.values + i);
    for (int n = 0; n < vectors; ++n) {
      typename Rows::Sum some[Rows::sums];
      repeat<Rows::sums>([&](auto s) { some[s] = sums[n][s]; });
      reader.add(at, x, some);
      repeat<Rows::sums>([&](auto s) { sums[n][s] = some[s]; });
      repeat<rows_at_once>([&](auto j) { at[j] += 4 * width; });
    }
  }
}

using FourInts = std::int32_t __attribute__((vector_size(16)));
using FourFloats = float __attribute__((vector_size(16)));

template <class Rows, class Input, class Weight, class Sum>
void inputs_product(const Tile<Input, Weight, Sum>& tile, const InputRows& rows) {
  using Four = std::conditional_t<std::is_same_v<Sum, float>, FourFloats, FourInts>;
  const Rows reader(rows);
  const int outputs = tile.blocks * lanes;
  const int vectors = (outputs + Rows::unit_outputs - 1) / Rows::unit_outputs * block_vectors;
  typename Rows::Sum sums[row_outputs / width / Rows::sums][Rows::sums];
  for (int n = 0; n < vectors; ++n)
    for (int s = 0; s < Rows::sums; ++s) sums[n][s] = typename Rows::Sum{};
  InputList<Input> list;
  const auto add = [&] {
    list.fill_up();
    add_rows(reader, list, rows, vectors, sums);
  };
  for (int tap = 0; tap < tile.tap_count; ++tap) {
    const Input* input = tile.input + tile.taps[tap] + tile.pixels[0];
    for (int channel = 0; channel < rows.channels; channel += inputs_at_once) {
      const int left = rows.channels - channel, column = tap * tile.channels + channel;
      if (list.full(column)) add(), list.begin(column);
      list.append(input + channel, left < inputs_at_once ? left : inputs_at_once, column);
    }
  }
  add();
  for (int n = 0; n < vectors; ++n)
    for (int s = 0; s < Rows::sums; ++s)
      for (int quarter = 0; quarter < width / 4; ++quarter)
        if (const int o = Rows::place(n, s, quarter); o < outputs) {
          const Sum* four = reinterpret_cast<const Sum*>(&sums[n][s]) + 4 * quarter;
          store(tile.sums + o, load<Four>(tile.start + o) + load<Four>(four));
        }
}

void inputs_uint8(const ByteProduct& tile, const InputRows& rows) {
  rows.table ? inputs_product<CodeRows>(tile, rows) : inputs_product<ByteRows>(tile, rows);
}

}  // namespace
}  // namespace dovetail::engine
