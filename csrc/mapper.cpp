#include "mapper.hpp"

#include <algorithm>
#include <bitset>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <unordered_map>

namespace dovetail::mapper {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();
constexpr std::int64_t kLook = 500, kLooks = 20'000;  // tilings of one spatial choice, and of all, to begin with
constexpr int kKept = 16;  // of the best, for the caller to count exactly
constexpr std::array<unsigned, kOperands> kRelevant = {
    1u << G | 1u << N | 1u << C | 1u << P | 1u << Q | 1u << R | 1u << S,
    1u << G | 1u << K | 1u << C | 1u << R | 1u << S,
    1u << G | 1u << N | 1u << K | 1u << P | 1u << Q,
};
constexpr std::array<std::array<int, 2>, 2> kAxes = {{{P, R}, {Q, S}}};
constexpr std::array<Extents, 4> kOrders = {{
    {P, R, Q, S, K, C, N, G}, {Q, S, P, R, K, C, N, G}, {R, P, S, Q, K, C, N, G}, {S, Q, R, P, K, C, N, G}}};

bool has(unsigned set, int member) { return set >> member & 1; }

double product(const Extents& extents, unsigned of = ~0u) {
  double result = 1;
  for (int l = 0; l < kLoops; ++l)
    if (has(of, l)) result *= extents[l];
  return result;
}

int smallest_part(int number) {
  for (int d = 2; d * d <= number; ++d)
    if (number % d == 0) return d;
  return number;
}

const std::vector<int>& divisors(int number) {
  thread_local std::unordered_map<int, std::vector<int>> known;
  auto& found = known[number];
  if (found.empty())
    for (int d = number; d >= 1; --d)
      if (number % d == 0) found.push_back(d);
  return found;
}

// What a layer costs, or what it costs at least.
struct Cost {
  double energy = 0, cycles = 0;
};

// Bits that cross the ports of a boundary.
struct Flow {
  double inner_read = 0, inner_write = 0, outer_read = 0, outer_write = 0;
};

// One way to spread the loops over the array, and what follows from it alone.
struct Site {
  std::vector<Extents> spatial;
  Extents total, time;  // by loop: elements along it, and steps
  // By group of boundaries (innermost tiles, outermost) and operand: to move every element once, and to do it again.
  std::array<std::array<double, kOperands>, 2> once{}, again{};
  Cost least;
};

struct Factor {
  int loop, number;
};

template <int kBits>
class Search {
  using Mask = std::bitset<kBits>;

  // The set of one axis of the input: of a tile and of all tiles together (`every`), and what is new at least when it
  // moves on: on average over the moves along this axis alone (`fresh`), and in any one move (`least`).
  struct Axis {
    double tile, fresh, least, every, every_fresh, every_least;
  };

  struct Place {
    int boundary;
    Extents extents;
  };

 public:
  explicit Search(const Problem& problem) : problem_(problem), stores_(problem.stores.size()) {
    for (int b = 0; b < static_cast<int>(problem.boundaries.size()); ++b) {
      const auto& boundary = problem.boundaries[b];
      if (boundary.kept) chain_[boundary.operand].push_back(b);
      if (boundary.kept) ++cuts_;
    }
    const auto& e = problem.extents;
    slides_ = e[R] * e[S] > 1;
    symmetric_ = e[P] == e[Q] && e[R] == e[S] && problem.stride[0] == problem.stride[1] &&
                 problem.dilation[0] == problem.dilation[1];
    for (const auto& d : problem.dimensions)
      symmetric_ &= has(d.unroll, P) == has(d.unroll, Q) && has(d.unroll, R) == has(d.unroll, S);
    for (int operand = 0; operand < kOperands; ++operand) {
      const auto& chain = chain_[operand];
      tile_[0][operand] = chain.empty() ? -1 : chain.front();
      tile_[1][operand] = chain.size() < 2 ? -1 : chain.back();
    }
  }

  Answer run() {
    start_ = std::chrono::steady_clock::now();
    std::vector<Site> sites = enumerate();
    for (auto& site : sites) site.least = least(site, false);
    scale_ = kInfinite;
    for (auto& site : sites) scale_ = std::min(scale_, site.least.cycles / std::max(site.least.energy, 1e-300));
    std::vector<std::pair<double, int>> order;
    for (int i = 0; i < static_cast<int>(sites.size()); ++i) order.emplace_back(inner_value(sites[i].least), i);
    std::sort(order.begin(), order.end());
    // First a look at each of the most promising, to have something good early; then all of them.
    for (const auto& [bound, index] : order) {
      if (bound >= limit() || explored_ > kLooks) break;
      budget_ = explored_ + kLook;
      const double floor = floor_;
      visit(sites[index]);
      floor_ = floor;
    }
    // Then all that a closer look at their bound does not rule out.
    std::vector<std::pair<double, int>> left;
    for (const auto& [bound, index] : order) {
      auto& site = sites[index];
      if (bound < limit() && slides_) site.least = least(site, true);
      if (inner_value(site.least) < limit()) left.emplace_back(inner_value(site.least), index);
      else floor_ = std::min(floor_, claim(site.least));
    }
    std::sort(left.begin(), left.end());
    budget_ = problem_.budget;
    for (const auto& [bound, index] : left) {
      if (bound < limit() && !stopped()) visit(sites[index]);
      if (bound >= limit() || stopped()) floor_ = std::min(floor_, claim(sites[index].least));
    }
    Answer answer{best_, floor_, explored_, !stopped()};
    if (!best_.empty()) answer.lower_bound = std::min(floor_, best_.front().value);
    return answer;
  }

 private:
  // --- spreading loops over the array ---

