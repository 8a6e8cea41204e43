#include "site.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <unordered_map>
#include <unordered_set>

namespace dovetail::mapper {
namespace {

class Enumeration {
 public:
  explicit Enumeration(const Problem& problem) : problem_(problem) {
    for (int d = 0; d < dimensions(); ++d) like_.push_back(first_like(d));
    const auto& e = problem.extents;
    mirrored_ = e[P] == e[Q] && e[R] == e[S] && problem.stride[0] == problem.stride[1] &&
                problem.dilation[0] == problem.dilation[1];
    for (const auto& d : problem.dimensions)
      mirrored_ &= has(d.unroll, P) == has(d.unroll, Q) && has(d.unroll, R) == has(d.unroll, S);
  }

  std::vector<Site> run() {
    Extents now = ones();
    for (const auto& dimension : problem_.dimensions)
      unroll(dimension, 0, dimension.size, now, choices_.emplace_back());
    site_.spatial.resize(choices_.size());
    combine(0);
    return std::move(found_);
  }

 private:
  int dimensions() const { return static_cast<int>(problem_.dimensions.size()); }

  void unroll(const Dimension& dimension, int loop, int room, Extents& now, std::vector<Extents>& found) {
    if (loop == kLoops) return found.push_back(now);
    const int most = has(dimension.unroll, loop) ? std::min(room, problem_.extents[loop]) : 1;
    for (int factor = 1; factor <= most; ++factor) {
      now[loop] = factor;
      unroll(dimension, loop + 1, room / factor, now, found);
    }
    now[loop] = 1;
  }

  // Of dimensions that nothing tells apart, only the products of their factors matter.
  int first_like(int d) const {
    for (int other = 0; other < d; ++other) {
      const auto same = [&](unsigned set) { return has(set, d) == has(set, other); };
      if (std::all_of(problem_.boundaries.begin(), problem_.boundaries.end(), [&](auto& b) { return same(b.apart); }) &&
          std::all_of(problem_.stores.begin(), problem_.stores.end(), [&](auto& s) { return same(s.per); }))
        return other;
    }
    return d;
  }

  void combine(std::size_t d) {
    if (d < choices_.size()) {
      const bool again = like_[d] < static_cast<int>(d) && choices_[like_[d]] == choices_[d];
      for (const auto& choice : choices_[d]) {
        if (again && choice < site_.spatial[like_[d]]) continue;  // has been, the other way round
        site_.spatial[d] = choice;
        combine(d + 1);
      }
      return;
    }
    site_.total = ones();
    for (const auto& spatial : site_.spatial)
      for (int l = 0; l < kLoops; ++l) site_.total[l] *= spatial[l];
    for (int l = 0; l < kLoops; ++l) {
      const int extent = problem_.extents[l];
      site_.time[l] = extent;
      if (site_.total[l] == 1) continue;
      site_.time[l] = (extent + site_.total[l] - 1) / site_.total[l];
      for (const auto& spatial : site_.spatial) {
        if (spatial[l] == 1) continue;
        const int fewer = site_.total[l] / spatial[l] * (spatial[l] - 1);
        if ((extent + fewer - 1) / fewer == site_.time[l]) return;
      }
    }
    if (seen_.insert(key()).second) found_.push_back(site_);
  }

  // A picture and its mirror image cost the same.
  std::u16string key() const {
    std::u16string key(choices_.size() * kLoops, 1);
    for (int d = 0; d < dimensions(); ++d)
      for (int l = 0; l < kLoops; ++l) key[like_[d] * kLoops + l] *= site_.spatial[d][l];
    if (!mirrored_) return key;
    std::u16string other = key;
    for (int d = 0; d < dimensions(); ++d)
      for (const auto& [a, b] : {std::pair{P, Q}, std::pair{R, S}})
        std::swap(other[d * kLoops + a], other[d * kLoops + b]);
    return std::min(key, other);
  }

