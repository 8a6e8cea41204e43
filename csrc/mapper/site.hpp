// How loops may be spread over the array, and what that alone says about the cost.
#pragma once
#include <cstdint>
#include <limits>
#include <vector>

#include "mapper.hpp"

namespace dovetail::mapper {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

constexpr unsigned loops(std::initializer_list<int> members) {
  unsigned set = 0;
  for (int member : members) set |= 1u << member;
  return set;
}

constexpr std::array<unsigned, kOperands> kRelevant = {
    loops({G, N, C, P, Q, R, S}), loops({G, K, C, R, S}), loops({G, N, K, P, Q})};
constexpr unsigned kBlock = loops({G, N, C});    // inputs share nothing across them,
constexpr unsigned kSliding = loops({P, Q, R, S});  // windows slide along these:
constexpr std::array<std::array<int, 2>, 2> kAxes = {{{P, R}, {Q, S}}};

inline bool has(unsigned set, int member) { return set >> member & 1; }

inline double product(const Extents& extents, unsigned of = ~0u) {
  double result = 1;
  for (int l = 0; l < kLoops; ++l) result *= has(of, l) ? extents[l] : 1;
  return result;
}

inline Extents ones() {
  Extents result;
  result.fill(1);
  return result;
}

// The divisors of a number, the largest first.
const std::vector<int>& divisors(int number);

// What a layer costs, or at least costs.
struct Cost {
  double energy = 0, cycles = 0;
};

// Bits that cross the ports on the two sides of a boundary.
struct Flow {
  double inner_read = 0, inner_write = 0, outer_read = 0, outer_write = 0;
};

// How many elements of an operand the array moves across a boundary, for each that one processing element needs.
struct Share {
  double within;    // into all instances of the inner memory
  double without;   // from (of outputs: to) the outer memory
  double distinct;  // different ones, of every instance of the outer memory its own
  double held;      // in one tile of the inner memory
  double apart;     // transfers at a time from (to) the outer memory, which have `without` evenly,
  double complete;  // and those of them, of outputs, that carry every sum once
  bool whole_within, whole_without;  // no sum is spread over what lies inside, outside
  bool together;     // all parts of a sum that the array has at a time reach the outer memory as one
};

struct Site {
  std::vector<Extents> spatial;  // by dimension
  Extents total, time;           // by loop: elements of the array along it, and steps
  std::vector<Share> shares;     // by boundary; of inputs without the sliding loops
  std::vector<Flow> once;        // by boundary: if every element moves once, the least it can
  std::vector<double> instances; // by memory, those at work
  std::vector<double> again;     // by boundary at an end of its chain: energy of each further round, at least
  std::vector<double> pairs;     // by boundary of inputs: pairs of a pixel and a tap that share an element, at most
  Cost least;                    // of all mappings that spread the loops so
  bool looked_at = false;        // closely, at what they cost at least
};

// The product over the dimensions in `all` of all factors, and over those in `some` of the factors of `loops`.
double spread(const Site& site, unsigned all, unsigned some = 0, unsigned loops = 0);

// The dimensions that tell instances of the inner memory apart, and those along which they share what they need.
inline unsigned inner_per(const Problem& problem, const Boundary& b) {
  return b.inner < 0 ? ~0u : problem.stores[b.inner].per;
}
inline unsigned shared(const Problem& problem, const Boundary& b) {
  return inner_per(problem, b) & ~problem.stores[b.outer].per & ~b.apart;
}

// All that differ, without those that need more elements than others for the same number of steps of every loop.
std::vector<Site> sites(const Problem& problem);

// The bits of the words that one transfer takes, and the elements of so many bits that would fill them.
inline double carried(const Store& store, double bits) {
  if (store.word == 0) return bits;
  const double words = bits / store.word - 1e-9;
  const double whole = static_cast<std::int64_t>(words);  // std::ceil is a call where there is no SSE4
  return store.word * (whole < words ? whole + 1 : whole);
}
inline double filled(const Store& store, double elements, double bits) {
  return store.word > 0 && bits > 0 ? carried(store, elements * bits) / bits : elements;
}

// Weights and outputs, if the whole operand goes round so many times, in tiles of these extents.
Flow rounds(const Problem& problem, const Site& site, int boundary, const Extents& extents, double times);

// The extents of the tile that takes the fewest words: the fewer the transfers, the fewer of them.
inline Extents fullest(const Site& site, const Boundary& b) { return b.inner < 0 ? ones() : site.time; }

// How often it goes round if the tile and all further in cover these extents.
double times_round(const Site& site, int operand, const Extents& extents);

// Inputs, from elements.
Flow input_flow(const Boundary& b, double within, double without);

double energy(const Problem& problem, const Boundary& b, const Flow& flow);

}  // namespace dovetail::mapper
