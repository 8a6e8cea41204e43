// What moves of an input, whose windows slide: exactly for an order of the loops, or at least for any.
#pragma once
#include <bitset>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "site.hpp"

namespace dovetail::mapper {

struct Factor {
  int loop, number;
  bool operator==(const Factor&) const = default;
};

// Elements, or as many as would fill the words: into all tiles, and from the memory outside.
struct Fetched {
  double within, without;
};

// An axis of the input is a set of fewer than kBits positions. `inside` are the extents of the loops that run within a
// processing element, whose positions lie next to each other.
template <int kBits>
class Inputs {
  using Mask = std::bitset<kBits>;
  using Fresh = std::array<double, 2>;  // of one tile, of all together

  // Positions on an axis, and how many are new at least when the tile moves on: in any one move (`least`), on average
  // over all moves if the innermost goes along this axis (`first`), and over the moves along this axis if the innermost
  // goes along the other (`second`).
  struct Moves {
    double size, least = kInfinite, first = kInfinite, second = kInfinite;
  };

  struct Axis {
    Moves tile, every;  // of one tile; of all that share what they fetch
    double all;         // all that the tile comes to
  };

  // The positions of a tile on an axis, of all tiles that share what they fetch, and what moves make new.
  struct Shape {
    Mask tile, every;
    double size, every_size;
    std::vector<std::pair<long, Fresh>> moves;  // by distance
  };

  using Key = std::array<int, 8>;

  struct Hash {
    std::size_t operator()(const Key& key) const {
      std::uint64_t hash = 0;
      for (int part : key) hash = (hash ^ part) * 0x9E3779B97F4A7C15u, hash ^= hash >> 29;
      return hash;
    }
  };

 public:
  explicit Inputs(const Problem& problem) : problem_(problem) {}

  // Before another site is asked about.
  void forget() {
    known_.clear();
    shapes_.clear();
  }

  double tile_elements(const Site& site, int boundary, const Extents& extents, const Extents& inside) const {
    double elements = product(extents, kBlock) * site.shares[boundary].held;
    for (int a = 0; a < 2; ++a) elements *= shape(site, boundary, a, extents, inside).size;
    return elements;
  }

  // For a whole order. Where does the tile move when a factor advances, and all further in fall back? See counts.py.
  std::pair<Fetched, Fetched> in_order(const Site& site, int boundary, const std::vector<Factor>& temporal, int held,
                                       const Extents& extents, const Extents& inside) const {
    make_room();
    const auto& b = problem_.boundaries[boundary];
    const std::array<Shape*, 2> axes = {&shape(site, boundary, 0, extents, inside),
                                        &shape(site, boundary, 1, extents, inside)};
    const double whole = axes[0]->size * axes[1]->size;
    const double whole_every = axes[0]->every_size * axes[1]->every_size;
    const Fetched first = transfer(site, boundary, extents, whole, whole_every);
    double times = 1;
    for (std::size_t i = held; i < temporal.size(); ++i) times *= temporal[i].number;
    if (!b.kept) return {first, {first.within * times, first.without * times}};
    Fetched all = first;
    Extents now = extents;
    std::array<long, 2> fallen{};
    bool anew = false;
    for (std::size_t i = held; i < temporal.size(); ++i) {
      const auto [loop, number] = temporal[i];
      times /= number;
      anew |= has(kBlock, loop);
      double kept = !anew, kept_every = !anew;
      for (int a = 0; a < 2; ++a) {
        const bool along = loop == kAxes[a][0] || loop == kAxes[a][1];
        const long by = along ? step(site, loop, now, inside) : 0;
        const auto fresh = moved(site, b, a, *axes[a], inside, by - fallen[a]);
        kept *= axes[a]->size - fresh[0];
        kept_every *= axes[a]->every_size - fresh[1];
        fallen[a] += (number - 1) * by;
      }
      now[loop] *= number;
      const Fetched more = transfer(site, boundary, extents, whole - kept, whole_every - kept_every);
      all.within += times * (number - 1) * more.within;
      all.without += times * (number - 1) * more.without;
    }
    return {first, all};
  }

