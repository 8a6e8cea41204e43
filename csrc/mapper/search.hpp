// Through all spatial choices and all chains of tiles, leaving out what a bound says cannot be better.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <numeric>

#include "bounds.hpp"
#include "inputs.hpp"
#include "nests.hpp"

namespace dovetail::mapper {

template <int kBits>
class Search {
  // One more tile is cut.
  struct Next {
    State state;
    Cost bound;
  };

 public:
  explicit Search(const Problem& problem)
      : problem_(problem), bounds_(problem), inputs_(problem), nests_(problem, bounds_, inputs_), next_(bounds_.cuts), order_(bounds_.cuts) {}

  Answer run() {
    std::vector<Site> all = sites(problem_);
    scale_ = kInfinite;
    for (auto& site : all) {
      site.least = bounds_.at_least(site, bounds_.untouched(site));
      scale_ = std::min(scale_, site.least.cycles / std::max(site.least.energy, 1e-300));
    }
    std::vector<Site*> order;
    for (auto& site : all) order.push_back(&site);
    sort(order);
    // Ever longer looks at all, the most promising first, to have something good early; the last one is to the end, and
    // longer still where what was found is far from the bound.
    const std::int64_t budget = problem_.budget, longer = std::min(budget, INT64_MAX / 10) * 10;
    for (std::int64_t look : {kLook, 10 * kLook, budget, longer}) {
      const bool last = look >= budget;
      if (look > budget && !far(order)) break;
      std::vector<Site*> left;
      int looked = 0;
      for (Site* site : order) {
        if (value(site->least) < limit() && look != kLook && !site->looked_at) closer(*site);
        if (value(site->least) >= limit()) {
          floor_ = std::min(floor_, claim(site->least));
          continue;
        }
        stop_ = last ? look : std::min(budget, explored_ + look);
        if (!stopped() && (last || looked++ < kLooked) && visit(*site)) continue;
        left.push_back(site);
      }
      order = std::move(left);
      sort(order);
    }
    for (Site* site : order) floor_ = std::min(floor_, claim(site->least));
    Answer answer{best_, floor_, explored_, order.empty()};
    if (!best_.empty()) answer.lower_bound = std::min(floor_, best_.front().value);
    return answer;
  }

 private:
  static constexpr std::int64_t kLook = 100;  // tiles of one spatial choice
  static constexpr int kLooked = 200;          // spatial choices
  static constexpr double kFar = 0.8;
  static constexpr std::size_t kCandidates = 6;  // Python counts them once more, with what is only bounded here

  void sort(std::vector<Site*>& order) const {
    std::stable_sort(order.begin(), order.end(),
                     [&](const Site* a, const Site* b) { return value(a->least) < value(b->least); });
  }

  // --- the objective ---

  // What is compared: of equally quick mappings the one that takes least energy is better.
  double value(const Cost& cost) const {
    switch (problem_.objective) {
      case Objective::kEnergy: return cost.energy;
      case Objective::kLatency: return cost.cycles + 1e-6 * scale_ * cost.energy;
      default: return cost.energy * cost.cycles;
    }
  }

  double claim(const Cost& cost) const {
    return problem_.objective == Objective::kLatency ? cost.cycles : value(cost);
  }

  // Whether a site that is left might be much better than what was found.
  bool far(const std::vector<Site*>& order) const {
    return std::any_of(order.begin(), order.end(), [&](Site* site) { return claim(site->least) < kFar * limit(); });
  }

  double limit() const { return best_.empty() ? kInfinite : best_value_ * (1 - 1e-12); }

  bool stopped() const { return !best_.empty() && (late_ || explored_ >= stop_); }

  // With what it costs at least to fetch inputs again.
  void closer(Site& site) {
    site.looked_at = true;
    if (!bounds_.slides) return;
    inputs_.forget();
    site.again = bounds_.all_again(site);
    for (const auto& group : bounds_.ends)
      if (const int i = group[kInput]; i >= 0) {
        const auto tiles = inputs_.any_tile(site, i);
        const auto& b = problem_.boundaries[i];
        site.again[i] = energy(problem_, b, input_flow(b, tiles.again.within, tiles.again.without));
        site.pairs[i] = std::min(site.pairs[i], tiles.pairs);
      }
    site.least = bounds_.at_least(site, bounds_.untouched(site));
  }

