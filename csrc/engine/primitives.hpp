// The inner loops, one set for each instruction set. Operations are loop nests over these and know no instruction set.
#pragma once

namespace dovetail::engine {

struct Primitives;

}  // namespace dovetail::engine
