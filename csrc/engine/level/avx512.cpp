#include "table.hpp"

namespace dovetail::engine {

extern const Primitives avx512;
const Primitives avx512 = table("avx512");

}  // namespace dovetail::engine