  std::vector<Site> enumerate() {
    std::vector<std::vector<Extents>> choices;
    for (const auto& dimension : problem_.dimensions) {
      std::vector<Extents> found;
      Extents now;
      now.fill(1);
      unroll(dimension, 0, dimension.size, now, found);
      choices.push_back(std::move(found));
    }
    std::map<std::vector<int>, bool> seen;
    std::vector<Site> sites;
    Site site;
    site.spatial.resize(choices.size());
    combine(choices, 0, site, sites, seen);
    return sites;
  }

  void unroll(const Dimension& dimension, int loop, int room, Extents& now, std::vector<Extents>& found) {
    if (loop == kLoops) {
      found.push_back(now);
      return;
    }
    const int most = has(dimension.unroll, loop) ? std::min(room, problem_.extents[loop]) : 1;
    for (int factor = 1; factor <= most; ++factor) {
      now[loop] = factor;
      unroll(dimension, loop + 1, room / factor, now, found);
    }
    now[loop] = 1;
  }

  // Dimensions between which nothing distinguishes are interchangeable: only the products of their factors matter.
  int like(int d) const {
    for (int other = 0; other < d; ++other) {
      bool same = true;
      for (const auto& boundary : problem_.boundaries) same &= has(boundary.apart, d) == has(boundary.apart, other);
      for (const auto& store : problem_.stores) same &= has(store.per, d) == has(store.per, other);
      if (same) return other;
    }
    return d;
  }

  void combine(const std::vector<std::vector<Extents>>& choices, std::size_t d, Site& site, std::vector<Site>& sites,
               std::map<std::vector<int>, bool>& seen) {
    if (d < choices.size()) {
      for (const auto& choice : choices[d]) {
        site.spatial[d] = choice;
        combine(choices, d + 1, site, sites, seen);
      }
      return;
    }
    site.total.fill(1);
    for (const auto& spatial : site.spatial)
      for (int l = 0; l < kLoops; ++l) site.total[l] *= spatial[l];
    for (int l = 0; l < kLoops; ++l) {
      const int extent = problem_.extents[l];
      site.time[l] = (extent + site.total[l] - 1) / site.total[l];
      for (const auto& spatial : site.spatial) {  // fewer elements that take no more steps cost no more of anything
        const int fewer = site.total[l] / spatial[l] * (spatial[l] - 1);
        if (fewer && (extent + fewer - 1) / fewer == site.time[l]) return;
      }
    }
    std::vector<Extents> merged(choices.size());
    for (auto& extents : merged) extents.fill(1);
    for (std::size_t i = 0; i < choices.size(); ++i)
      for (int l = 0; l < kLoops; ++l) merged[like(static_cast<int>(i))][l] *= site.spatial[i][l];
    std::vector<int> key;
    for (const auto& extents : merged) key.insert(key.end(), extents.begin(), extents.end());
    if (symmetric_) {
      for (auto& extents : merged) std::swap(extents[P], extents[Q]), std::swap(extents[R], extents[S]);
      std::vector<int> mirrored;
      for (const auto& extents : merged) mirrored.insert(mirrored.end(), extents.begin(), extents.end());
      key = std::min(key, mirrored);
    }
    if (seen.emplace(std::move(key), true).second) sites.push_back(site);
  }

  // --- what one boundary moves ---

  unsigned inner_per(const Boundary& b) const { return b.inner < 0 ? ~0u : problem_.stores[b.inner].per; }

  // The product over dimensions of: all factors where `all` has them, else of the relevant ones where `relevant` has.
  static double spread(const Site& site, unsigned all, unsigned relevant, unsigned loops) {
    double result = 1;
    for (int d = 0; d < static_cast<int>(site.spatial.size()); ++d)
      if (has(all, d)) result *= product(site.spatial[d]);
      else if (has(relevant, d)) result *= product(site.spatial[d], loops);
    return result;
  }

  // Weights and outputs: everything follows from how often the whole operand goes round.
  Flow rounds(const Site& site, const Boundary& b, double times) const {
    const unsigned loops = kRelevant[b.operand], inner = inner_per(b), outer = problem_.stores[b.outer].per;
    const double elements = product(site.time, loops);
    const double within = elements * spread(site, inner, ~0u, loops);
    const double without = elements * spread(site, outer | (inner & b.apart), ~0u, loops);
    Flow flow;
    if (b.operand != kOutput) {
      flow.inner_write = within * times * b.inner_bits;
      flow.outer_read = without * times * b.spent * b.outer_bits;
      return flow;
    }
    const double sum = problem_.sum_bits, distinct = elements * spread(site, outer, ~0u, loops);
    const double back = distinct * (times - 1) * b.spent, more = (without - distinct) * times * b.spent;
    const bool whole_out = b.inner >= 0 && spread(site, outer, 0, 0) == spread(site, 0, outer, loops);
    const bool whole_in = whole_out && spread(site, inner, 0, 0) == spread(site, 0, inner, loops);
    flow.inner_read = within * times * sum - (whole_in ? within * (sum - b.inner_bits) : 0);
    flow.outer_write = without * times * b.spent * sum - (whole_out ? distinct * (sum - b.outer_bits) : 0);
    flow.outer_read = (back + more) * sum;
    flow.inner_write = back * sum;
    return flow;
  }

  static double times_round(const Site& site, int operand, const Extents& extents) {
    double times = 1;
    for (int l = 0; l < kLoops; ++l)
      if (!has(kRelevant[operand], l)) times *= site.time[l] / extents[l];
    return times;
  }

  static Mask copies(Mask mask, std::size_t step, int number) {
    for (int done = 1; done < number;) {
      const int more = std::min(done, number - done);
      mask |= mask << more * step;
      done += more;
    }
    return mask;
  }

  int unit(int loop) const {
    return loop == P ? problem_.stride[0] : loop == Q ? problem_.stride[1]
         : loop == R ? problem_.dilation[0] : problem_.dilation[1];
  }

