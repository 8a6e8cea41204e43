// The inner loops, one set for each instruction set. Operations are loop nests over these and know no instruction set.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "stored.hpp"
#include "tensor.hpp"

namespace dovetail::engine {

constexpr int row_taps = 3;

// A batch-reduce product of up to tile_pixels(blocks) pixels and 1, 2 or 4 blocks of 16 outputs:
//   sums[p][16 b + o] = start[16 b + o] + sum over taps t, channels c of
//                       input[pixels[p] + taps[t] + c] * weights[b * block_stride][t][c][o]
// Weights of one byte lie in groups of four channels, [t][c / 4][o][c % 4]: channels is then a multiple of four.
// Depthwise, each output reads the channel of its number: input[pixels[p] + taps[t] + 16 b + o] * weights[..][t][o].
// Weights of one byte then lie in groups of four rows of taps, [row / 4][column][o][row % 4].
template <class Input, class Weight, class Sum>
struct Tile {
  const Input* input = nullptr;
  const std::int32_t* pixels = nullptr;
  int pixel_count = 0;
  const std::int32_t* taps = nullptr;
  int tap_count = 0, channels = 0;
  int tap_rows = 1;   // depthwise, of bytes
  int neighbour = 0;  // if not 0: row_taps taps lie so far apart, and pixels `stride` times as far
  int stride = 1;     // 2 only if depthwise
  const Weight* weights = nullptr;
  std::ptrdiff_t block_stride = 0;
  int blocks = 0;
  const Sum* start = nullptr;  // null: go on from what sums holds
  Sum* sums = nullptr;
};

using ByteProduct = Tile<std::uint8_t, std::int8_t, std::int32_t>;
using FloatProduct = Tile<float, float, float>;

// What can be done with weights stored in one way: groups of four columns decoded as a Tile has them, or all columns of
// one block multiplied, where the tile's `blocks` only says how far apart its sums lie. A tap's channels must begin
// with a unit then.
template <class Stored>
struct StoredPrimitives {
  void (*decode_int8)(const Stored&, int first_group, int groups, std::int8_t* to);
  void (*decode_float32)(const Stored&, int first_group, int groups, float* to);
  void (*product_uint8)(const ByteProduct&, const Stored&);
  void (*product_float32)(const FloatProduct&, const Stored&);
};

enum class Activation : std::uint8_t {
  none, relu, hard_swish, sigmoid, silu, tanh, gelu, erf, exponential, square_root, absolute, elu,
  leaky_relu,  // what is negative times a slope
  step  // the largest number from zero on, minus it below: the limits then are two values to choose from
};

// Multiples of `scale` from `least` to `most` times it; none where the scale is 0.
struct Grid {
  float scale = 0, least = 0, most = 0;
  float inverse_scale = 1 / scale;
};

// Sums of some pixels become outputs (operation.hpp says how); the same float32 operations in the same order at every
// level, so that all levels give the same codes.
template <class Sum>
struct Finish {
  const Sum* sums = nullptr;  // [pixel][16 * blocks]
  int pixel_count = 0, blocks = 0;
  const float *scale = nullptr, *bias = nullptr;  // [16 * blocks]
  Grid rounding;                                  // of sums before the residual is added
  const void* residual = nullptr;                 // null: none
  const std::int32_t* residual_pixels = nullptr;
  Type residual_type = Type::float32;
  float residual_scale = 1, residual_zero = 0;
  const float* residual_factors = nullptr;        // [16 * blocks]; null: ones
  Activation activation = Activation::none;
  const float* slopes = nullptr;  // [16 * blocks], of a leaky_relu
  float low = 0, high = 0;
  void* output = nullptr;
  const std::int32_t* output_pixels = nullptr;
  Type output_type = Type::float32;
  float inverse_scale = 1, zero = 0;  // of the output's codes
};

// One step of a recurrence for one image (recurrent.hpp says which): `width` values of each gate, of state and bias.
struct Cell {
  const float *gates, *sums, *bias;  // [gate][width]; bias of the last
  int width;
  float *c, *h, *reset;
};

// Local response normalisation: a channel is divided by (offset + factor * the sum of the squares of as many channels
// before and after it, and its own) ** power.
struct Response {
  int before = 0, after = 0;
  float factor = 0, offset = 1, power = 1;
};

// The channels of a pixel, times `unit`, normalised: `result` has room for all padded ones.
struct Normalised {
  const float* values;
  float unit;
  int channels, padded;
  float epsilon;  // added to the variance
  Response response;
  float* squares;  // room for all padded ones, and those of the response beside them
  float* result;
};

// The signs of values, 1 for +, the first in the lowest bit: of codes those from `least` on are +, of float32 those from
// 0 on. `count` is a multiple of 16.
template <class Value>
struct SignReading {
  const Value* values;
  std::int64_t count;
  int least;
  std::uint16_t* signs;
};

// Signs that lie next to each other, in words of 32 on which masks say what counts: `input` is how far they begin from
// a pixel's, in halves of words, `first` the first of their words among those of the weights.
struct SignRun {
  std::int32_t input, words, first;
};

// A product of signs by signs, for some pixels and one block of 16 outputs:
//   sums[p * stride + o] = all - 2 * the signs that differ, of those that count
struct SignProduct {
  const std::uint16_t* input;
  const std::int32_t* pixels;  // in halves of words
  int pixel_count;
  const SignRun* runs;
  int run_count;
  const std::uint32_t *weights, *masks;  // [word][16], [word]
  int all;
  std::int32_t* sums;
  int stride;
};

// Values become codes: divided by `scale`, as ONNX says, limited, rounded to even, and `zero` added.
struct Encoding {
  const float* values;
  int count;
  float scale, least, most;
  int zero;
  std::uint8_t* codes;
};

struct Primitives {
  const char* name;  // plain, avx2, avx512
  int (*tile_pixels)(int blocks);
  int (*row_pixels)(int blocks);  // where Tile::neighbour is not 0; none: there is no such kernel
  int depthwise_pixels;           // the same for depthwise products of bytes
  void (*product_float32)(const Tile<float, float, float>&);
  void (*product_uint8)(const Tile<std::uint8_t, std::int8_t, std::int32_t>&);
  void (*depthwise_float32)(const Tile<float, float, float>&);
  void (*depthwise_uint8)(const ByteProduct&);
  void (*finish_float32)(const Finish<float>&);
  void (*finish_int32)(const Finish<std::int32_t>&);
  void (*layer)(const Normalised&);
  void (*softmax)(const Normalised&);
  void (*local_response)(const Normalised&);
  void (*lstm)(const Cell&);
  void (*gru_reset)(const Cell&);  // reset = r * h
  void (*gru)(const Cell&);
  void (*gru_reset_after)(const Cell&);
  bool (*encode)(const Encoding&);  // whether there is NaN, which has no code
  StoredPrimitives<Coded> codes;
  StoredPrimitives<Masked> masks;
  void (*slots_uint8)(const ByteProduct&, const Slots&);
  void (*slots_float32)(const FloatProduct&, const Slots&);
  void (*steps_uint8)(const ByteProduct&, const Steps&);
  void (*steps_float32)(const FloatProduct&, const Steps&);
  void (*inputs_uint8)(const ByteProduct&, const InputRows&);  // of one pixel, and as many blocks as the tile says
  void (*inputs_float32)(const FloatProduct&, const InputRows&);
  int sign_pixels;  // of a product of signs, at most
  void (*read_signs_uint8)(const SignReading<std::uint8_t>&);
  void (*read_signs_float32)(const SignReading<float>&);
  void (*product_signs)(const SignProduct&);
};

// The best level that this processor has, or the one that the environment variable DOVETAIL_ISA names. Chosen once.
const Primitives& primitives();
// The named one; throws std::invalid_argument where there is none of this name or the processor lacks it.
const Primitives& primitives(const std::string& name);
// What this processor can run, the best first.
std::vector<std::string> levels();

}  // namespace dovetail::engine
