#include "normalise.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "rows.hpp"

namespace dovetail::engine {

namespace {

void normalise_layer(const float* values, float unit, int channels, float epsilon, float* result) {
  float sum = 0, squares = 0;
  for (int c = 0; c < channels; ++c) sum += values[c] * unit;
  const float mean = sum / float(channels);
  for (int c = 0; c < channels; ++c) {
    result[c] = values[c] * unit - mean;
    squares += result[c] * result[c];
  }
  const float factor = 1 / std::sqrt(squares / float(channels) + epsilon);
  for (int c = 0; c < channels; ++c) result[c] *= factor;
}

void softmax(const float* values, float unit, int channels, float* result) {
  const float most = *std::max_element(values, values + channels);
  float sum = 0;
  for (int c = 0; c < channels; ++c) sum += result[c] = std::exp((values[c] - most) * unit);
  for (int c = 0; c < channels; ++c) result[c] /= sum;
}

}  // namespace

Normalise::Normalise(const Tensor& input, const Tensor& output, Kind kind, float epsilon, Epilogue epilogue)
    : kind_(kind), epsilon_(epsilon), epilogue_(completed(std::move(epilogue), output)) {
  if (input.rows != output.rows || input.columns != output.columns || input.channels != output.channels)
    throw std::invalid_argument("normalisation: shapes differ");
}

std::size_t Normalise::scratch_bytes(int threads) const { return sizeof(float) * threads * 2 * epilogue_.scale.size(); }

void Normalise::run(const Run& run) const {
  const Place& input = run.reads[0];
  const Tensor& output = *run.writes[0].tensor;
  const int padded = output.padded_channels();
  each_row(run, [&](int thread, int image, int row) {
    float* result = reinterpret_cast<float*>(run.scratch) + thread * 2 * padded;
    std::fill(result + output.channels, result + padded, 0.0f);
    for (int column = 0; column < output.columns; ++column) {
      const float* values = values_at(input, input.tensor->at(image, row, column), padded, result + padded);
      if (kind_ == Kind::layer)
        normalise_layer(values, unit(*input.tensor), output.channels, epsilon_, result);
      else
        softmax(values, unit(*input.tensor), output.channels, result);
      write(run, epilogue_, nullptr, {result, 1, output.at(image, row, column)});
    }
  });
}

std::string Normalise::kernel() const { return kind_ == Kind::layer ? "layer normalisation" : "softmax"; }

}  // namespace dovetail::engine
