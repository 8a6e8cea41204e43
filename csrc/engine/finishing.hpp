// How the sums of a product become a layer's outputs.
#pragma once
#include "operation.hpp"

namespace dovetail::engine {

// For `blocks` blocks of outputs, the first one number `block`, of one image; offsets of pixels are counted from its
// pixel (0, 0). What the sums are, and of which pixels, is left open.
template <class Sum>
Finish<Sum> finishing(const Run& run, const Epilogue& epilogue, int image, int block, int blocks) {
  const auto data = [&](const Place& place) {
    return place.data + (place.tensor->at(image, 0, 0) + block * lanes) * bytes_of(place.tensor->type);
  };
  const Tensor &added = *run.reads.back().tensor, &out = *run.writes[0].tensor;
  return {.blocks = blocks,
          .scale = epilogue.scale.data() + block * lanes,
          .bias = epilogue.bias.data() + block * lanes,
          .rounding = epilogue.rounding,
          .residual = epilogue.residual.empty() ? nullptr : data(run.reads.back()),
          .residual_type = added.type,
          .residual_scale = added.scale,
          .residual_zero = float(added.zero),
          .residual_factors = epilogue.residual.empty() ? nullptr : epilogue.residual.data() + block * lanes,
          .activation = epilogue.activation,
          .slopes = epilogue.slopes.empty() ? nullptr : epilogue.slopes.data() + block * lanes,
          .low = epilogue.low,
          .high = epilogue.high,
          .output = data(run.writes[0]),
          .output_type = out.type,
          .inverse_scale = 1.0f / out.scale,
          .zero = float(out.zero)};
}

}  // namespace dovetail::engine