  // --- chains of tiles ---

  // Whether it was looked at to the end.
  bool visit(const Site& whole) {
    Site site = whole;
    if (!bounds_.slides) {  // then nothing tells images, rows and columns apart
      site.time[N] *= site.time[P] * site.time[Q];
      site.time[P] = site.time[Q] = 1;
    }
    if (site.again.empty()) site.again = bounds_.all_again(site);
    site_ = &site;
    inputs_.forget();
    apart_ = whole.time;
    const double floor = floor_;
    const bool either = bounds_.slides && inputs_.inside_matters(site) && !bounds_.chain[kInput].empty();
    for (bool contiguous : {false, true}) {
      if (contiguous && !either) break;
      contiguous_ = contiguous;
      path_.clear();
      cut(bounds_.untouched(site));
    }
    if (stopped()) floor_ = floor;
    return !stopped();
  }

  void cut(const State& state) {
    if (stopped()) return;
    if (static_cast<int>(path_.size()) == bounds_.cuts) return finish(state);
    auto& next = next_[path_.size()];
    next.clear();
    for (int operand = 0; operand < kOperands; ++operand) {
      const auto& chain = bounds_.chain[operand];
      if (state.cut[operand] == static_cast<int>(chain.size())) continue;
      // Loops that there is no reason to take in: before this tile, and after the one before.
      Extents extents = state.extents;
      unsigned idle = loops({G}) | kRelevant[operand];
      if (operand == kInput && bounds_.slides) idle &= ~(kSliding | loops({C}));
      if (in_words(chain[state.cut[operand]])) idle = 0;  // larger tiles may fill words
      if (state.last >= 0) idle |= ~kRelevant[problem_.boundaries[state.last].operand];
      take_in(state, extents, chain[state.cut[operand]], ~idle, 0);
    }
    // The most promising first, for what it finds to rule out others.
    auto& order = order_[path_.size()];
    order.clear();
    for (int i = 0; i < static_cast<int>(next.size()); ++i) order.push_back({value(next[i].bound), i});
    std::sort(order.begin(), order.end());
    for (const auto& [least, i] : order) {
      const State& state = next[i].state;
      if (stopped()) return;
      if (least >= limit()) {
        floor_ = std::min(floor_, claim(next[i].bound));
        continue;
      }
      path_.push_back({state.last, state.extents, state.inside});
      cut(state);
      path_.pop_back();
    }
  }

  // Takes loops in, one after the other, before boundary `b` is cut.
  void take_in(const State& state, Extents& extents, int b, unsigned wanted, int loop) {
    while (loop < kLoops && (!has(wanted, loop) || site_->time[loop] == extents[loop])) ++loop;
    if (loop == kLoops) return make(state, extents, b);
    const int operand = problem_.boundaries[b].operand;
    const bool relevant = has(kRelevant[operand], loop);
    const bool all = !relevant && static_cast<int>(path_.size()) == bounds_.cuts - 1;
    const bool none = relevant && in_words(b) && (operand != kInput || !bounds_.slides) && fills(b, extents);
    const int before = extents[loop];
    for (int factor : divisors(site_->time[loop] / before)) {
      if (none && factor > 1) continue;
      extents[loop] = before * factor;
      if (fits(state, extents)) take_in(state, extents, b, wanted, loop + 1);
      if (all || stopped()) break;
    }
    extents[loop] = before;
  }

  bool in_words(int boundary) const {
    const auto& b = problem_.boundaries[boundary];
    return b.inner >= 0 && (problem_.stores[b.inner].word > 0 || problem_.stores[b.outer].word > 0);
  }

