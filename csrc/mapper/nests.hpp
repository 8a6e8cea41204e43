// What whole mappings cost: tiles, and an order for the loops between them.
#pragma once
#include <algorithm>
#include <utility>

#include "bounds.hpp"
#include "inputs.hpp"

namespace dovetail::mapper {

// A tile that is cut: the extents it covers with all further in, and of those the ones within a processing element.
struct Place {
  int boundary;
  Extents extents, inside;
};

// A whole order of the loops, from the inside out.
struct Nest {
  std::vector<Factor> temporal;
  std::vector<int> held;       // by boundary, the factors that its inner tile covers,
  std::vector<Extents> tiles;  // and the extents of that
  Extents inside;              // of the loops that run within a processing element,
  int within;                  // and the factors
};

template <int kBits>
class Nests {
 public:
  Nests(const Problem& problem, const Bounds& bounds, const Inputs<kBits>& inputs)
      : problem_(problem), bounds_(bounds), inputs_(inputs) {}

  // Fills in `nest`: the loops around the tiles in `path`, in this order between one tile and the next. `contiguous`:
  // the innermost tiles of inputs run within a processing element.
  void in_order(const Site& site, const std::vector<Place>& path, bool contiguous, const Extents& order,
                Nest& nest) const {
    nest.temporal.clear();
    nest.held.assign(problem_.boundaries.size(), 0);
    nest.tiles.assign(problem_.boundaries.size(), ones());
    nest.inside = ones();
    nest.within = 0;
    Extents now = ones();
    const auto take = [&](const Extents& upto) {
      for (int loop : order)
        if (upto[loop] > now[loop]) nest.temporal.push_back({loop, upto[loop] / now[loop]});
      now = upto;
    };
    bool first = contiguous;
    for (const auto& [index, extents, inside] : path) {
      take(extents);
      if (problem_.boundaries[index].inner < 0) continue;
      nest.held[index] = static_cast<int>(nest.temporal.size());
      nest.tiles[index] = extents;
      if (first && problem_.boundaries[index].operand == kInput) {
        first = false;
        nest.inside = inside;
        nest.within = nest.held[index];
      }
    }
    take(site.time);
  }

  // The energy of the inputs whose tiles stay. Before `cost` of the same nest.
  double fetch(const Site& site, const Nest& nest) {
    double spent = 0;
    for (int i = 0; i < count(); ++i) {
      const auto& b = problem_.boundaries[i];
      if (b.operand != kInput) continue;
      flows_[i] = input_flows(site, nest, i);
      if (b.kept) spent += energy(problem_, b, flows_[i].second);
    }
    return spent;
  }

  Cost cost(const Site& site, const Nest& nest) {
    Cost cost{problem_.mac_energy, product(site.time) * problem_.step_cycles};
    Load running, filling, draining;
    std::array<Load, kMostStores> alone;
    for (int i = 0; i < count(); ++i) {
      const auto& b = problem_.boundaries[i];
      if (b.operand != kInput) flows_[i] = whole_flows(site, nest, i);
      auto [apart, flow] = flows_[i];
      cost.energy += energy(problem_, b, flow);
      if (b.waited) {
        bounds_.add(b.operand == kOutput ? draining : filling, b, apart);
        flow = {flow.inner_read - apart.inner_read, flow.inner_write - apart.inner_write,
                flow.outer_read - apart.outer_read, flow.outer_write - apart.outer_write};
      }
      bounds_.add(running, b, flow);
      if (b.inner >= 0 && !problem_.stores[b.inner].double_buffered) bounds_.add(alone[b.inner], b, flow);
    }
    for (std::size_t m = 0; m < problem_.stores.size(); ++m)
      if (!problem_.stores[m].double_buffered) cost.cycles += bounds_.longest(site, alone[m]);
    cost.cycles = std::max(cost.cycles, bounds_.longest(site, running));
    cost.cycles += bounds_.longest(site, filling) + bounds_.longest(site, draining);
    cost.energy += cost.cycles * problem_.idle_energy;
    return cost;
  }

 private:
  int count() const { return static_cast<int>(problem_.boundaries.size()); }

  // What the first tiles move (of outputs: the last), and all.
  std::pair<Flow, Flow> input_flows(const Site& site, const Nest& nest, int i) const {
    const auto& b = problem_.boundaries[i];
    const auto [first, all] = inputs_.in_order(site, i, nest.temporal, nest.held[i], nest.tiles[i], nest.inside);
    return {input_flow(b, first.within, first.without), input_flow(b, all.within, all.without)};
  }

  std::pair<Flow, Flow> whole_flows(const Site& site, const Nest& nest, int i) const {
    const auto& b = problem_.boundaries[i];
    const auto& temporal = nest.temporal;
    const Extents& tile = nest.tiles[i];
    const unsigned relevant = kRelevant[b.operand];
    Extents upto = tile;  // what follows and does not change the tile belongs to it
    for (std::size_t j = nest.held[i]; b.kept && j < temporal.size() && !has(relevant, temporal[j].loop); ++j)
      upto[temporal[j].loop] *= temporal[j].number;
    const double tiles = product(site.time, relevant) / product(tile, relevant);
    const Flow once = rounds(problem_, site, i, tile, 1);
    const double outer_read = b.operand == kOutput ? 0 : once.outer_read / tiles;
    return {{once.inner_read / tiles, once.inner_write / tiles, outer_read, once.outer_write / tiles},
            rounds(problem_, site, i, tile, times_round(site, b.operand, upto))};
  }

  const Problem& problem_;
  const Bounds& bounds_;
  const Inputs<kBits>& inputs_;
  std::array<std::pair<Flow, Flow>, kMostBoundaries> flows_;  // by boundary, of the nest at hand
};

}  // namespace dovetail::mapper