  // `mask` copied over the elements of those dimensions of the array.
  Mask over_array(const Site& site, Mask mask, int axis, unsigned dimensions, const Extents& inside) const {
    for (int loop : kAxes[axis]) {
      std::size_t step = static_cast<std::size_t>(unit(loop)) * inside[loop];
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
      const std::size_t step = unit(loop);
      mask = copies(mask, step, inside[loop] < extents[loop] ? inside[loop] : extents[loop]);
      if (extents[loop] > inside[loop])
        mask = copies(mask, step * inside[loop] * site.total[loop], extents[loop] / inside[loop]);
    }
    return over_array(site, mask, axis, ~inner_per(b), inside);
  }

  unsigned between(const Boundary& b) const { return inner_per(b) & ~problem_.stores[b.outer].per & ~b.apart; }

  // `upto`: the extents up to which the factors next to the tile lead.
  Axis axis_of(const Site& site, const Boundary& b, int axis, const Extents& extents, const Extents& inside,
               const Extents& upto) const {
    const Mask tile = tile_mask(site, b, axis, extents, inside);
    const unsigned shared = between(b);
    const Mask every = over_array(site, tile, axis, shared, inside);
    Axis found{double(tile.count()), kInfinite, kInfinite, double(every.count()), kInfinite, kInfinite};
    // What is new after a move by so much.
    const auto moved = [&](long distance) -> std::array<double, 2> {
      if (distance == 0) return {0, 0};
      if (!problem_.halo_reuse || std::abs(distance) >= kBits) return {found.tile, found.every};
      const Mask fresh = tile & ~(distance > 0 ? tile >> distance : tile << -distance);
      if (fresh == tile) return {found.tile, found.every};
      return {double(fresh.count()),
              found.every - (every & ~over_array(site, fresh, axis, shared, inside)).count()};
    };
    // Loops of the axis go on by one, others fall back by all of a part of them.
    std::array<long, 2> step;
    std::array<int, 2> count;
    for (int i = 0; i < 2; ++i) {
      const int loop = kAxes[axis][i];
      count[i] = site.time[loop] / extents[loop];
      step[i] = long(unit(loop)) * extents[loop] * (inside[loop] <= extents[loop] ? site.total[loop] : 1);
    }
    const auto any = [&](std::array<double, 2> fresh) {
      found.least = std::min(found.least, fresh[0]);
      found.every_least = std::min(found.every_least, fresh[1]);
    };
    const bool holes = !tile[static_cast<std::size_t>(found.tile) - 1], both = count[0] > 1 && count[1] > 1;
    for (int i = 0; i < 2; ++i)
      if (count[i] > 1) any(moved(step[i]));
    if (both || holes) {
      for (int x : divisors(count[0]))
        for (int y : divisors(count[1])) {
          if (y > 1) any(moved(step[0] - (y - 1) * step[1]));
          if (x > 1) any(moved(step[1] - (x - 1) * step[0]));
          if (x * y > 1) any(moved((x - 1) * step[0] + (y - 1) * step[1]));
        }
    }
    // The innermost factor, `part` of a loop, makes all but 1 / part of the moves; of those, the next factor, of the
    // other loop of the axis or of another axis, makes at least half.
    for (int i = 0; i < 2; ++i)
      for (int part : divisors(upto[kAxes[axis][i]] / extents[kAxes[axis][i]])) {
        if (part == 1) continue;
        const auto pure = moved(step[i]), back = moved((part - 1) * step[i]);
        auto next = back;
        double share = 2;
        if (count[1 - i] > 1) {
          next = moved(step[1 - i] - (part - 1) * step[i]);
          share = smallest_part(count[1 - i]);
        }
        const auto average = [&](double fresh, double first, double second, double least) {
          const double then = std::min(first - (first - least) / share, second - (second - least) / 2);
          return fresh - (fresh - std::min(fresh, then)) / part;
        };
        found.fresh = std::min(found.fresh, average(pure[0], next[0], back[0], found.least));
        found.every_fresh = std::min(found.every_fresh, average(pure[1], next[1], back[1], found.every_least));
        if (!both && !holes) break;
      }
    return found;
  }

  // What a move along the second axis fetches at least, if it falls back along the first: no less than one along it alone.
  static double corner(const std::array<double, 3>& first, const std::array<double, 3>& second, bool any) {
    if (!any) return 0;
    const double whole = first[0] * second[0];
    return std::max(first[1] * second[0], whole - (first[0] - first[2]) * (second[0] - second[2]));
  }

  // What fetching input costs at least for each round of the loop that it does not depend on.
  double round_at_least(const Site& site, const Boundary& b) const {
    const unsigned loops = 1u << G | 1u << N | 1u << C, inner = inner_per(b), outer = problem_.stores[b.outer].per;
    if (b.inner < 0) return 0;
    const double blocks = product(site.time, loops), room = problem_.stores[b.inner].room / b.held_bits;
    const double held = spread(site, 0, ~inner, loops);
    double within = kInfinite, without = kInfinite;
    bool mixed = false;
    for (int l : {P, Q, R, S}) mixed |= site.total[l] > 1 && site.time[l] > 1;
    for (int policy = 0; policy <= mixed; ++policy) {
      std::array<std::vector<std::pair<Axis, double>>, 2> axes;
      Extents extents, inside;
      extents.fill(1);
      inside.fill(1);
      for (int a = 0; a < 2; ++a) {
        const auto [along, window] = kAxes[a];
        for (int x : divisors(site.time[along]))
          for (int y : divisors(site.time[window])) {
            extents[along] = x, extents[window] = y;
            if (policy) inside = extents;
            const Mask tile = tile_mask(site, b, a, extents, inside);
            if (tile.count() * held <= room)
              axes[a].emplace_back(axis_of(site, b, a, extents, inside, site.time),
                                   double(site.time[along] / x) * (site.time[window] / y));
          }
        extents.fill(1);
        inside.fill(1);
      }
      for (const auto& [row, rows] : axes[0])
        for (const auto& [column, columns] : axes[1]) {
          const double size = row.tile * column.tile * held;
          if (size > room) continue;
          if (rows * columns == 1) {
            if (size * blocks <= room) return 0;
            within = std::min(within, row.tile * column.tile);
            without = std::min(without, row.every * column.every);
            continue;
          }
          const double moves = rows * columns;
          within = std::min(within, moves * std::min(row.fresh * column.tile, row.tile * column.fresh));
          without = std::min(without, moves * std::min(row.every_fresh * column.every, row.every * column.every_fresh));
        }
    }
    if (within == kInfinite) return 0;
    const unsigned shared = between(b);
    return energy(b, input_flow(b, blocks * within * spread(site, 0, ~inner, loops) * spread(site, inner, 0, 0),
                                blocks * without * spread(site, outer | (inner & b.apart), ~inner | shared, loops)));
  }

