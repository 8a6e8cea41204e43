// For operations that go over an image row by row, pixel by pixel, on all of its channels.
#pragma once
#include "operation.hpp"
#include "work.hpp"

namespace dovetail::engine {

// Pixels next to each other, all channels: what fits in the first-level cache as float32.
int pixels_at_once(const Tensor& tensor);

// An epilogue that has one scale and bias for each padded channel, ones and zeros where none were given.
Epilogue completed(Epilogue epilogue, const Tensor& output);

// Writes float32 values of pixels next to each other, beginning at `at` in the output (and in the residual, which may
// have another border). Scale, bias and slopes are the epilogue's where null, and the residual's factors ones. Fewer
// blocks of 16 channels than all are written if so told; then all begin at the first of them.
struct Pixels {
  const float* values;
  int count;
  std::ptrdiff_t at, residual_at = 0;
  const float *scale = nullptr, *bias = nullptr, *residual_factors = nullptr, *slopes = nullptr;
  int blocks = 0;
};
void write(const Run& run, const Epilogue& epilogue, const Place* residual, const Pixels& pixels);

// The values of pixels next to each other as float32: in place, or converted into `room`. Codes are taken relative to
// their zero, and not multiplied by their scale.
const float* values_at(const Place& place, std::ptrdiff_t at, std::ptrdiff_t count, float* room);

inline float unit(const Tensor& tensor) { return tensor.type == Type::uint8 ? tensor.scale : 1.0f; }

// Calls row(thread, image, row) for all rows of the output.
template <class Row>
void each_row(const Run& run, const Row& row) {
  const Tensor& output = *run.writes[0].tensor;
  share(run.threads, run.batch * output.rows, output.row_elements(),
        [&](int thread, int i) { row(thread, i / output.rows, i % output.rows); });
}

}  // namespace dovetail::engine
