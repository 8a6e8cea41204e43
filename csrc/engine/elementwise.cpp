#include "elementwise.hpp"

#include <algorithm>
#include <stdexcept>

#include "rows.hpp"

namespace dovetail::engine {

namespace {

bool same_pixels(const Tensor& a, const Tensor& b) { return a.rows == b.rows && a.columns == b.columns; }
bool same_shape(const Tensor& a, const Tensor& b) { return same_pixels(a, b) && a.channels == b.channels; }

// Calls function(a, b) for the first `channels` values of each pixel; the others become zero, which is never NaN.
template <class Function>
void each_value(const float* a, const float* b, int pixels, int channels, int padded, float* result,
                const Function& function) {
  for (int p = 0; p < pixels; ++p, a += padded, b += padded, result += padded) {
    for (int c = 0; c < channels; ++c) result[c] = function(a[c], b[c]);
    std::fill(result + channels, result + padded, 0.0f);
  }
}

// What is not a number stays so.
void calculate(Arithmetic arithmetic, const float* a, float unit_a, const float* b, float unit_b, int pixels,
               int channels, int padded, float* result) {
  const auto each = [&](const auto& function) { each_value(a, b, pixels, channels, padded, result, function); };
  switch (arithmetic) {
    case Arithmetic::add: return each([=](float x, float y) { return x * unit_a + y * unit_b; });
    case Arithmetic::subtract: return each([=](float x, float y) { return x * unit_a - y * unit_b; });
    case Arithmetic::multiply: return each([=](float x, float y) { return x * unit_a * (y * unit_b); });
    case Arithmetic::divide: return each([=](float x, float y) { return x * unit_a / (y * unit_b); });
    case Arithmetic::reciprocal: return each([=](float x, float) { return 1.0f / (x * unit_a); });
    default: break;
  }
  const bool larger = arithmetic == Arithmetic::maximum;
  each([=](float x, float y) {
    x *= unit_a, y *= unit_b;
    return x != x || (larger ? x > y : x < y) ? x : y;
  });
}

}  // namespace

Elementwise::Elementwise(const Tensor& a, const Tensor* b, const Tensor& output, Arithmetic arithmetic,
                         Epilogue epilogue)
    : arithmetic_(arithmetic),
      numbers_(b && b->channels == 1 && a.channels > 1 && same_pixels(a, *b)),
      vector_(b && !numbers_ && !same_shape(a, *b)),
      epilogue_(completed(std::move(epilogue), output)),
      pixels_(pixels_at_once(output)),
      channels_(output.channels),
      padded_(output.padded_channels()) {
  const bool fits = same_shape(a, output) && bool(b) == takes_two(arithmetic) &&
                    (!vector_ || (b->rows == 1 && b->columns == 1 && b->channels == a.channels &&
                                  arithmetic <= Arithmetic::divide));
  if (!fits) throw std::invalid_argument("element-wise operation: shapes differ");
  // A code counts units, which are then part of the scale; where two are combined, values are what they stand for.
  if (arithmetic == Arithmetic::none || vector_ || (arithmetic == Arithmetic::add && !numbers_))
    for (float& scale : epilogue_.scale) scale *= unit(a);
}

std::size_t Elementwise::scratch_bytes(int threads) const {
  return sizeof(float) * threads * (2 * pixels_ + 3) * padded_;
}

void Elementwise::run(const Run& run) const {
  auto* room = reinterpret_cast<float*>(run.scratch);
  vector_ ? spread(run, room) : combine(run, room);
}

// A vector for all pixels of an image becomes part of scale or bias.
void Elementwise::spread(const Run& run, float* all_room) const {
  const Place &a = run.reads[0], &b = run.reads[1];
  each_row(run, [&](int thread, int image, int row) {
    float* room = all_room + std::ptrdiff_t(thread) * (2 * pixels_ + 3) * padded_;
    float *scale = room + 2 * pixels_ * padded_, *bias = scale + padded_;
    const float* vector = values_at(b, b.tensor->at(image, 0, 0), padded_, bias + padded_);
    for (int c = 0; c < padded_; ++c) {
      const float v = vector[c] * unit(*b.tensor), s = epilogue_.scale[c];
      scale[c] = arithmetic_ == Arithmetic::multiply ? s * v : arithmetic_ == Arithmetic::divide ? s / v : s;
      bias[c] = epilogue_.bias[c];
      if (arithmetic_ == Arithmetic::add) bias[c] += v;
      if (arithmetic_ == Arithmetic::subtract) bias[c] -= v;
    }
    if (arithmetic_ == Arithmetic::divide) std::fill(scale + channels_, scale + padded_, 0.0f);
    const Tensor& output = *run.writes[0].tensor;
    for (int first = 0; first < output.columns; first += pixels_) {
      const int count = std::min(pixels_, output.columns - first);
      const float* values = values_at(a, a.tensor->at(image, row, first), std::ptrdiff_t(count) * padded_, room);
      write(run, epilogue_, nullptr, {values, count, output.at(image, row, first), 0, scale, bias});
    }
  });
}

// The numbers of some pixels of b, each for all channels of a.
void Elementwise::repeat(const Place& b, int image, int row, int first, int count, float* to) const {
  alignas(64) float pixel[lanes];
  for (int p = 0; p < count; ++p, to += padded_)
    std::fill(to, to + padded_, values_at(b, b.tensor->at(image, row, first + p), lanes, pixel)[0]);
}

void Elementwise::combine(const Run& run, float* all_room) const {
  const Place& a = run.reads[0];
  const bool adds = arithmetic_ == Arithmetic::add && !numbers_;
  const bool calculates = arithmetic_ > Arithmetic::add || numbers_;
  const Place* residual = adds ? &run.reads[1] : nullptr;
  each_row(run, [&](int thread, int image, int row) {
    float* room = all_room + std::ptrdiff_t(thread) * (2 * pixels_ + 3) * padded_;
    const Tensor& output = *run.writes[0].tensor;
    for (int first = 0; first < output.columns; first += pixels_) {
      const int count = std::min(pixels_, output.columns - first);
      const std::ptrdiff_t size = std::ptrdiff_t(count) * padded_;
      const float* values = values_at(a, a.tensor->at(image, row, first), size, room);
      if (calculates) {
        const Place& b = run.reads.back();
        float* const more_room = room + pixels_ * padded_;
        const float* others = more_room;
        if (numbers_)
          repeat(b, image, row, first, count, more_room);
        else
          others = values_at(b, b.tensor->at(image, row, first), size, more_room);
        calculate(arithmetic_, values, unit(*a.tensor), others, unit(*b.tensor), count, channels_, padded_, room);
        values = room;
      }
      const std::ptrdiff_t beside = residual ? residual->tensor->at(image, row, first) : 0;
      write(run, epilogue_, residual, {values, count, output.at(image, row, first), beside});
    }
  });
}

std::string Elementwise::kernel() const {
  constexpr const char* names[] = {"", "add", "subtract", "multiply", "divide", "maximum", "minimum", "reciprocal"};
  return std::string("element-wise") + (arithmetic_ == Arithmetic::none ? "" : " ") + names[int(arithmetic_)];
}

}  // namespace dovetail::engine
