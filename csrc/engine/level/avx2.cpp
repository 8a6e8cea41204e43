#include "table.hpp"

namespace dovetail::engine {

extern const Primitives avx2;
const Primitives avx2 = table("avx2");

}  // namespace dovetail::engine
