#include "normalise.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
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

// Of what is at most zero, to 2e-7 of it: 2^n times a polynomial of the rest, so that compilers make vectors of it.
float exponential(float x) {
  constexpr float whole = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the lowest bits
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504f + whole, n = shifted - whole;
  const float rest = x - n * 0.693359375f + n * 2.12194440e-4f;
  float sum = 1.9875691500e-4f * rest + 1.3981999507e-3f;
  sum = (sum * rest + 8.3334519073e-3f) * rest + 4.1665795894e-2f;
  sum = (sum * rest + 1.6666665459e-1f) * rest + 5.0000001201e-1f;
  const std::uint32_t power = std::bit_cast<std::uint32_t>(shifted) << 23;  // unsigned, for what is not a number too
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(sum * rest * rest + rest + 1.0f) + power);
}

// Sums and maxima are those of 16 values next to each other, and then of these.
void softmax(const float* values, float unit, int channels, int padded, float* result) {
  std::array<float, lanes> most, sums{};
  for (int c = 0; c < channels; ++c) result[c] = values[c] * unit;
  std::fill(result + channels, result + padded, result[0]);
  std::copy_n(result, lanes, most.begin());
  for (int c = lanes; c < padded; c += lanes)
    for (int i = 0; i < lanes; ++i) most[i] = most[i] < result[c + i] ? result[c + i] : most[i];
  const float largest = *std::max_element(most.begin(), most.end());
  for (int c = 0; c < padded; ++c) result[c] = exponential(result[c] - largest);
  std::fill(result + channels, result + padded, 0.0f);
  for (int c = 0; c < padded; c += lanes)
    for (int i = 0; i < lanes; ++i) sums[i] += result[c + i];
  const float factor = 1 / std::accumulate(sums.begin(), sums.end(), 0.0f);
  for (int c = 0; c < channels; ++c) result[c] *= factor;
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
        softmax(values, unit(*input.tensor), output.channels, padded, result);
      write(run, epilogue_, nullptr, {result, 1, output.at(image, row, column)});
    }
  });
}

std::string Normalise::kernel() const { return kind_ == Kind::layer ? "layer normalisation" : "softmax"; }

}  // namespace dovetail::engine