  // No order of the loops outside a tile fetches fewer elements than (first: into the tiles, second: from outside).
  std::pair<double, double> fetched_at_least(const Site& site, const Boundary& b, const Extents& extents,
                                             const Extents& inside, const Extents& upto) const {
    const auto ratio = [&](std::initializer_list<int> loops) {
      double result = 1;
      for (int l : loops) result *= site.time[l] / extents[l];
      return result;
    };
    const double blocks = ratio({G, N, C}), rows = ratio({P, R}), columns = ratio({Q, S}), again = ratio({K});
    const Axis row = axis_of(site, b, 0, extents, inside, upto), column = axis_of(site, b, 1, extents, inside, upto);
    Extents all = site.time;
    const auto least = [&](std::array<double, 3> r, std::array<double, 3> c, double r_all, double c_all) {
      const double whole = r[0] * c[0], moves = rows * columns * again;
      if (moves == 1 || (rows * columns == 1 && blocks == 1)) return whole;
      if (rows * columns == 1) return whole * again;
      double found = whole * moves;  // where the next factor starts anew
      if (std::isfinite(r[1])) found = whole + (moves - columns) * r[1] * c[0] + (columns - 1) * corner(r, c, columns > 1);
      if (std::isfinite(c[1])) found = std::min(found, whole + (moves - rows) * r[0] * c[1] + (rows - 1) * corner(c, r, rows > 1));
      return std::max(found, r_all * c_all);
    };
    const unsigned loops = 1u << G | 1u << N | 1u << C;
    const double depth = product(extents, loops) * blocks;
    const double r_all = double(tile_mask(site, b, 0, all, inside).count());
    const double c_all = double(tile_mask(site, b, 1, all, inside).count());
    const unsigned shared = between(b), inner = inner_per(b), outer = problem_.stores[b.outer].per;
    const double within = least({row.tile, row.fresh, row.least}, {column.tile, column.fresh, column.least}, r_all, c_all);
    const double without = least({row.every, row.every_fresh, row.every_least},
                                 {column.every, column.every_fresh, column.every_least}, row.every, column.every);
    return {depth * within * spread(site, 0, ~inner, loops) * spread(site, inner, 0, 0),
            depth * without * spread(site, outer | (inner & b.apart), ~inner | shared, loops)};
  }

  // The same for a whole order, exactly; `first` are the elements of the first tiles.
  struct Fetched {
    double within, without, first_within, first_without;
  };

  Fetched fetched(const Site& site, const Boundary& b, const std::vector<Factor>& temporal, int held,
                  const Extents& extents, const Extents& inside) const {
    const unsigned loops = 1u << G | 1u << N | 1u << C;
    const unsigned shared = between(b), inner = inner_per(b), outer = problem_.stores[b.outer].per;
    std::array<Mask, 2> tile, every;
    for (int a = 0; a < 2; ++a) {
      tile[a] = tile_mask(site, b, a, extents, inside);
      every[a] = over_array(site, tile[a], a, shared, inside);
    }
    const double depth = product(extents, loops);
    const double in = depth * spread(site, 0, ~inner, loops) * spread(site, inner, 0, 0);
    const double out = depth * spread(site, outer | (inner & b.apart), ~inner | shared, loops);
    const double whole = double(tile[0].count()) * tile[1].count();
    const double whole_every = double(every[0].count()) * every[1].count();
    Fetched result{whole * in, whole_every * out, whole * in, whole_every * out};
    double times = 1;
    for (std::size_t i = held; i < temporal.size(); ++i) times *= temporal[i].number;
    if (!b.kept) {
      result.within *= times;
      result.without *= times;
      return result;
    }
    Extents now = extents;  // extents of everything further in
    std::array<long, 2> fallen{};
    bool moved = false;
    for (std::size_t i = held; i < temporal.size(); ++i) {
      const auto [loop, number] = temporal[i];
      times /= number;
      const bool block = has(loops, loop);
      std::array<long, 2> distance = {-fallen[0], -fallen[1]};
      for (int a = 0; a < 2; ++a)
        if (loop == kAxes[a][0] || loop == kAxes[a][1]) {
          const long step = long(unit(loop)) * now[loop] * (now[loop] >= inside[loop] ? site.total[loop] : 1);
          distance[a] += step;
          fallen[a] += (number - 1) * step;
        }
      now[loop] *= number;
      double kept = 1, kept_every = 1;
      if (moved || block) {
        kept = kept_every = 0;
      } else {
        for (int a = 0; a < 2; ++a) {
          const long d = distance[a];
          if (d == 0) {
            kept *= tile[a].count();
            kept_every *= every[a].count();
          } else if (!problem_.halo_reuse) {
            kept = kept_every = 0;
          } else {
            const Mask fresh = tile[a] & ~(d > 0 ? tile[a] >> d : tile[a] << -d);
            kept *= (tile[a] & ~fresh).count();
            kept_every *= (every[a] & ~over_array(site, fresh, a, shared, inside)).count();
          }
        }
      }
      moved |= block;
      result.within += times * (number - 1) * (whole - kept) * in;
      result.without += times * (number - 1) * (whole_every - kept_every) * out;
    }
    return result;
  }

