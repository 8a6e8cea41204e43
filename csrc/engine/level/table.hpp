// The primitives of the level that this translation unit is compiled for.
#pragma once
#include "cell.hpp"
#include "depthwise.hpp"
#include "finish.hpp"
#include "inputs.hpp"
#include "normalise.hpp"
#include "product.hpp"
#include "signs.hpp"
#include "slots.hpp"
#include "steps.hpp"
#include "stored.hpp"

namespace dovetail::engine {
namespace {

constexpr Primitives table(const char* name) {
  return {.name = name,
          .tile_pixels = tile_pixels,
          .row_pixels = row_pixels,
          .depthwise_pixels = depthwise_pixels,
          .product_float32 = dispatch_product<FloatProduct>,
          .product_uint8 = dispatch_product<ByteProduct>,
          .depthwise_float32 = dispatch<Depthwises, FloatProduct>,
          .depthwise_uint8 = depthwise_bytes,
          .finish_float32 = finish<float>,
          .finish_int32 = finish<std::int32_t>,
          .layer = layer,
          .softmax = softmax,
          .local_response = local_response,
          .lstm = lstm,
          .gru_reset = gru_reset,
          .gru = gru,
          .gru_reset_after = gru_reset_after,
          .encode = encode,
          .codes = codes,
          .masks = masks,
          .slots_uint8 = slots_uint8,
          .slots_float32 = slots_float32,
          .steps_uint8 = steps_product<ByteProduct>,
          .steps_float32 = steps_product<FloatProduct>,
          .inputs_uint8 = inputs_uint8,
          .inputs_float32 = inputs_product<FloatRows>,
          .sign_pixels = sign_pixels,
          .read_signs_uint8 = read_signs<std::uint8_t>,
          .read_signs_float32 = read_signs<float>,
          .product_signs = with_pixels<SignProducts, 1, sign_pixels, SignProduct>};
}

}  // namespace
}  // namespace dovetail::engine
