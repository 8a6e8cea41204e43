#include "copy.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>

#include "work.hpp"

namespace dovetail::engine {

namespace {

constexpr int piece = 256;  // values converted at a time

// Some values in a line of either tensor.
struct Line {
  const Place& input;
  const Place& output;
  std::ptrdiff_t from, to, from_step, to_step;
  int count;
};

// Takes steps by value: bytes that are written could be them.
template <class T>
void spread(const T* from, std::ptrdiff_t from_step, T* to, std::ptrdiff_t to_step, int count) {
  for (int i = 0; i < count; ++i, from += from_step, to += to_step) *to = *from;
}

template <class T>
void move(const Line& line) {
  const T* from = reinterpret_cast<const T*>(line.input.data) + line.from;
  T* to = reinterpret_cast<T*>(line.output.data) + line.to;
  if (line.from_step == 1 && line.to_step == 1)
    std::copy(from, from + line.count, to);
  else
    spread(from, line.from_step, to, line.to_step, line.count);
}

template <class T>
void read(const Line& line, int first, int count, float* values) {
  const T* from = reinterpret_cast<const T*>(line.input.data) + line.from + first * line.from_step;
  if (line.from_step == 1)
    for (int i = 0; i < count; ++i) values[i] = float(from[i]);
  else
    for (int i = 0; i < count; ++i) values[i] = float(from[i * line.from_step]);
}

template <class T>
void write(const Line& line, int first, int count, const T* values) {
  T* to = reinterpret_cast<T*>(line.output.data) + line.to + first * line.to_step;
  if (line.to_step == 1)
    std::copy(values, values + count, to);
  else
    spread(values, 1, to, line.to_step, count);
}

// Whether there is NaN that has no code.
bool convert(const Line& line, const Primitives& primitives, float low, float high) {
  const Tensor &in = *line.input.tensor, &out = *line.output.tensor;
  const float least = std::max(low / out.scale, -float(out.zero));
  const float most = std::min(high / out.scale, 255.0f - float(out.zero));
  float values[piece];
  std::uint8_t codes[piece];
  bool nan = false;
  for (int first = 0; first < line.count; first += piece) {
    const int count = std::min(piece, line.count - first);
    if (in.type == Type::float32) {
      read<float>(line, first, count, values);
    } else {
      read<std::uint8_t>(line, first, count, values);
      for (int i = 0; i < count; ++i) values[i] = (values[i] - float(in.zero)) * in.scale;
    }
    if (out.type == Type::float32) {
      write(line, first, count, values);
    } else {
      nan |= primitives.encode({values, count, out.scale, least, most, out.zero, codes});
      write(line, first, count, codes);
    }
  }
  return nan;
}

bool alike(const Tensor& a, const Tensor& b) {
  return a.type == b.type && (a.type == Type::float32 || (a.scale == b.scale && a.zero == b.zero));
}

std::array<std::ptrdiff_t, 3> steps(const Tensor& tensor) {
  return {tensor.row_elements(), tensor.padded_channels(), 1};
}

std::ptrdiff_t offset(const Tensor& tensor, const std::array<int, 3>& of) {
  const auto step = steps(tensor);
  return of[0] * step[0] + of[1] * step[1] + of[2] * step[2];
}

// Throws where a box goes out of a tensor.
void check(const Tensor& tensor, const Box& box, const std::array<int, 3>& begin, std::array<int, 3> Loop::*steps) {
  const int sides[] = {tensor.rows, tensor.columns, tensor.channels};
  for (int axis = 0; axis < 3; ++axis) {
    std::int64_t least = begin[axis], most = begin[axis];
    for (const auto& loop : box.loops) {
      const std::int64_t way = (loop.count - std::int64_t(1)) * (loop.*steps)[axis];
      (way < 0 ? least : most) += way;
      if (loop.count < 1) throw std::invalid_argument("copy: an empty box");
    }
    if (least < 0 || most >= sides[axis]) throw std::invalid_argument("copy: a box goes out of its tensor");
  }
}

// Calls line(from, to) for the beginning of each.
template <class Strides, class Each>
void each_line(const Strides& strides, std::ptrdiff_t from, std::ptrdiff_t to, const Each& line) {
  if (strides.empty()) return line(from, to);
  const auto& stride = strides.front();
  for (int i = 0; i < stride.count; ++i, from += stride.from, to += stride.to)
    each_line(strides.subspan(1), from, to, line);
}

void fill_zero(const Place& place, int image) {
  const std::ptrdiff_t first = image * place.tensor->image_elements(), count = place.tensor->image_elements();
  if (place.tensor->type == Type::float32)
    std::fill_n(reinterpret_cast<float*>(place.data) + first, count, 0.0f);
  else
    std::fill_n(reinterpret_cast<std::uint8_t*>(place.data) + first, count, std::uint8_t(place.tensor->zero));
}

}  // namespace

Copy::Copy(const std::vector<Tensor>& inputs, const Tensor& output, const std::vector<std::vector<Box>>& boxes,
           float low, float high)
    : low_(low), high_(high) {
  std::int64_t covered = 0;
  for (int input = 0; input < int(inputs.size()); ++input)
    for (const auto& box : boxes.at(input)) {
      check(inputs[input], box, box.from, &Loop::from);
      check(output, box, box.to, &Loop::to);
      Part part{input, inputs[input].at(0, 0, 0) + offset(inputs[input], box.from),
                output.at(0, 0, 0) + offset(output, box.to), {}};
      std::int64_t values = 1;
      for (const auto& loop : box.loops) {
        values *= loop.count;
        if (loop.count != 1)
          part.strides.push_back({loop.count, offset(inputs[input], loop.from), offset(output, loop.to)});
      }
      covered += values;
      if (part.strides.empty()) part.strides.push_back({1, 1, 1});
      // Innermost runs what both sides have in a line, else the longer of what one side has.
      const auto lined = [](const Stride& s) { return ((s.from == 1) + (s.to == 1)) * 65536 + std::min(s.count, 65535); };
      const auto inner = std::max_element(part.strides.begin(), part.strides.end(),
                                          [&](const auto& a, const auto& b) { return lined(a) < lined(b); });
      std::rotate(inner, inner + 1, part.strides.end());
      parts_.push_back(std::move(part));
    }
  covers_ = covered == std::int64_t(output.rows) * output.columns * output.padded_channels();
}

bool Copy::copy(const Part& part, const Place& input, const Place& output, const Primitives& primitives,
                int image) const {
  const bool same = alike(*input.tensor, *output.tensor), floats = output.tensor->type == Type::float32;
  const std::span<const Stride> outer(part.strides.data(), part.strides.size() - 1);
  const Stride& inner = part.strides.back();
  bool nan = false;
  const auto line = [&](std::ptrdiff_t from, std::ptrdiff_t to) {
    const Line line{input, output, from, to, inner.from, inner.to, inner.count};
    if (!same)
      nan |= convert(line, primitives, low_, high_);
    else
      floats ? move<float>(line) : move<std::uint8_t>(line);
  };
  each_line(outer, part.from + image * input.tensor->image_elements(),
            part.to + image * output.tensor->image_elements(), line);
  return nan;
}

void Copy::run(const Run& run) const {
  const Place& output = run.writes[0];
  std::atomic<bool> nan = false;
  share(run.threads, run.batch, output.tensor->image_elements(), [&](int, int image) {
    if (!covers_) fill_zero(output, image);
    for (const auto& part : parts_)
      if (copy(part, run.reads[part.input], output, run.primitives, image)) nan.store(true, std::memory_order_relaxed);
  });
  if (nan) throw std::domain_error("NaN has no code");
}

std::string Copy::kernel() const { return "copy"; }

}  // namespace dovetail::engine