  Flow input_flow(const Boundary& b, double within, double without) const {
    Flow flow;
    flow.inner_write = within * b.inner_bits;
    flow.outer_read = without * b.spent * b.outer_bits;
    return flow;
  }

  double energy(const Boundary& b, const Flow& flow) const {
    const auto& outer = problem_.stores[b.outer];
    double sum = flow.outer_read * outer.read_energy + flow.outer_write * outer.write_energy;
    if (b.inner >= 0) {
      const auto& inner = problem_.stores[b.inner];
      sum += flow.inner_read * inner.read_energy + flow.inner_write * inner.write_energy;
    }
    return sum;
  }

  // --- bounds ---

  // Bits that ports have moved, and what memories that are not double-buffered keep the array waiting for.
  struct Load {
    std::array<double, 8> read{}, write{};
  };

  void add(Load& load, const Boundary& b, const Flow& flow) const {
    load.read[b.outer] += flow.outer_read;
    load.write[b.outer] += flow.outer_write;
    if (b.inner >= 0) {
      load.read[b.inner] += flow.inner_read;
      load.write[b.inner] += flow.inner_write;
    }
  }

  double port_cycles(const Site& site, int store, double read, double write) const {
    const auto& s = problem_.stores[store];
    const double instances = spread(site, s.per, 0, 0);
    if (s.shared_port) return (read + write) / instances / s.read_bandwidth;
    return std::max(read / s.read_bandwidth, write / s.write_bandwidth) / instances;
  }

  double cycles_at_least(const Site& site, const Load& load) const {
    double most = product(site.time) * problem_.step_cycles;
    for (std::size_t m = 0; m < stores_; ++m) most = std::max(most, port_cycles(site, m, load.read[m], load.write[m]));
    return most;
  }

  // What a boundary moves at least, whatever the tiles: every element once.
  Flow once(const Site& site, const Boundary& b) const {
    Extents all = site.time;
    if (b.operand != kInput) {
      Extents none;
      none.fill(1);
      return rounds(site, b, times_round(site, b.operand, b.kept ? all : none));
    }
    const unsigned loops = 1u << G | 1u << N | 1u << C, inner = inner_per(b), outer = problem_.stores[b.outer].per;
    const double blocks = product(site.time, loops) * product(site.total, loops);
    double area = 1;
    for (int a = 0; a < 2; ++a) {
      const auto [along, window] = kAxes[a];
      area *= std::max(site.time[along] * site.total[along], site.time[window] * site.total[window]);
    }
    double without = blocks * area;
    if (!b.kept) {
      double least_sets = 1;  // of the different elements that the array needs in a step
      for (int d = 0; d < static_cast<int>(site.spatial.size()); ++d) {
        const auto& s = site.spatial[d];
        if (has(outer | (inner & b.apart), d)) least_sets *= product(s);
        else least_sets *= product(s, loops) * std::max(s[P], s[R]) * std::max(s[Q], s[S]);
      }
      without = std::max(without, product(site.time) * least_sets);
    }
    double within = blocks * area;
    for (int d = 0; d < static_cast<int>(site.spatial.size()); ++d)
      if (has(inner, d)) within *= site.spatial[d][K];
    return input_flow(b, within, without);
  }

  // An input's tile, while it is not known which loops follow.
  struct Open {
    int boundary;
    Extents extents, inside;
  };

  struct State {
    Extents extents;
    std::array<Open, 8> open;
    int opened = 0;
    std::array<int, kOperands> next{};
    int last = -1;            // the boundary cut last
    std::array<double, 8> used{};
    double energy = 0;        // of the cuts made
    Load load;                // of the cuts made and at least of those to come
  };

  // What the tiles of one group that are still to be cut cost at least. They are cut in some order. Where X is cut before
  // Y, the loops that X does not depend on, but Y does, lie within Y's tile, which bounds how many rounds of X they save.
  double to_come_at_least(const Site& site, const State& state, int group) const {
    struct Rest {
      double once, again, rounds, room;  // room: times that what Y holds may still grow
    };
    std::array<Rest, kOperands> rest;
    std::array<double, 8> free{};
    int count = 0;
    std::array<int, kOperands> stores{};
    std::array<double, kOperands> bits{};
    double least = 0;
    for (int operand = 0; operand < kOperands; ++operand) {
      const int index = tile_[group][operand];
      if (index < 0 || made(state, index)) continue;
      const auto& b = problem_.boundaries[index];
      const unsigned loops = kRelevant[operand];
      bits[count] = product(state.extents, loops) * spread(site, 0, ~inner_per(b), loops) * b.held_bits;
      if (operand == kInput)  // so many pairs of a pixel and a tap may meet in one element
        bits[count] /= double(site.time[R]) * site.total[R] * site.time[S] * site.total[S];
      stores[count] = b.inner;
      if (b.inner >= 0) free[b.inner] += bits[count];
      rest[count++] = {site.once[group][operand], site.again[group][operand],
                       times_round(site, operand, state.extents), 1};
      least += site.once[group][operand];
    }
    if (count < 2) return least;
    for (int i = 0; i < count; ++i) {
      const int m = stores[i];
      if (m < 0) continue;
      rest[i].room = std::max(1.0, (problem_.stores[m].room - state.used[m] - free[m] + bits[i]) / bits[i]);
    }
    double found = kInfinite;
    std::array<int, kOperands> order = {0, 1, 2};
    do {
      const Rest &x = rest[order[0]], &y = rest[order[1]];
      const double a = x.again * x.rounds, b = count > 2 ? y.again * y.rounds : 0;
      double both = y.room, u = std::min(x.rounds, y.room), v = 1;
      if (count > 2) {
        both = rest[order[2]].room;
        u = std::min(u, both);
        v = std::min(y.rounds, both);
      }
      double cost = a / u + b / v;
      if (count > 2 && u * v > both && a + b > 0) {  // u v <= both
        u = b > 0 ? std::clamp(std::sqrt(a * both / b), both / v, u) : u;
        cost = a / u + b * u / both;
      }
      found = std::min(found, cost - x.again - (count > 2 ? y.again : 0));
    } while (std::next_permutation(order.begin(), order.begin() + count));
    return least + std::max(0.0, found);
  }

