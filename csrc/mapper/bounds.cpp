#include "bounds.hpp"

#include <algorithm>
#include <cmath>

namespace dovetail::mapper {

Bounds::Bounds(const Problem& problem) : problem_(problem), stores_(static_cast<int>(problem.stores.size())) {
  depth_.assign(problem.boundaries.size(), -1);
  for (int i = 0; i < static_cast<int>(problem.boundaries.size()); ++i) {
    const auto& b = problem.boundaries[i];
    if (!b.kept) continue;
    depth_[i] = static_cast<int>(chain[b.operand].size());
    chain[b.operand].push_back(i);
    ++cuts;
  }
  for (int operand = 0; operand < kOperands; ++operand) {
    ends[0][operand] = chain[operand].empty() ? -1 : chain[operand].front();
    ends[1][operand] = chain[operand].size() < 2 ? -1 : chain[operand].back();
  }
  slides = problem.extents[R] * problem.extents[S] > 1;
}

void Bounds::add(Load& load, const Boundary& b, const Flow& flow) const {
  load.read[b.outer] += flow.outer_read;
  load.write[b.outer] += flow.outer_write;
  if (b.inner < 0) return;
  load.read[b.inner] += flow.inner_read;
  load.write[b.inner] += flow.inner_write;
}

State Bounds::untouched(const Site& site) const {
  State state;
  for (std::size_t i = 0; i < problem_.boundaries.size(); ++i) add(state.load, problem_.boundaries[i], site.once[i]);
  return state;
}

double Bounds::longest(const Site& site, const Load& load) const {
  double most = 0;
  for (int m = 0; m < stores_; ++m) {
    const auto& s = problem_.stores[m];
    const double read = load.read[m], write = load.write[m];
    const double time = s.shared_port ? (read + write) / s.read_bandwidth
                                      : std::max(read / s.read_bandwidth, write / s.write_bandwidth);
    most = std::max(most, time / site.instances[m]);
  }
  return most;
}

Cost Bounds::at_least(const Site& site, const State& state) const {
  Cost cost{problem_.mac_energy + state.energy,
            std::max(product(site.time) * problem_.step_cycles, longest(site, state.load))};
  for (int i = 0; i < static_cast<int>(problem_.boundaries.size()); ++i) {
    const auto& b = problem_.boundaries[i];
    const bool at_end = ends[0][b.operand] == i || ends[1][b.operand] == i;
    if (!at_end && !made(state, i)) cost.energy += energy(problem_, b, site.once[i]);
  }
  for (const auto& end : ends) cost.energy += to_come_at_least(site, state, end);
  cost.energy += cost.cycles * problem_.idle_energy;
  return cost;
}

double Bounds::held_bits(const State& state, int boundary) const {
  const auto& b = problem_.boundaries[boundary];
  const int further = depth_[boundary] - state.cut[b.operand];
  if (b.operand != kOutput || depth_[boundary] == 0) return b.held_bits;
  if (further == 0) return state.finished ? b.inner_bits : b.held_bits;
  return std::min(b.inner_bits, b.held_bits);
}

bool Bounds::finishes(const Site& site, int boundary, const Extents& extents) const {
  return site.shares[boundary].together && times_round(site, kOutput, extents) == 1;
}

bool Bounds::made(const State& state, int boundary) const {
  return depth_[boundary] >= 0 && state.cut[problem_.boundaries[boundary].operand] > depth_[boundary];
}

std::vector<double> Bounds::all_again(const Site& site) const {
  std::vector<double> all(problem_.boundaries.size(), 0);
  for (const auto& end : ends)
    for (const int i : end)
      if (i >= 0) all[i] = again(site, i);
  return all;
}

double Bounds::again(const Site& site, int i) const {
  if (!site.again.empty()) return site.again[i];
  const auto& b = problem_.boundaries[i];
  if (b.operand == kInput && slides) return 0;
  if (b.operand == kInput) return energy(problem_, b, site.once[i]);
  const Extents tile = fullest(site, b);
  return energy(problem_, b, rounds(problem_, site, i, tile, 2)) -
         energy(problem_, b, rounds(problem_, site, i, tile, 1));
}

double Bounds::to_come_at_least(const Site& site, const State& state, const std::array<int, kOperands>& end) const {
  struct Rest {
    double again, rounds, bits, room;
    int store;
  };
  std::array<Rest, kOperands> rest;
  std::array<double, kMostStores> wanted{};
  int count = 0;
  double least = 0;
  for (int operand = 0; operand < kOperands; ++operand) {
    const int i = end[operand];
    if (i < 0 || made(state, i)) continue;
    const auto& b = problem_.boundaries[i];
    double bits = product(state.extents, kRelevant[operand]) * held_bits(state, i);
    if (operand != kInput) {
      bits *= site.shares[i].held;
    } else {
      bits *= spread(site, 0, ~inner_per(problem_, b), kRelevant[kInput]) / site.pairs[i];
    }
    if (b.inner >= 0) wanted[b.inner] += bits;
    rest[count++] = {again(site, i), times_round(site, operand, state.extents), bits, 1, b.inner};
    least += energy(problem_, b, site.once[i]);
  }
  if (count < 2) return least;
  for (int i = 0; i < count; ++i)
    if (const int m = rest[i].store; m >= 0 && rest[i].bits > 0)
      rest[i].room = 1 + std::max(0.0, problem_.stores[m].room - state.used[m] - wanted[m]) / rest[i].bits;
  double more = kInfinite;
  std::array<int, kOperands> order = {0, 1, 2};
  do {
    const Rest &x = rest[order[0]], &y = rest[order[1]];
    if (count == 2) more = std::min(more, x.again * (x.rounds / std::min(x.rounds, y.room) - 1));
    else more = std::min(more, rounds_saved(x.again, x.rounds, y.again, y.rounds, y.room, rest[order[2]].room));
  } while (std::next_permutation(order.begin(), order.begin() + count));
  return least + std::max(0.0, more);
}

double Bounds::rounds_saved(double a, double n, double b, double m, double room, double both) {
  double u = std::min({n, room, both}), v = std::min(m, both);
  if (u * v > both && a + b > 0) {
    if (b > 0) u = std::clamp(std::sqrt(a * n * both / (b * m)), both / v, u);
    v = both / u;
  }
  return a * (n / u - 1) + b * (m / v - 1);
}

}  // namespace dovetail::mapper
