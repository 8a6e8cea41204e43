// A program as a file: what the engine was told to build, record by record, so that it can be built without Python.
//
//   header    PlanHeader
//   body      shape of an input, shape of an output (of one image, each a list of int32), then records:
//             one byte says which, its fields follow in the order in which plan.cpp reads them
//
// Numbers are little-endian; a list is its length (uint32) and its elements. src/dovetail/runtime/engine/plan_file.py
// writes it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "program.hpp"

namespace dovetail::engine {

struct PlanHeader {
  char magic[8];           // "DVTPLAN" and a zero
  std::uint32_t version;   // plan_version
  std::uint32_t checksum;  // CRC-32 of the body
  std::uint64_t bytes;     // of the body, which ends the file
};
static_assert(sizeof(PlanHeader) == 24);

constexpr std::uint32_t plan_version = 5;

enum class Record : std::uint8_t {
  tensor, external, convolution, elementwise, pool, normalise, resize, copy, recurrent, product
};

struct Planned {
  std::unique_ptr<Program> program;     // its first external array is the input, its second the output
  std::vector<std::int32_t> input, output;
};

// Throws std::invalid_argument with a sentence where the bytes are no plan, are damaged, or do not fit together.
// Nothing in them is trusted: whatever they are, what is built reads and writes only its own memory.
Planned read_plan(std::span<const std::byte> bytes, int threads);

}  // namespace dovetail::engine
