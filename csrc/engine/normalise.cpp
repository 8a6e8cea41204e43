#include "normalise.hpp"

#include <algorithm>
#include <stdexcept>

#include "rows.hpp"

namespace dovetail::engine {

Normalise::Normalise(const Tensor& input, const Tensor& output, Kind kind, float epsilon, Response response,
                     Epilogue epilogue)
    : kind_(kind),
      epsilon_(epsilon),
      response_(response),
      at_once_(std::min(pixels_at_once(output), output.columns)),
      epilogue_(completed(std::move(epilogue), output)) {
  if (input.rows != output.rows || input.columns != output.columns || input.channels != output.channels)
    throw std::invalid_argument("normalisation: shapes differ");
  if (response.before < 0 || response.after < 0)
    throw std::invalid_argument("normalisation: fewer channels than none beside one");
}

// In floats: results, an input, squares.
std::size_t Normalise::room_of_thread() const {
  return (at_once_ + 2) * epilogue_.scale.size() + response_.before + response_.after;
}

std::size_t Normalise::scratch_bytes(int threads) const { return sizeof(float) * threads * room_of_thread(); }

void Normalise::run(const Run& run) const {
  const Place& input = run.reads[0];
  const Tensor& output = *run.writes[0].tensor;
  const int padded = output.padded_channels();
  const auto normalise = kind_ == Kind::layer     ? run.primitives.layer
                         : kind_ == Kind::softmax ? run.primitives.softmax
                                                  : run.primitives.local_response;
  each_row(run, [&](int thread, int image, int row) {
    float* results = reinterpret_cast<float*>(run.scratch) + thread * room_of_thread();
    float *room = results + at_once_ * padded, *squares = room + padded;
    for (int column = 0; column < output.columns; column += at_once_) {
      const int count = std::min(at_once_, output.columns - column);
      for (int i = 0; i < count; ++i) {
        const float* values = values_at(input, input.tensor->at(image, row, column + i), padded, room);
        normalise({values, unit(*input.tensor), output.channels, padded, epsilon_, response_, squares,
                   results + i * padded});
      }
      write(run, epilogue_, nullptr, {results, count, output.at(image, row, column)});
    }
  });
}

std::string Normalise::kernel() const {
  return kind_ == Kind::layer ? "layer normalisation" : kind_ == Kind::softmax ? "softmax" : "local response normalisation";
}

}  // namespace dovetail::engine