  // Whether a tile leaves no word half empty: a larger one is no better.
  bool fills(int boundary, const Extents& extents) const {
    const auto& b = problem_.boundaries[boundary];
    const auto& share = site_->shares[boundary];
    const double tile = product(extents, kRelevant[b.operand]);
    const auto full = [](const Store& store, double bits) { return carried(store, bits) <= bits; };
    const auto both = [&](double inner_bits, double outer_bits) {
      return full(problem_.stores[b.inner], tile * share.held * inner_bits) &&
             full(problem_.stores[b.outer], tile * share.without / share.apart * outer_bits);
    };
    const double sums = problem_.sum_bits;
    return both(b.inner_bits, b.outer_bits) && (b.operand != kOutput || both(sums, sums));
  }

  // Whether there is room for the tiles to come if they cover no more than what is further in.
  bool fits(const State& state, const Extents& extents) const {
    std::array<double, kMostStores> used = state.used;
    for (int operand = 0; operand < kOperands; ++operand)
      for (std::size_t d = state.cut[operand]; d < bounds_.chain[operand].size(); ++d) {
        const int i = bounds_.chain[operand][d];
        const auto& b = problem_.boundaries[i];
        if (b.inner < 0 && product(extents, kRelevant[operand]) > 1) return false;
        if (b.inner < 0) continue;
        double elements = site_->shares[i].held;
        if (operand != kInput) elements *= product(extents, kRelevant[operand]);
        else elements *= product(extents, kBlock);
        if (operand == kInput)
          for (const auto& [along, window] : kAxes) {
            double x = extents[along], y = extents[window];
            for (int d = 0; d < static_cast<int>(site_->spatial.size()); ++d)
              if (!has(inner_per(problem_, b), d)) x *= site_->spatial[d][along], y *= site_->spatial[d][window];
            elements *= x + y - 1;  // so many different sums at least
          }
        used[b.inner] += elements * bounds_.held_bits(state, i);
        if (used[b.inner] > problem_.stores[b.inner].room) return false;
      }
    return true;
  }

  void make(const State& state, const Extents& extents, int index) {
    if ((++explored_ & 255) == 0 && seconds() > problem_.seconds) late_ = true;
    if (stopped()) return;
    const auto& b = problem_.boundaries[index];
    State next = state;
    next.extents = extents;
    if (contiguous_ && b.operand == kInput && b.inner >= 0 && next.inside == ones()) next.inside = extents;
    if (b.inner >= 0) {
      next.used[b.inner] += tile_elements(index, extents, next.inside) * bounds_.held_bits(state, index);
      if (next.used[b.inner] > problem_.stores[b.inner].room) return;
    }
    const Flow least = site_->once[index];
    settle(next, extents);
    Flow flow = least;
    if (b.operand != kInput) {
      flow = rounds(problem_, *site_, index, extents, times_round(*site_, b.operand, extents));
    } else if (b.inner >= 0 || !contiguous_) {
      flow = input_at_least(index, extents, next.inside, site_->time);
      if (bounds_.slides) next.open[next.opened++] = static_cast<signed char>(path_.size());
    }
    const double spent = energy(problem_, b, flow);
    next.energy += spent;
    if (b.operand == kInput) next.fetching += spent;
    bounds_.add(next.load, b, {flow.inner_read - least.inner_read, flow.inner_write - least.inner_write,
                       flow.outer_read - least.outer_read, flow.outer_write - least.outer_write});
    ++next.cut[b.operand];
    if (b.operand == kOutput) next.finished = bounds_.finishes(*site_, index, extents);
    next.last = index;
    const Cost bound = bounds_.at_least(*site_, next);
    if (value(bound) >= limit()) {
      floor_ = std::min(floor_, claim(bound));
      return;
    }
    next_[path_.size()].push_back({next, bound});
  }

  double tile_elements(int index, const Extents& extents, const Extents& inside) const {
    const auto& b = problem_.boundaries[index];
    if (b.operand == kInput) return inputs_.tile_elements(*site_, index, extents, inside);
    return product(extents, kRelevant[b.operand]) * site_->shares[index].held;
  }

  Flow input_at_least(int index, const Extents& extents, const Extents& inside, const Extents& upto) const {
    const auto [within, without] = inputs_.at_least(*site_, index, extents, inside, upto);
    const Flow flow = input_flow(problem_.boundaries[index], within, without), least = site_->once[index];
    return {.inner_write = std::max(flow.inner_write, least.inner_write),
            .outer_read = std::max(flow.outer_read, least.outer_read)};
  }

