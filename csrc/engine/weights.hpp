// Weights, and where a product reads them: packed once, or decoded from a compressed form just before use.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "primitives.hpp"

namespace dovetail::engine {

// Which input channels the 16 outputs of a block read: all, or those of their groups. For uint8 both are multiples of
// 4. Depthwise, the first is the block's first output and the count is 1: each output reads the channel of its number.
struct Span {
  int first, count;
  bool operator==(const Span&) const = default;
};

// Packed weights of some blocks of outputs and some columns, as a Tile reads them.
struct Panel {
  const void* data;
  std::ptrdiff_t block_stride;  // in elements
};

// How many blocks a product straight from stored weights is of: `least`, twice as many and so on up to `most`; they begin
// at a multiple of this number, and the last ones may be fewer.
struct Together {
  int least, most;
};

// The weight matrix [outputs][columns] of a convolution or product, in blocks of 16 outputs. A column is a tap and a
// channel of the span, the channel running fastest: column = tap * span.count + channel - span.first.
class Weights {
 public:
  Type type;         // of the activations that they are multiplied with: uint8 means that the weights are int8
  bool depthwise;
  int outputs, taps;
  std::vector<Span> spans;  // of each block
  int blocks() const { return int(spans.size()); }
  virtual ~Weights() = default;
  // Columns first .. first + count of some blocks that have the same span; if int8, both are multiples of 4. `room` has
  // bytes for all groups of four columns that they belong to, for those who must decode.
  // Dense weights [column][16] of each block; [column / 4][16][4] if int8; all of them, and as Tile has it, if depthwise.
  virtual Panel panel(const Primitives& primitives, int first_block, int blocks, int first, int count,
                      std::byte* room) const = 0;
  // Whether so many pixels are best multiplied by the weights as they are stored: then by `product`, without panels.
  virtual bool direct(std::int64_t) const { return false; }
  // Told once, before any product: how far each tap lies from the first, in elements of the input.
  virtual void locate(const std::vector<std::int32_t>&) {}
  // All columns of one block, or of several `together`; the tile's `blocks` is how many its sums are for, `channels` those
  // of the span.
  virtual void product(const Primitives&, int, const ByteProduct&) const {}
  virtual void product(const Primitives&, int, const FloatProduct&) const {}
  virtual Together together() const { return {1, 1}; }
  // For every (padded) output the sum of its weights, by which the input's zero is taken out. uint8 only.
  virtual std::vector<std::int32_t> row_sums() const = 0;
  virtual std::size_t bytes_stored() const = 0;  // what is read when all of them are multiplied once
  virtual std::string kind() const = 0;  // for people: "int8", "4-bit codebook"
};

// Cache lines must not straddle two rows.
template <class Element>
class Aligned {
 public:
  explicit Aligned(std::size_t size) : data_(new (std::align_val_t(64)) Element[size]()) {}
  Element* data() const { return data_.get(); }

 private:
  struct Delete {
    void operator()(Element* data) const { ::operator delete[](data, std::align_val_t(64)); }
  };
  std::unique_ptr<Element[], Delete> data_;
};

// What layer it is: outputs x (inputs / groups) x rows x columns, as in ONNX.
struct WeightShape {
  int outputs, inputs, rows = 1, columns = 1, groups = 1;
  bool depthwise() const { return groups > 1 && groups == inputs && groups == outputs; }
};

// The input channels that each block of 16 outputs reads.
std::vector<Span> channel_spans(const WeightShape& shape, Type type);

// Dense weights in C order (outputs, inputs / groups, rows, columns), packed. Depthwise where every channel is a group
// and has one output.
std::unique_ptr<Weights> pack(const float* weights, const WeightShape& shape);
std::unique_ptr<Weights> pack(const std::int8_t* weights, const WeightShape& shape);

}  // namespace dovetail::engine
