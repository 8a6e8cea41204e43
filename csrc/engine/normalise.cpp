#include "normalise.hpp"

#include <algorithm>
#include <stdexcept>

#include "rows.hpp"

namespace dovetail::engine {

Normalise::Normalise(const Tensor& input, const Tensor& output, Kind kind, float epsilon, Epilogue epilogue)
    : kind_(kind),
      epsilon_(epsilon),
      at_once_(std::min(pixels_at_once(output), output.columns)),
      epilogue_(completed(std::move(epilogue), output)) {
  if (input.rows != output.rows || input.columns != output.columns || input.channels != output.channels)
    throw std::invalid_argument("normalisation: shapes differ");
}

std::size_t Normalise::scratch_bytes(int threads) const {
  return sizeof(float) * threads * (at_once_ + 1) * epilogue_.scale.size();
}

void Normalise::run(const Run& run) const {
  const Place& input = run.reads[0];
  const Tensor& output = *run.writes[0].tensor;
  const int padded = output.padded_channels();
  const auto normalise = kind_ == Kind::layer ? run.primitives.layer : run.primitives.softmax;
  each_row(run, [&](int thread, int image, int row) {
    float* results = reinterpret_cast<float*>(run.scratch) + thread * (at_once_ + 1) * padded;
    float* room = results + at_once_ * padded;
    for (int column = 0; column < output.columns; column += at_once_) {
      const int count = std::min(at_once_, output.columns - column);
      for (int i = 0; i < count; ++i) {
        const float* values = values_at(input, input.tensor->at(image, row, column + i), padded, room);
        normalise({values, unit(*input.tensor), output.channels, padded, epsilon_, results + i * padded});
      }
      write(run, epilogue_, nullptr, {results, count, output.at(image, row, column)});
    }
  });
}

std::string Normalise::kernel() const { return kind_ == Kind::layer ? "layer normalisation" : "softmax"; }

}  // namespace dovetail::engine