  bool made(const State& state, int index) const {
    const auto& chain = chain_[problem_.boundaries[index].operand];
    return std::find(chain.begin(), chain.begin() + state.next[problem_.boundaries[index].operand], index) !=
           chain.begin() + state.next[problem_.boundaries[index].operand];
  }

  // What no tiles on this site cost less than; `slowly`: looking closer at how windows slide.
  Cost least(Site& site, bool slowly) const {
    for (int group = 0; group < 2; ++group)
      for (int operand = 0; operand < kOperands; ++operand) {
        const int index = tile_[group][operand];
        if (index < 0) continue;
        const auto& b = problem_.boundaries[index];
        const double once_energy = energy(b, once(site, b));
        site.once[group][operand] = once_energy;
        if (operand != kInput)
          site.again[group][operand] = energy(b, rounds(site, b, 2)) - energy(b, rounds(site, b, 1));
        else if (!slides_ || slowly)
          site.again[group][operand] = slides_ ? round_at_least(site, b) : once_energy;
      }
    return cost_of(site, nothing_cut(site));
  }

  State nothing_cut(const Site& site) const {
    State state;
    state.extents.fill(1);
    for (const auto& b : problem_.boundaries) add(state.load, b, once(site, b));
    return state;
  }

  Cost cost_of(const Site& site, const State& state) const {
    Cost cost{problem_.mac_energy + state.energy, cycles_at_least(site, state.load)};
    for (std::size_t i = 0; i < problem_.boundaries.size(); ++i)
      if (in_no_group(i) && !(problem_.boundaries[i].kept && made(state, i)))
        cost.energy += energy(problem_.boundaries[i], once(site, problem_.boundaries[i]));
    for (int group = 0; group < 2; ++group) cost.energy += to_come_at_least(site, state, group);
    cost.energy += cost.cycles * problem_.idle_energy;
    return cost;
  }

  bool in_no_group(int index) const {
    const int operand = problem_.boundaries[index].operand;
    return tile_[0][operand] != index && tile_[1][operand] != index;
  }

  double inner_value(const Cost& cost) const {
    switch (problem_.objective) {
      case Objective::kEnergy: return cost.energy;
      case Objective::kLatency: return cost.cycles + 1e-6 * scale_ * cost.energy;
      default: return cost.energy * cost.cycles;
    }
  }

  double claim(const Cost& cost) const {
    return problem_.objective == Objective::kLatency ? cost.cycles : inner_value(cost);
  }

  double limit() const { return best_.empty() ? kInfinite : best_value_ * (1 - 1e-12); }

  // --- cuts, from the inside out ---

  void visit(const Site& whole) {
    Site site = whole;
    if (!slides_) {  // then nothing tells images, rows and columns apart
      site.time[N] *= site.time[P] * site.time[Q];
      site.time[P] = site.time[Q] = 1;
    }
    site_ = &site;
    apart_ = whole.time;
    bool mixed = false;
    for (int l : {P, Q, R, S}) mixed |= site.total[l] > 1 && site.time[l] > 1;
    for (int policy = 0; policy <= (mixed && slides_ && chain_[kInput].size() ? 1 : 0); ++policy) {
      policy_ = policy;
      const State state = nothing_cut(site);
      inside_.fill(1);
      path_.clear();
      cut(state);
    }
  }

  void cut(const State& state) {
    if (stopped()) return;
    if (static_cast<int>(path_.size()) == cuts_) return finish(state);
    for (int operand = 0; operand < kOperands; ++operand) {
      const auto& chain = chain_[operand];
      if (state.next[operand] == static_cast<int>(chain.size())) continue;
      unsigned loops = state.last < 0 ? 0xff : kRelevant[problem_.boundaries[state.last].operand];
      unsigned idle = kRelevant[operand];  // loops that there is no reason to take in before this tile
      if (operand == kInput && slides_) idle &= ~(1u << C | 1u << P | 1u << Q | 1u << R | 1u << S);
      loops &= ~idle;
      extend(state, chain[state.next[operand]], loops & ~(1u << G), 0);
    }
  }

  // Takes loops in, one after the other, before boundary `b` is cut.
  void extend(const State& state, int b, unsigned loops, int loop) {
    while (loop < kLoops && (!has(loops, loop) || site_->time[loop] == state.extents[loop])) ++loop;
    if (loop == kLoops) return make(state, b);
    const int operand = problem_.boundaries[b].operand;
    const bool relevant = has(kRelevant[operand], loop);
    const bool all = !relevant && static_cast<int>(path_.size()) == cuts_ - 1;
    for (int factor : divisors(site_->time[loop] / state.extents[loop])) {
      State next = state;
      next.extents[loop] *= factor;
      if (fits(next)) extend(next, b, loops, loop + 1);
      if (all || stopped()) break;
    }
  }

