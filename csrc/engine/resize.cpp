#include "resize.hpp"

#include <algorithm>
#include <stdexcept>

#include "rows.hpp"

namespace dovetail::engine {

namespace {

bool inside(const std::vector<Between>& places, int input, int output) {
  const auto is_inside = [&](const Between& b) {
    return std::min(b.first, b.second) >= 0 && std::max(b.first, b.second) < input;
  };
  return int(places.size()) == output && std::all_of(places.begin(), places.end(), is_inside);
}

}  // namespace

Resize::Resize(const Tensor& input, const Tensor& output, std::vector<Between> rows, std::vector<Between> columns,
               Epilogue epilogue)
    : rows_(std::move(rows)), columns_(std::move(columns)), epilogue_(completed(std::move(epilogue), output)) {
  if (!inside(rows_, input.rows, output.rows) || !inside(columns_, input.columns, output.columns) ||
      input.channels != output.channels)
    throw std::invalid_argument("resize: shapes differ");
  for (float& scale : epilogue_.scale) scale *= unit(input);
}

std::size_t Resize::scratch_bytes(int threads) const { return sizeof(float) * threads * 5 * epilogue_.scale.size(); }

void Resize::run(const Run& run) const {
  const Place& input = run.reads[0];
  const Tensor& output = *run.writes[0].tensor;
  const int channels = output.padded_channels();
  each_row(run, [&](int thread, int image, int row) {
    float* result = reinterpret_cast<float*>(run.scratch) + thread * 5 * channels;
    const auto [top, bottom, down] = rows_[row];
    for (int column = 0; column < output.columns; ++column) {
      const auto [left, right, across] = columns_[column];
      const auto at = [&](int y, int x, int corner) {
        return values_at(input, input.tensor->at(image, y, x), channels, result + (corner + 1) * channels);
      };
      const float *a = at(top, left, 0), *b = at(top, right, 1), *c = at(bottom, left, 2), *d = at(bottom, right, 3);
      if (down == 0 && across == 0)
        std::copy(a, a + channels, result);
      else
        for (int i = 0; i < channels; ++i)
          result[i] = (a[i] * (1 - across) + b[i] * across) * (1 - down) + (c[i] * (1 - across) + d[i] * across) * down;
      write(run, epilogue_, nullptr, {result, 1, output.at(image, row, column)});
    }
  });
}

}  // namespace dovetail::engine
