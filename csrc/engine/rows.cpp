#include "rows.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>

namespace dovetail::engine {

namespace {

constexpr int values_at_once = 2048;

}  // namespace

int pixels_at_once(const Tensor& tensor) { return std::max(1, values_at_once / tensor.padded_channels()); }

Epilogue completed(Epilogue epilogue, const Tensor& output) {
  if ((epilogue.activation == Activation::leaky_relu) == epilogue.slopes.empty())
    throw std::invalid_argument("a leaky_relu has slopes, and nothing else has");
  if (epilogue.scale.empty()) epilogue.scale.assign(output.channels, 1);
  epilogue.scale.resize(output.padded_channels());
  epilogue.bias.resize(output.padded_channels());
  for (auto* numbers : {&epilogue.residual, &epilogue.slopes})
    if (!numbers->empty()) numbers->resize(output.padded_channels());
  return epilogue;
}

void write(const Run& run, const Epilogue& epilogue, const Place* residual, const Pixels& pixels) {
  const Tensor& output = *run.writes[0].tensor;
  const int channels = output.padded_channels();
  std::array<std::int32_t, values_at_once / lanes> places;
  for (int i = 0; i < pixels.count; ++i) places[i] = i * channels;
  Finish<float> finish{};
  finish.sums = pixels.values;
  finish.pixel_count = pixels.count;
  finish.blocks = pixels.blocks ? pixels.blocks : channels / lanes;
  finish.scale = pixels.scale ? pixels.scale : epilogue.scale.data();
  finish.bias = pixels.bias ? pixels.bias : epilogue.bias.data();
  finish.rounding = epilogue.rounding;
  if (residual) {
    const Tensor& tensor = *residual->tensor;
    finish.residual = residual->data + pixels.residual_at * bytes_of(tensor.type);
    finish.residual_pixels = places.data();
    finish.residual_type = tensor.type;
    finish.residual_scale = tensor.scale;
    finish.residual_zero = float(tensor.zero);
    finish.residual_factors = pixels.residual_factors;
  }
  finish.activation = epilogue.activation;
  finish.slopes = pixels.slopes ? pixels.slopes : epilogue.slopes.data();
  finish.low = epilogue.low;
  finish.high = epilogue.high;
  finish.output = run.writes[0].data + pixels.at * bytes_of(output.type);
  finish.output_pixels = places.data();
  finish.output_type = output.type;
  finish.inverse_scale = 1 / output.scale;
  finish.zero = float(output.zero);
  run.primitives.finish_float32(finish);
}

const float* values_at(const Place& place, std::ptrdiff_t at, std::ptrdiff_t count, float* room) {
  if (place.tensor->type == Type::float32) return reinterpret_cast<const float*>(place.data) + at;
  const auto* codes = reinterpret_cast<const std::uint8_t*>(place.data) + at;
  const int zero = place.tensor->zero;
  for (std::ptrdiff_t i = 0; i < count; ++i) room[i] = float(int(codes[i]) - zero);
  return room;
}

}  // namespace dovetail::engine
