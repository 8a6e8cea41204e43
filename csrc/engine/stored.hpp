// Weights as they are stored, and how primitives see them: the outputs of one block, in blocks of 16 as everywhere.
#pragma once
#include <cstdint>

namespace dovetail::engine {

// Columns come in groups of four; so many groups are packed together, for all outputs of the block.
constexpr int unit_groups = 8, unit_columns = 4 * unit_groups;

// Codes of `bits` bits. Byte 4 o + j of a vector belongs to output o and to column j of a group. The bits of a code lie
// in planes of 4, 2 and 1 bits, in this order as far as the number has them (8 bits: whole bytes), low bits first; a
// vector of a plane of b bits serves 8 / b groups, the first group in the lowest bits.
template <int bits>
struct CodeUnit {
  std::uint8_t vectors[bits][64];
};
static_assert(sizeof(CodeUnit<1>) == 64 && sizeof(CodeUnit<3>) == 192 && sizeof(CodeUnit<8>) == 512);

struct Coded {
  const std::uint8_t* units;
  int bits;
  const void* table;  // 256 entries: int8 for activations of uint8, else float32
};

// One bit for each weight, and the nonzeros in the order of the bits. For uint8 activations bit 4 o + j of a group's
// mask belongs to output o and column j, for float32 bit 16 j + o.
struct MaskUnit {
  std::uint64_t masks[unit_groups];
  std::uint64_t first_value;  // of this unit; counted from the first value of all blocks
};
static_assert(sizeof(MaskUnit) == 72);

struct Masked {
  const MaskUnit* units;
  const void* values;  // int8 or float32; 64 more bytes can be read
};

// Few nonzeros: each says where in a tile of inputs its factor is. A step is for all outputs of a block: four nonzeros
// of each with uint8 activations, in the order of Coded, else one. Tiles are those of a tap's channels, in their order;
// an output that runs out of nonzeros has zeros instead.
struct Slots {
  const std::uint16_t* steps;   // of each tap and tile
  const std::uint8_t* indices;  // within the tile; float32 with a table: 16 bits, code * 64 + index
  const void* values;           // int8 or float32; null where there is a table
  const float* table;
  int entries;  // of the table
  int tile;     // channels: 64, 128 or 256; float32: 64
};
constexpr int slots_tile_float32 = 64, slots_index_bits = 6;

// Many zeros, in blocks: what is left, a step for all outputs of a block, of four columns in the order of Coded with
// uint8 activations, else of one.
struct Steps {
  const void* weights;          // int8 or float32
  const std::int32_t* offsets;  // of each step's input, in elements from the pixel's
  int count;
};

// A row of weights for each column, so that those of inputs that are zero need not be read. A row has the outputs of a
// block and of those after it, in this order. Codes of four bits lie in bytes, 128 outputs in 64 of them: the first half
// of the outputs in the lower bits, the second in the upper ones.
struct InputRows {
  const std::uint8_t* rows;  // int8, float32 or codes
  std::ptrdiff_t row_bytes;  // from one to the next
  int channels;              // of a tap that are read: not those that only fill it up
  const std::int8_t* table;  // for codes: the 16 entries, four times; else null
};
constexpr int row_outputs = 4096;  // of a product, at most: the sums stay in the first cache

// Pixels at most of a product straight from stored weights.
constexpr int stored_pixels = 4;

}  // namespace dovetail::engine