  // For any order; `upto` are the extents to which the factors lead that are next to the tile.
  Fetched at_least(const Site& site, int boundary, const Extents& extents, const Extents& inside,
                   const Extents& upto) const {
    make_room();
    const auto ratio = [&](unsigned of) { return product(site.time, of) / product(extents, of); };
    const double blocks = ratio(kBlock), again = ratio(loops({K}));
    const double rows = ratio(loops({P, R})), columns = ratio(loops({Q, S}));
    const Axis &row = known_axis(site, boundary, 0, extents, inside, upto),
               &column = known_axis(site, boundary, 1, extents, inside, upto);
    const auto least = [&](const Moves& r, const Moves& c) {
      const double whole = r.size * c.size, moves = rows * columns * again;
      if (moves == 1 || (rows * columns == 1 && blocks == 1)) return whole;
      double found = whole * moves;  // where every move starts anew
      if (std::isfinite(r.first)) found = whole + (moves - columns) * r.first * c.size + (columns - 1) * across(r, c);
      if (std::isfinite(c.first))
        found = std::min(found, whole + (moves - rows) * r.size * c.first + (rows - 1) * across(c, r));
      return found;
    };
    const double within = std::max(row.all * column.all, least(row.tile, column.tile));
    const double without = least(row.every, column.every);
    const Fetched all = elements(site, boundary, extents, blocks * within, blocks * without);
    if (!moves_whole_words(boundary)) return all;
    const double tile = row.tile.size * column.tile.size, every = row.every.size * column.every.size;
    const Fetched one = elements(site, boundary, extents, tile, every);
    const Fetched words = transfer(site, boundary, extents, tile, every);
    return {all.within * words.within / one.within, all.without * words.without / one.without};
  }

  // For any tile that fits: what each further round of the loop that the input does not depend on fetches at least, and
  // how many pairs of a pixel and a tap share one of its elements at most.
  struct Tiles {
    Fetched again;
    double pairs;
  };

  Tiles any_tile(const Site& site, int boundary) const {
    const auto& b = problem_.boundaries[boundary];
    const auto& share = site.shares[boundary];
    if (b.inner < 0) return {{0, 0}, 1};
    const double blocks = product(site.time, kBlock), room = problem_.stores[b.inner].room / b.held_bits / share.held;
    Tiles found{{kInfinite, kInfinite}, 0};
    for (bool contiguous : {false, true}) {
      if (contiguous && !inside_matters(site)) break;
      const auto rows = axes(site, boundary, 0, room, contiguous), columns = axes(site, boundary, 1, room, contiguous);
      for (const auto& [row, row_moves, row_pairs] : rows)
        for (const auto& [column, column_moves, column_pairs] : columns) {
          const double size = row.tile.size * column.tile.size, moves = row_moves * column_moves;
          if (size > room) continue;
          found.pairs = std::max(found.pairs, row_pairs * column_pairs / size);
          const bool all = moves == 1 && size * blocks <= room;
          const auto least = [&](const Moves& r, const Moves& c) {
            if (moves == 1) return all ? 0 : r.size * c.size;
            return moves * std::min(r.first * c.size, r.size * c.first);
          };
          found.again.within = std::min(found.again.within, least(row.tile, column.tile));
          found.again.without = std::min(found.again.without, least(row.every, column.every));
        }
    }
    if (found.pairs == 0) return {{0, 0}, 1};  // nothing fits
    found.again.within *= blocks * share.within;
    found.again.without *= blocks * share.without;
    return found;
  }

  // Whether it makes a difference which factors run within a processing element.
  static bool inside_matters(const Site& site) {
    for (int l : {P, Q, R, S})
      if (site.total[l] > 1 && site.time[l] > 1) return true;
    return false;
  }

 private:
  // Whether words may not be full, and nothing of a tile stays when it moves.
  bool moves_whole_words(int boundary) const {
    const auto& b = problem_.boundaries[boundary];
    const bool words = problem_.stores[b.outer].word > 0 || (b.inner >= 0 && problem_.stores[b.inner].word > 0);
    return words && (!problem_.halo_reuse || b.inner < 0 || problem_.extents[R] * problem_.extents[S] == 1);
  }

  // Of so many positions in every tile, and in all that share what they fetch.
  Fetched elements(const Site& site, int boundary, const Extents& extents, double tile, double every) const {
    const double depth = product(extents, kBlock);
    return {depth * tile * site.shares[boundary].within, depth * every * site.shares[boundary].without};
  }