  // What follows the open tiles is known up to `upto`, and with it how they move most often.
  void settle(State& state, const Extents& upto) const {
    int left = 0;
    for (int i = 0; i < state.opened; ++i) {
      const Place& open = path_[state.open[i]];
      unsigned more = 0;
      for (int l = 0; l < kLoops; ++l)
        if (upto[l] > open.extents[l]) more |= 1u << l;
      if (!more) {
        state.open[left++] = state.open[i];
      } else if (more & kRelevant[kInput]) {
        const auto& b = problem_.boundaries[open.boundary];
        const double more = energy(problem_, b, input_at_least(open.boundary, open.extents, open.inside, upto)) -
                            energy(problem_, b, input_at_least(open.boundary, open.extents, open.inside, site_->time));
        state.energy += more;
        state.fetching += more;
      }
    }
    state.opened = left;
  }

  // --- whole mappings ---

  void finish(State state) {
    settle(state, site_->time);
    const Cost bound = bounds_.at_least(*site_, state);
    floor_ = std::min(floor_, claim(bound));
    if (value(bound) >= limit()) return;
    static constexpr std::array<Extents, 4> orders = {{
        {P, R, Q, S, K, C, N, G}, {Q, S, P, R, K, C, N, G}, {R, P, S, Q, K, C, N, G}, {S, Q, R, P, K, C, N, G}}};
    for (int i = 0; i < (bounds_.slides ? 4 : 1); ++i) {
      std::swap(nest_, before_);
      nests_.in_order(*site_, path_, contiguous_, orders[i], nest_);
      if (i == 0 || nest_.temporal != before_.temporal) rate(state, bound);
    }
  }

  // Of nest_, which costs `bound` at least, of which `state` knows the least of its inputs.
  void rate(const State& state, Cost bound) {
    bound.energy += nests_.fetch(*site_, nest_) - state.fetching;
    if (value(bound) >= limit()) return;
    const Cost cost = nests_.cost(*site_, nest_);
    if (value(cost) < limit()) keep(cost, nest_);
  }

  // Images, rows and columns that were one loop are three again.
  void keep(const Cost& cost, const Nest& nest) {
    const auto& [temporal, held, tiles, inside, within] = nest;
    best_value_ = value(cost);
    Found found{claim(cost), site_->spatial, {}, 0, std::vector<int>(held.size(), 0)};
    Extents left = bounds_.slides ? ones() : apart_;
    for (int i = 0; i <= static_cast<int>(temporal.size()); ++i) {
      const int position = static_cast<int>(found.temporal.size());
      for (std::size_t b = 0; b < held.size(); ++b)
        if (held[b] == i) found.held[b] = position;
      if (within == i) found.inside = position;
      if (i == static_cast<int>(temporal.size())) break;
      auto [loop, number] = temporal[i];
      for (int part : {P, Q}) {
        if (bounds_.slides || loop != N) break;
        const int common = std::gcd(number, left[part]);
        if (common > 1) found.temporal.push_back({part, common});
        left[part] /= common;
        number /= common;
      }
      if (number > 1) found.temporal.push_back({loop, number});
    }
    best_.insert(best_.begin(), std::move(found));
    if (best_.size() > kCandidates) best_.pop_back();
  }

  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  const Problem& problem_;
  const Bounds bounds_;
  Inputs<kBits> inputs_;
  Nests<kBits> nests_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double scale_ = 0;  // cycles for a unit of energy

  std::vector<Found> best_;
  double best_value_ = kInfinite, floor_ = kInfinite;
  std::int64_t explored_ = 0, stop_ = 0;
  bool late_ = false;

  const Site* site_ = nullptr;
  Extents apart_{};          // its steps before images, rows and columns became one loop
  bool contiguous_ = false;  // whether the innermost tiles of inputs run within a processing element
  std::vector<Place> path_;
  Nest nest_, before_;       // of the order at hand and of the one before
  // By how many tiles are cut before, the next ones, and their least values in ascending order.
  std::vector<std::vector<Next>> next_;
  std::vector<std::vector<std::pair<double, int>>> order_;
};

}  // namespace dovetail::mapper
