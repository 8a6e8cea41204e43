// What mappings cost at least of which only the spatial factors and the innermost tiles are known.
#pragma once
#include "site.hpp"

namespace dovetail::mapper {

// Bits that cross the ports of each memory.
struct Load {
  std::array<double, kMostStores> read{}, write{};
};

// Some tiles are cut, from the inside out.
struct State {
  Extents extents = ones();          // of all further in
  std::array<int, kOperands> cut{};  // how many tiles of each operand
  int last = -1;                     // the boundary cut last
  std::array<double, kMostStores> used{};
  double energy = 0, fetching = 0;   // at least, of the tiles cut, and of those of inputs among them
  Load load;                         // at least, of all
  std::array<signed char, kMostStores> open{};  // places in path_ of inputs, while it is not known which loops follow
  int opened = 0;
  Extents inside = ones();           // of the loops that run within a processing element
  bool finished = false;             // the sums that leave the tile of outputs cut last
};

class Bounds {
 public:
  explicit Bounds(const Problem& problem);

  // The bits of one boundary.
  void add(Load& load, const Boundary& b, const Flow& flow) const;
  // Bits of an element in the tile of a boundary that is not cut yet, at least: outputs may be finished sums there.
  double held_bits(const State& state, int boundary) const;
  // Whether the sums in a tile that covers these extents leave it finished.
  bool finishes(const Site& site, int boundary, const Extents& extents) const;
  // No tile is cut.
  State untouched(const Site& site) const;
  // Cycles that the busiest port needs.
  double longest(const Site& site, const Load& load) const;
  // By boundary at an end of its chain: the energy of each further round of the operand, of inputs that slide unknown.
  std::vector<double> all_again(const Site& site) const;
  // Whatever tiles are still to be cut.
  Cost at_least(const Site& site, const State& state) const;

  std::array<std::vector<int>, kOperands> chain;      // the boundaries of tiles, from the inside out
  int cuts = 0;                                       // tiles of a mapping
  std::array<std::array<int, kOperands>, 2> ends{};   // the boundaries of the innermost and of the outermost tiles
  bool slides;                                         // whether windows do

 private:
  bool made(const State& state, int boundary) const;
  double again(const Site& site, int i) const;
  // What those of the tiles at one end cost at least that are still to be cut, in whatever order. Where X is cut
  // before Y, the loops that X does not depend on, but Y does, lie within Y's tile: that bounds how many rounds of X
  // they save.
  double to_come_at_least(const Site& site, const State& state, const std::array<int, kOperands>& end) const;
  // The least of a (n / u - 1) + b (m / v - 1), where u <= n, room and v <= m and u v <= both.
  static double rounds_saved(double a, double n, double b, double m, double room, double both);

  const Problem& problem_;
  const int stores_;
  std::vector<int> depth_;  // by boundary, its place in its chain
};

}  // namespace dovetail::mapper