  // The same, with what fills up the words.
  Fetched transfer(const Site& site, int boundary, const Extents& extents, double tile, double every) const {
    const auto& b = problem_.boundaries[boundary];
    const auto& share = site.shares[boundary];
    const auto [within, without] = elements(site, boundary, extents, tile, every);
    const auto words = [](const Store& store, double elements, double transfers, double bits) {
      return store.word > 0 ? transfers * filled(store, elements / transfers, bits) : elements;
    };
    return {b.inner < 0 ? within : words(problem_.stores[b.inner], within, share.within / share.held, b.inner_bits),
            words(problem_.stores[b.outer], without, share.apart, b.outer_bits)};
  }

  static Mask copies(Mask mask, std::size_t step, int number) {
    for (int done = 1; done < number;) {
      const int more = std::min(done, number - done);
      mask |= mask << more * step;
      done += more;
    }
    return mask;
  }

  long unit(int loop) const {
    switch (loop) {
      case P: return problem_.stride[0];
      case Q: return problem_.stride[1];
      case R: return problem_.dilation[0];
      default: return problem_.dilation[1];
    }
  }

  // How far a factor moves that follows these extents.
  long step(const Site& site, int loop, const Extents& extents, const Extents& inside) const {
    return unit(loop) * extents[loop] * (inside[loop] <= extents[loop] ? site.total[loop] : 1);
  }

  Mask over_array(const Site& site, Mask mask, int axis, unsigned dimensions, const Extents& inside) const {
    for (int loop : kAxes[axis]) {
      std::size_t step = unit(loop) * inside[loop];
      for (int d = 0; d < static_cast<int>(site.spatial.size()); ++d) {
        const int number = site.spatial[d][loop];
        if (has(dimensions, d)) mask = copies(mask, step, number);
        step *= number;
      }
    }
    return mask;
  }

  Mask tile_mask(const Site& site, const Boundary& b, int axis, const Extents& extents, const Extents& inside) const {
    Mask mask(1);
    for (int loop : kAxes[axis]) {
      const int within = std::min(inside[loop], extents[loop]);
      mask = copies(mask, unit(loop), within);
      mask = copies(mask, unit(loop) * within * site.total[loop], extents[loop] / within);
    }
    return over_array(site, mask, axis, ~inner_per(problem_, b), inside);
  }

  // Of long axes not all shapes can be remembered.
  void make_room() const {
    if (shapes_.size() > (std::size_t{1} << 26) / sizeof(Shape)) shapes_.clear();
  }

  Shape& shape(const Site& site, int boundary, int a, const Extents& extents, const Extents& inside) const {
    const auto [x, y] = kAxes[a];
    const Key key = {boundary, a, extents[x], extents[y], inside[x], inside[y]};
    const auto [found, is_new] = shapes_.try_emplace(key);
    Shape& shape = found->second;
    if (is_new) {
      const auto& b = problem_.boundaries[boundary];
      shape.tile = tile_mask(site, b, a, extents, inside);
      shape.every = over_array(site, shape.tile, a, shared(problem_, b), inside);
      shape.size = shape.tile.count();
      shape.every_size = shape.every.count();
    }
    return shape;
  }

  // What is new after a move.
  Fresh moved(const Site& site, const Boundary& b, int axis, Shape& shape, const Extents& inside, long distance) const {
    if (distance == 0) return {0, 0};
    if (!problem_.halo_reuse || std::abs(distance) >= kBits) return {shape.size, shape.every_size};
    for (const auto& [known, fresh] : shape.moves)
      if (known == distance) return fresh;
    const Mask fresh = shape.tile & ~(distance > 0 ? shape.tile >> distance : shape.tile << -distance);
    Fresh found = {shape.size, shape.every_size};
    if (fresh != shape.tile) {
      const Mask old = shape.every & ~over_array(site, fresh, axis, shared(problem_, b), inside);
      found = {double(fresh.count()), shape.every_size - old.count()};
    }
    shape.moves.push_back({distance, found});
    return found;
  }

  const Axis& known_axis(const Site& site, int boundary, int a, const Extents& extents, const Extents& inside,
                         const Extents& upto) const {
    const auto [x, y] = kAxes[a];
    const Key key = {boundary, a, extents[x], extents[y], inside[x], inside[y], upto[x], upto[y]};
    auto found = known_.find(key);
    if (found == known_.end())
      found = known_.emplace(key, axis(site, boundary, a, extents, inside, upto)).first;
    return found->second;
  }