  const Problem& problem_;
  std::vector<int> like_;
  bool mirrored_;
  std::vector<std::vector<Extents>> choices_;
  Site site_;
  std::unordered_set<std::u16string> seen_;
  std::vector<Site> found_;
};

Share share_of(const Problem& problem, const Site& site, const Boundary& b) {
  const unsigned inner = inner_per(problem, b), outer = problem.stores[b.outer].per;
  const unsigned relevant = b.operand == kInput ? kBlock : kRelevant[b.operand];
  const double held = spread(site, 0, ~inner, relevant);
  const unsigned single = outer | (inner & b.apart);
  const bool whole_without = b.inner >= 0 && spread(site, outer) == spread(site, 0, outer, relevant);
  return {.within = held * spread(site, inner),
          .without = spread(site, single, ~single, relevant),
          .distinct = spread(site, outer, ~outer, relevant),
          .held = held,
          .apart = spread(site, single),
          .complete = spread(site, outer, single, relevant),
          .whole_within = whole_without && spread(site, inner) == spread(site, 0, inner, relevant),
          .whole_without = whole_without,
          .together = b.inner >= 0 && spread(site, single) == spread(site, 0, single, relevant)};
}

// How many different sums there are of a multiple of `stride` below `pixels` of them and one of `dilation`.
int positions(int pixels, int stride, int taps, int dilation) {
  thread_local std::map<std::array<int, 4>, int> known;
  auto& count = known[{pixels, stride, taps, dilation}];
  if (count) return count;
  std::vector<bool> touched((pixels - 1) * stride + (taps - 1) * dilation + 1);
  for (int p = 0; p < pixels; ++p)
    for (int r = 0; r < taps; ++r) touched[p * stride + r * dilation] = true;
  return count = static_cast<int>(std::count(touched.begin(), touched.end(), true));
}

// Inputs, if every element is fetched once; where nothing is kept, all that the array needs in a step in every step. Of
// so many pixels and taps on an axis it needs one position less than both together at least: elements on a diagonal,
// be it across dimensions, share theirs.
Flow input_once(const Problem& problem, const Site& site, const Boundary& b, const Share& share) {
  const double blocks = product(site.time, kBlock);
  double area = 1, step = 1;
  for (int a = 0; a < 2; ++a) {
    const auto [along, window] = kAxes[a];
    area *= positions(site.time[along] * site.total[along], problem.stride[a],
                      site.time[window] * site.total[window], problem.dilation[a]);
  }
  const unsigned single = problem.stores[b.outer].per | (inner_per(problem, b) & b.apart);
  double copies = 1;
  Extents together = ones();
  for (int d = 0; d < static_cast<int>(site.spatial.size()); ++d) {
    const auto& s = site.spatial[d];
    if (has(inner_per(problem, b), d)) copies *= s[K];
    for (int l : {P, Q, R, S})
      if (!has(single, d)) together[l] *= s[l];
  }
  for (const auto& [along, window] : kAxes) step *= together[along] + together[window] - 1;
  const double elements = blocks * product(site.total, kBlock) * area;
  if (b.kept) return input_flow(b, elements * copies, elements);
  const double each = filled(problem.stores[b.outer], share.without / share.apart * step, b.outer_bits);
  return input_flow(b, elements * copies, std::max(elements, product(site.time) * share.apart * each));
}

// Taps that meet the same row lie a multiple of stride / gcd(stride, dilation) apart; columns likewise.
double pairs(const Problem& problem, const Site& site) {
  double result = 1;
  for (int a = 0; a < 2; ++a) {
    const int apart = problem.stride[a] / std::gcd(problem.stride[a], problem.dilation[a]);
    const int taps = site.time[kAxes[a][1]] * site.total[kAxes[a][1]];
    result *= (taps + apart - 1) / apart;
  }
  return result;
}

}  // namespace

const std::vector<int>& divisors(int number) {
  thread_local std::unordered_map<int, std::vector<int>> known;
  auto& found = known[number];
  if (found.empty()) {
    for (int d = 1; d * d <= number; ++d) {
      if (number % d) continue;
      found.push_back(d);
      if (d * d < number) found.push_back(number / d);
    }
    std::sort(found.rbegin(), found.rend());
  }
  return found;
}

double spread(const Site& site, unsigned all, unsigned some, unsigned loops) {
  double result = 1;
  for (int d = 0; d < static_cast<int>(site.spatial.size()); ++d)
    if (has(all, d)) result *= product(site.spatial[d]);
    else if (has(some, d)) result *= product(site.spatial[d], loops);
  return result;
}

std::vector<Site> sites(const Problem& problem) {
  std::vector<Site> found = Enumeration(problem).run();
  for (auto& site : found) {
    site.pairs.assign(problem.boundaries.size(), pairs(problem, site));
    for (const auto& store : problem.stores) site.instances.push_back(spread(site, store.per));
    for (const auto& b : problem.boundaries) site.shares.push_back(share_of(problem, site, b));
    for (int i = 0; i < static_cast<int>(problem.boundaries.size()); ++i) {
      const auto& b = problem.boundaries[i];
      if (b.operand == kInput) site.once.push_back(input_once(problem, site, b, site.shares[i]));
      else site.once.push_back(
          rounds(problem, site, i, fullest(site, b), b.kept ? 1 : times_round(site, b.operand, ones())));
    }
  }
  return found;
}

Flow rounds(const Problem& problem, const Site& site, int boundary, const Extents& extents, double times) {
  const auto& b = problem.boundaries[boundary];
  const auto& share = site.shares[boundary];
  const auto& outer = problem.stores[b.outer];
  const double tile = product(extents, kRelevant[b.operand]), tiles = product(site.time, kRelevant[b.operand]) / tile;
  const double sums = problem.sum_bits, instances = share.within / share.held, held = tile * share.held;
  const double without = tile * share.without / share.apart, apart = share.apart * b.spent;
  const auto out = [&](double bits) { return carried(outer, without * bits); };
  const auto in = [&](double bits) { return b.inner < 0 ? 0 : carried(problem.stores[b.inner], held * bits); };
  if (b.operand != kOutput)
    return {.inner_write = tiles * times * instances * in(b.inner_bits),
            .outer_read = tiles * times * apart * out(b.outer_bits)};
  // Finished sums may be narrower; unfinished ones come back, and where parts arrive one by one they are added up.
  const double leave = tiles * times, back = leave - tiles, complete = share.complete * b.spent;
  const double narrower_in = share.whole_within ? in(sums) - in(b.inner_bits) : 0;
  const double narrower_out = share.whole_without ? share.complete * (out(sums) - out(b.outer_bits)) : 0;
  return {.inner_read = leave * instances * in(sums) - tiles * instances * narrower_in,
          .inner_write = back * share.distinct / share.held * in(sums),
          .outer_read = (back * complete + leave * (apart - complete)) * out(sums),
          .outer_write = leave * apart * out(sums) - tiles * narrower_out};
}

double times_round(const Site& site, int operand, const Extents& extents) {
  return product(site.time, ~kRelevant[operand]) / product(extents, ~kRelevant[operand]);
}

Flow input_flow(const Boundary& b, double within, double without) {
  return {.inner_write = within * b.inner_bits, .outer_read = without * b.spent * b.outer_bits};
}

double energy(const Problem& problem, const Boundary& b, const Flow& flow) {
  const auto& outer = problem.stores[b.outer];
  double sum = flow.outer_read * outer.read_energy + flow.outer_write * outer.write_energy;
  if (b.inner < 0) return sum;
  const auto& inner = problem.stores[b.inner];
  return sum + flow.inner_read * inner.read_energy + flow.inner_write * inner.write_energy;
}

}  // namespace dovetail::mapper