  double tile_bits(const Boundary& b, const Extents& extents, const Extents& inside) const {
    const unsigned outside = ~inner_per(b);
    if (b.operand != kInput)
      return product(extents, kRelevant[b.operand]) * spread(*site_, 0, outside, kRelevant[b.operand]) * b.held_bits;
    const unsigned loops = 1u << G | 1u << N | 1u << C;
    double elements = product(extents, loops) * spread(*site_, 0, outside, loops);
    for (int a = 0; a < 2; ++a) {
      const auto [along, window] = kAxes[a];
      if (extents[along] * extents[window] == 1 && site_->total[along] * site_->total[window] == 1) continue;
      elements *= tile_mask(*site_, b, a, extents, inside).count();
    }
    return elements * b.held_bits;
  }

  // Whether what is still to be held can be, if it is no more than what the loops taken in so far touch.
  bool fits(const State& state) const {
    std::array<double, 8> used = state.used;
    for (int operand = 0; operand < kOperands; ++operand)
      for (std::size_t i = state.next[operand]; i < chain_[operand].size(); ++i) {
        const auto& b = problem_.boundaries[chain_[operand][i]];
        if (b.inner < 0) {
          if (product(state.extents, kRelevant[operand]) > 1) return false;
          continue;
        }
        if (operand == kInput) used[b.inner] += least_input_bits(b, state.extents);
        else used[b.inner] += tile_bits(b, state.extents, inside_);
        if (used[b.inner] > problem_.stores[b.inner].room) return false;
      }
    return true;
  }

  double least_input_bits(const Boundary& b, const Extents& extents) const {
    const unsigned loops = 1u << G | 1u << N | 1u << C, outside = ~inner_per(b);
    double elements = product(extents, loops) * spread(*site_, 0, outside, loops);
    for (int a = 0; a < 2; ++a) {
      const auto [along, window] = kAxes[a];
      int x = extents[along], y = extents[window];
      for (int d = 0; d < static_cast<int>(site_->spatial.size()); ++d)
        if (has(outside, d)) x *= site_->spatial[d][along], y *= site_->spatial[d][window];
      elements *= x + y - 1 > 0 && (x == 1 || y == 1) ? x * y : x + y - 1;  // two sets of sums have so many at least
    }
    return elements * b.held_bits;
  }

  Flow input_at_least(const Boundary& b, const Extents& extents, const Extents& inside, const Extents& upto) const {
    const auto [within, without] = fetched_at_least(*site_, b, extents, inside, upto);
    const Flow flow = input_flow(b, within, without), least = once(*site_, b);
    return {0, std::max(flow.inner_write, least.inner_write), std::max(flow.outer_read, least.outer_read), 0};
  }

  // What follows inputs' tiles outwards is known up to `upto`: so is in what direction they move most often.
  void settle(State& state, const Extents& upto) const {
    int left = 0;
    for (int i = 0; i < state.opened; ++i) {
      const Open open = state.open[i];
      unsigned more = 0;
      for (int l = 0; l < kLoops; ++l)
        if (upto[l] > open.extents[l]) more |= 1u << l;
      if (!more) {
        state.open[left++] = open;
      } else if (more & kRelevant[kInput]) {
        const auto& b = problem_.boundaries[open.boundary];
        state.energy += energy(b, input_at_least(b, open.extents, open.inside, upto)) -
                        energy(b, input_at_least(b, open.extents, open.inside, site_->time));
      }
    }
    state.opened = left;
  }

  void make(const State& state, int index) {
    if ((++explored_ & 1023) == 0 && elapsed() > problem_.seconds) late_ = true;
    if (stopped()) return;
    const auto& b = problem_.boundaries[index];
    State next = state;
    const bool places = policy_ && b.operand == kInput && b.inner >= 0 && !placed_;
    const Extents before = inside_;
    if (places) inside_ = state.extents;
    if (b.inner >= 0) {
      next.used[b.inner] += tile_bits(b, state.extents, inside_);
      if (next.used[b.inner] > problem_.stores[b.inner].room) {
        inside_ = before;
        return;
      }
    }
    Flow flow;
    if (b.operand != kInput) {
      flow = rounds(*site_, b, times_round(*site_, b.operand, state.extents));
    } else if (b.inner < 0 && policy_) {
      flow = once(*site_, b);
    } else {
      flow = input_at_least(b, state.extents, inside_, site_->time);
    }
    const Flow least = once(*site_, b);
    settle(next, state.extents);
    if (b.operand == kInput && b.inner >= 0 && slides_) next.open[next.opened++] = {index, state.extents, inside_};
    next.energy += energy(b, flow);
    add(next.load, b,
        {flow.inner_read - least.inner_read, flow.inner_write - least.inner_write, flow.outer_read - least.outer_read,
         flow.outer_write - least.outer_write});
    ++next.next[b.operand];
    next.last = index;
    const Cost bound = cost_of(*site_, next);
    if (inner_value(bound) < limit()) {
      path_.push_back({index, state.extents});
      const bool was = placed_;
      placed_ |= places;
      cut(next);
      placed_ = was;
      path_.pop_back();
    } else {
      floor_ = std::min(floor_, claim(bound));
    }
    inside_ = before;
  }

  // --- whole mappings ---

  void finish(State state) {
    settle(state, site_->time);
    const Cost bound = cost_of(*site_, state);
    floor_ = std::min(floor_, claim(bound));
    if (inner_value(bound) >= limit()) return;
    for (const auto& order : kOrders) {
      std::vector<Factor> temporal;
      std::vector<int> held(problem_.boundaries.size(), 0);
      int inside = 0;
      Extents now;
      now.fill(1);
      const auto take = [&](const Extents& upto) {
        for (int loop : order)
          if (upto[loop] > now[loop]) temporal.push_back({loop, upto[loop] / now[loop]});
        now = upto;
      };
      bool first = true;
      for (const auto& [index, extents] : path_) {
        take(extents);
        const auto& b = problem_.boundaries[index];
        if (b.inner < 0) continue;
        held[index] = static_cast<int>(temporal.size());
        if (b.operand == kInput && policy_ && first) inside = held[index];
        if (b.operand == kInput) first = false;
      }
      take(site_->time);
      rate(temporal, held, inside);
      if (!slides_) break;
    }
  }