  // The innermost factor, `part` of a loop, makes all moves but one in `part`. Of the rest, the next factor makes at
  // least half, or, of the other loop of this axis, all but one in its smallest part.
  Axis axis(const Site& site, int boundary, int a, const Extents& extents, const Extents& inside,
            const Extents& upto) const {
    const auto& b = problem_.boundaries[boundary];
    Shape& tile = shape(site, boundary, a, extents, inside);
    Axis found{.tile = {tile.size}, .every = {tile.every_size}, .all = shape(site, boundary, a, site.time, inside).size};
    const auto fresh = [&](long distance) { return moved(site, b, a, tile, inside, distance); };
    std::array<long, 2> by;
    std::array<int, 2> count;
    for (int i = 0; i < 2; ++i) {
      by[i] = step(site, kAxes[a][i], extents, inside);
      count[i] = site.time[kAxes[a][i]] / extents[kAxes[a][i]];
    }
    const auto any = [&](Fresh fresh) {
      found.tile.least = std::min(found.tile.least, fresh[0]);
      found.every.least = std::min(found.every.least, fresh[1]);
    };
    for (int i = 0; i < 2; ++i)
      if (count[i] > 1) any(fresh(by[i]));
    // One loop moves a tile without holes the least by one step. Two may cancel, and holes may coincide.
    const bool simple = (count[0] == 1 || count[1] == 1) && tile.tile[tile.tile.count() - 1];
    if (!simple)
      for (int x : divisors(count[0]))
        for (int y : divisors(count[1])) {
          if (y > 1) any(fresh(by[0] - (y - 1) * by[1]));
          if (x > 1) any(fresh(by[1] - (x - 1) * by[0]));
          if (x * y > 1) any(fresh((x - 1) * by[0] + (y - 1) * by[1]));
        }
    for (int i = 0; i < 2; ++i) {
      const int next_to = upto[kAxes[a][i]] / extents[kAxes[a][i]];
      const double share = count[1 - i] > 1 ? divisors(count[1 - i]).end()[-2] : 2;
      for (int part : divisors(count[i])) {
        if (part == 1) continue;
        const auto pure = fresh(by[i]), back = fresh((part - 1) * by[i]);
        const auto next = count[1 - i] > 1 ? fresh(by[1 - i] - (part - 1) * by[i]) : pure;
        average(found.tile, pure[0], next[0], back[0], part, share, next_to % part == 0);
        average(found.every, pure[1], next[1], back[1], part, share, next_to % part == 0);
        if (simple && (next_to == 1 || next_to % part == 0)) break;  // smaller parts move less often, not less
      }
    }
    return found;
  }

  static void average(Moves& moves, double pure, double next, double back, double part, double share, bool follows) {
    const double then = next - (next - std::min(next, moves.least)) / share;
    const double away = back - (back - std::min(back, moves.least)) / 2;
    moves.second = std::min(moves.second, pure - (pure - std::min(pure, then)) / part);
    if (follows) moves.first = std::min(moves.first, pure - (pure - std::min({pure, then, away})) / part);
  }

  // What moves along the second axis fetch at least on average, when those along the first fall back meanwhile.
  static double across(const Moves& first, const Moves& second) {
    if (!std::isfinite(second.second)) return 0;
    const double whole = first.size * second.size;
    return std::max(first.first * second.size, whole - (first.size - first.least) * (second.size - second.second));
  }

  struct Choice {
    Axis axis;
    double moves, pairs;
  };

  // The tiles on one axis that fit.
  std::vector<Choice> axes(const Site& site, int boundary, int a, double room, bool contiguous) const {
    std::vector<Choice> found;
    const auto [along, window] = kAxes[a];
    const unsigned per = inner_per(problem_, problem_.boundaries[boundary]);
    const double array = spread(site, 0, ~per, loops({along, window}));
    for (int x : divisors(site.time[along]))
      for (int y : divisors(site.time[window])) {
        Extents extents = ones();
        extents[along] = x, extents[window] = y;
        const Extents inside = contiguous ? extents : ones();
        make_room();
        if (shape(site, boundary, a, extents, inside).size > room) continue;
        const double moves = double(site.time[along] / x) * (site.time[window] / y);
        found.push_back({axis(site, boundary, a, extents, inside, site.time), moves, array * x * y});
      }
    return found;
  }

  const Problem& problem_;
  // Of one site.
  mutable std::unordered_map<Key, Axis, Hash> known_;
  mutable std::unordered_map<Key, Shape, Hash> shapes_;
};

}  // namespace dovetail::mapper
