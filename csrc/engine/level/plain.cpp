#include "table.hpp"

namespace dovetail::engine {

extern const Primitives plain;
const Primitives plain = table("plain");

}  // namespace dovetail::engine
