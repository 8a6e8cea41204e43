#include "segments.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace dovetail::engine {

namespace {

// What starting a step once more costs, as traffic.
constexpr double start_bytes = 16384;
// What a byte costs that comes from memory, where one from the third cache costs 1.
constexpr double memory_cost = 3;

// Of one core's caches as Linux tells them; sysconf() adds up the third ones of the whole processor.
double cache_bytes(int level, double usual) {
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(level) + "/size");
  double kilobytes = 0;
  return file >> kilobytes && kilobytes > 0 ? kilobytes * 1024 : usual;
}

// Half of the caches is left to what else is in them.
struct Caches {
  double second = cache_bytes(2, 1 << 19) / 2, third = cache_bytes(3, 1 << 23) / 2;
};

// Of a byte that is used again once `bytes` have been used.
double cost_again(double bytes, const Caches& caches) {
  return bytes <= caches.second ? 0 : bytes <= caches.third ? 1 : memory_cost;
}

// One of the batch, two, four and so on, and all.
std::vector<int> sizes_of_parts(int batch) {
  std::vector<int> sizes;
  for (int images = 1; images < batch; images *= 2) sizes.push_back(images);
  sizes.push_back(batch);
  return sizes;
}

struct Choice {
  double cost = std::numeric_limits<double>::infinity();
  int before = 0;  // the choice for the step before
};

}  // namespace

std::vector<Segment> segments(const std::vector<Demand>& steps, int batch, int threads) {
  static const Caches one_core;
  const Caches caches{one_core.second * threads, one_core.third};
  double weights = 0;
  for (const Demand& step : steps) weights += double(step.weights);
  const std::vector<int> sizes = sizes_of_parts(batch);

  // The least cost of the steps so far, by how many images go through the last one at a time.
  std::vector<std::vector<Choice>> table;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const Demand& step = steps[i];
    table.emplace_back(sizes.size());
    for (std::size_t now = 0; now < sizes.size(); ++now) {
      const double images = sizes[now], parts = double((batch + sizes[now] - 1) / sizes[now]);
      // Small weights stay, beside activations that fit.
      const double again = cost_again(weights + images * double(step.live), caches);
      const double cost = parts * (start_bytes + double(step.weights) * again) +
                          batch * double(step.touched) * cost_again(images * double(step.live), caches);
      Choice& best = table[i][now];
      for (std::size_t before = 0; before < (i ? sizes.size() : 1); ++before) {
        double sum = cost;
        if (i) sum += table[i - 1][before].cost;
        if (i && before != now) {
          const double passed = batch * double(steps[i - 1].passed);
          sum += 2 * passed * cost_again(passed, caches);
        }
        if (sum < best.cost) best = {sum, int(before)};
      }
    }
  }

  std::vector<Segment> found;
  if (steps.empty()) return found;
  const auto cheaper = [](const Choice& a, const Choice& b) { return a.cost < b.cost; };
  int size = int(std::min_element(table.back().begin(), table.back().end(), cheaper) - table.back().begin());
  for (int step = int(steps.size()) - 1; step >= 0; --step) {
    if (found.empty() || found.back().images != sizes[size]) found.push_back({step, step, sizes[size]});
    found.back().first = step;
    size = table[step][size].before;
  }
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace dovetail::engine