  void rate(const std::vector<Factor>& temporal, const std::vector<int>& held, int inside) {
    Extents within;
    within.fill(1);
    for (int i = 0; i < inside; ++i) within[temporal[i].loop] *= temporal[i].number;
    Cost cost{problem_.mac_energy, product(site_->time) * problem_.step_cycles};
    Load running, filling, draining;
    std::vector<Load> alone(stores_);
    for (std::size_t i = 0; i < held.size(); ++i) {
      const auto& b = problem_.boundaries[i];
      Extents extents;
      extents.fill(1);
      for (int j = 0; j < held[i]; ++j) extents[temporal[j].loop] *= temporal[j].number;
      Flow flow, apart;
      if (b.operand == kInput) {
        const Fetched f = fetched(*site_, b, temporal, held[i], extents, within);
        flow = input_flow(b, f.within, f.without);
        apart = input_flow(b, f.first_within, f.first_without);
      } else {
        Extents upto = extents;  // what follows and does not change the tile belongs to it
        if (b.kept)
          for (std::size_t j = held[i]; j < temporal.size() && !has(kRelevant[b.operand], temporal[j].loop); ++j)
            upto[temporal[j].loop] *= temporal[j].number;
        const double times = times_round(*site_, b.operand, upto);
        const double tiles = product(site_->time, kRelevant[b.operand]) / product(extents, kRelevant[b.operand]);
        flow = rounds(*site_, b, times);
        apart = rounds(*site_, b, 1);
        apart = {apart.inner_read / tiles, apart.inner_write / tiles, b.operand == kOutput ? 0 : apart.outer_read / tiles,
                 apart.outer_write / tiles};
      }
      cost.energy += energy(b, flow);
      if (b.waited) {
        add(b.operand == kOutput ? draining : filling, b, apart);
        flow = {flow.inner_read - apart.inner_read, flow.inner_write - apart.inner_write,
                flow.outer_read - apart.outer_read, flow.outer_write - apart.outer_write};
      }
      add(running, b, flow);
      if (b.inner >= 0 && !problem_.stores[b.inner].double_buffered) add(alone[b.inner], b, flow);
    }
    for (const auto& load : alone) cost.cycles += longest(load);
    cost.cycles = std::max(cost.cycles, longest(running)) + longest(filling) + longest(draining);
    cost.energy += cost.cycles * problem_.idle_energy;
    offer(cost, temporal, held, inside);
  }

  double longest(const Load& load) const {
    double most = 0;
    for (std::size_t m = 0; m < stores_; ++m)
      most = std::max(most, port_cycles(*site_, m, load.read[m], load.write[m]));
    return most;
  }

  void offer(const Cost& cost, const std::vector<Factor>& temporal, const std::vector<int>& held, int inside) {
    const double value = inner_value(cost);
    if (!(value < limit())) return;
    best_value_ = value;
    Found found{claim(cost), site_->spatial, {}, inside, held};
    Extents left = apart_;
    for (auto& position : found.held) position = 0;
    if (slides_) left.fill(1);
    for (std::size_t i = 0; i <= temporal.size(); ++i) {
      for (std::size_t b = 0; b < held.size(); ++b)
        if (held[b] == static_cast<int>(i)) found.held[b] = static_cast<int>(found.temporal.size());
      if (inside == static_cast<int>(i)) found.inside = static_cast<int>(found.temporal.size());
      if (i == temporal.size()) break;
      auto [loop, number] = temporal[i];
      if (!slides_ && loop == N)
        for (int part : {P, Q}) {
          const int common = std::gcd(number, left[part]);
          if (common > 1) found.temporal.push_back({part, common});
          left[part] /= common, number /= common;
        }
      if (number > 1) found.temporal.push_back({loop, number});
    }
    best_.insert(best_.begin(), std::move(found));
    if (best_.size() > kKept) best_.pop_back();
  }

  bool stopped() const { return late_ || explored_ >= budget_; }

  double elapsed() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  const Problem& problem_;
  const std::size_t stores_;
  std::array<std::vector<int>, kOperands> chain_;
  std::array<std::array<int, kOperands>, 2> tile_{};  // the boundaries of the innermost and of the outermost tiles
  int cuts_ = 0;
  bool slides_ = false, symmetric_ = false;
  double scale_ = 1;
  std::chrono::steady_clock::time_point start_;
  std::vector<Found> best_;
  double best_value_ = kInfinite, floor_ = kInfinite;
  std::int64_t explored_ = 0;
  std::int64_t budget_ = 0;
  bool late_ = false;

  const Site* site_ = nullptr;
  int policy_ = 0;
  bool placed_ = false;
  Extents inside_{}, apart_{};
  std::vector<Place> path_;
};

}  // namespace

Answer best_mapping(const Problem& problem) {
  const auto& e = problem.extents;
  // Twice the extents: factors that do not divide them pad the layer to less than that.
  const long rows = 2L * (e[P] * problem.stride[0] + e[R] * problem.dilation[0]);
  const long columns = 2L * (e[Q] * problem.stride[1] + e[S] * problem.dilation[1]);
  const long most = std::max(rows, columns);
  if (most < 128) return Search<128>(problem).run();
  if (most < 1024) return Search<1024>(problem).run();
  if (most < 1L << 13) return Search<1 << 13>(problem).run();
  return Search<1 << 17>(problem).run();
}

}  // namespace dovetail::mapper
