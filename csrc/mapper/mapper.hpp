// The search for the best mapping of a layer on an array. Knows nothing of Python; src/dovetail/hardware/mapper.py says
// which space it searches and why its bound holds.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

namespace dovetail::mapper {

enum Loop { G, N, K, C, P, Q, R, S, kLoops };
enum Operand { kInput, kWeight, kOutput, kOperands };
enum class Objective { kEnergy, kLatency, kEdp };

constexpr int kMostStores = 8, kMostBoundaries = kOperands * (kMostStores + 1);

using Extents = std::array<int, kLoops>;

struct Dimension {
  int size;
  unsigned unroll;  // bit l: loop l may be unrolled
};

struct Store {
  double room;                             // bits of one instance
  unsigned per;                            // bit d: there is one for each element along dimension d
  double read_energy, write_energy;        // of a bit
  double read_bandwidth, write_bandwidth;  // bits a cycle
  bool shared_port, double_buffered;
  double word;                             // bits; every transfer takes whole ones. 0: as many bits as it moves
};

// Between what `inner` holds of an operand (-1: the one element at a processing element) and the next memory outwards.
struct Boundary {
  int operand, inner, outer;
  unsigned apart;                 // bit d: elements along dimension d that need the same have a transfer each
  bool kept;                      // what is held stays until it changes
  bool waited;                    // the first tiles in (of outputs: the last out) are waited for
  double inner_bits, outer_bits;  // of an element (of outputs: a finished one) inside and outside
  double held_bits;               // of an element of the tile (of outputs: while they are not finished)
  double spent;                   // the part of the accesses that zeros do not save
};

struct Problem {
  Extents extents;
  std::array<int, 2> stride, dilation;
  std::vector<Dimension> dimensions;
  std::vector<Store> stores;         // kMostStores at most, from the innermost to the outermost
  std::vector<Boundary> boundaries;  // of each operand from the inside out, the operands in order
  double mac_energy, step_cycles, idle_energy, sum_bits;  // of the layer; of a step; of a cycle; of a partial sum
  bool halo_reuse;
  Objective objective;
  double seconds;       // after which the search is cut short, once something is found,
  std::int64_t budget;  // or after so many tiles
};

struct Found {
  double value;
  std::vector<Extents> spatial;              // by dimension
  std::vector<std::array<int, 2>> temporal;  // (loop, factor), the innermost first
  int inside;
  std::vector<int> held;                     // by boundary, the temporal factors that its inner tile covers
};

struct Answer {
  std::vector<Found> best;  // the best first; empty if nothing was found
  double lower_bound;
  std::int64_t explored;    // tiles priced
  bool complete;            // not cut short
};

Answer best_mapping(const Problem& problem);

}  // namespace dovetail::mapper
