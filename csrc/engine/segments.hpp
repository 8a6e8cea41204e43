// How many images go through which steps at a time, so that little is read from beyond the second cache.
#pragma once
#include <cstddef>
#include <vector>

namespace dovetail::engine {

// What one step takes, in bytes; all but the weights for each image.
struct Demand {
  std::size_t weights;
  std::size_t touched;  // what it reads and writes
  std::size_t live;     // what is kept while it runs, that with it
  std::size_t passed;   // what is kept for later steps
};

// Steps from `first` to `last`; `images` go through all of them before the next ones do.
struct Segment {
  int first, last, images;
};

// The segments of least traffic: weights come anew for every part of the batch, activations that do not fit in a cache
// come from the one behind it, and what passes from one segment to the next is kept for the whole batch.
std::vector<Segment> segments(const std::vector<Demand>& steps, int batch, int threads);

}  // namespace dovetail::engine
