#include "mapper.hpp"

#include "search.hpp"

namespace dovetail::mapper {

Answer best_mapping(const Problem& problem) {
  const auto& e = problem.extents;
  // Factors that do not divide the extents pad the layer to less than twice of each.
  const long rows = 2L * (e[P] * problem.stride[0] + e[R] * problem.dilation[0]);
  const long columns = 2L * (e[Q] * problem.stride[1] + e[S] * problem.dilation[1]);
  const long most = std::max(rows, columns);
  if (most < 128) return Search<128>(problem).run();
  if (most < 512) return Search<512>(problem).run();
  if (most < 1L << 13) return Search<1 << 13>(problem).run();
  return Search<1 << 17>(problem).run();
}

}  // namespace dovetail::mapper
