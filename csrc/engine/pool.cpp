#include "pool.hpp"

#include <algorithm>
#include <stdexcept>

#include "rows.hpp"

namespace dovetail::engine {

Pool::Pool(const Tensor& input, const Tensor& output, const Window& window, std::array<int, 2> padding_after,
           Kind kind, Epilogue epilogue)
    : window_(window),
      sides_{input.rows, input.columns},
      padding_after_(padding_after),
      kind_(kind),
      epilogue_(completed(std::move(epilogue), output)) {
  if (input.channels != output.channels) throw std::invalid_argument("pool: input and output differ in channels");
  if (kind == Kind::maximum && (input.type != output.type || input.scale != output.scale || input.zero != output.zero))
    throw std::invalid_argument("pool: a maximum has its input's type");
  for (int axis : {0, 1})
    for (int position : {0, (axis ? output.columns : output.rows) - 1})
      if (range(axis, position).counted < 1) throw std::invalid_argument("pool: a window without a pixel");
}

Pool::Range Pool::range(int axis, int position) const {
  const int begin = position * window_.stride[axis] - window_.padding[axis], step = window_.dilation[axis];
  const auto taps_before = [&](int end) { return std::clamp((end - begin + step - 1) / step, 0, window_.size[axis]); };
  const int first = begin < 0 ? taps_before(0) : 0, last = begin > sides_[axis] ? 0 : taps_before(sides_[axis]);
  return {first, last, kind_ == Kind::padded_mean ? taps_before(sides_[axis] + padding_after_[axis]) : last - first};
}

template <class T, class Sum>
void Pool::reduce(const Run& run, int image, int row, int column, Sum* sums) const {
  const Tensor& input = *run.reads[0].tensor;
  const int channels = input.padded_channels();
  const Range rows = range(0, row), columns = range(1, column);
  bool begun = false;
  for (int r = rows.first; r < rows.last; ++r)
    for (int c = columns.first; c < columns.last; ++c) {
      const int y = row * window_.stride[0] - window_.padding[0] + r * window_.dilation[0];
      const int x = column * window_.stride[1] - window_.padding[1] + c * window_.dilation[1];
      const T* pixel = reinterpret_cast<const T*>(run.reads[0].data) + input.at(image, y, x);
      if (!begun)
        for (int i = 0; i < channels; ++i) sums[i] = Sum(pixel[i]);
      else if (kind_ == Kind::maximum)
        for (int i = 0; i < channels; ++i) sums[i] = sums[i] < Sum(pixel[i]) ? Sum(pixel[i]) : sums[i];
      else
        for (int i = 0; i < channels; ++i) sums[i] += Sum(pixel[i]);
      begun = true;
    }
}

std::size_t Pool::scratch_bytes(int threads) const { return sizeof(float) * threads * 2 * epilogue_.scale.size(); }

void Pool::run(const Run& run) const {
  const Tensor &input = *run.reads[0].tensor, &output = *run.writes[0].tensor;
  const int channels = output.padded_channels();
  const bool bytes = input.type == Type::uint8;
  each_row(run, [&](int thread, int image, int row) {
    auto* values = reinterpret_cast<float*>(run.scratch) + thread * 2 * channels;
    auto* sums = reinterpret_cast<std::int32_t*>(values + channels);
    for (int column = 0; column < output.columns; ++column) {
      std::byte* pixel = run.writes[0].data + output.at(image, row, column) * bytes_of(output.type);
      if (kind_ == Kind::maximum) {
        if (bytes)
          reduce<std::uint8_t>(run, image, row, column, reinterpret_cast<std::uint8_t*>(pixel));
        else
          reduce<float>(run, image, row, column, reinterpret_cast<float*>(pixel));
        continue;
      }
      const Range rows = range(0, row), columns = range(1, column);
      const int present = (rows.last - rows.first) * (columns.last - columns.first);
      if (bytes)
        reduce<std::uint8_t>(run, image, row, column, sums);
      else
        reduce<float>(run, image, row, column, values);
      const float factor = unit(input) / float(rows.counted * columns.counted);
      for (int i = 0; i < channels; ++i)
        values[i] = (bytes ? float(sums[i] - present * input.zero) : values[i]) * factor;
      write(run, epilogue_, nullptr, {values, 1, output.at(image, row, column)});
    }
  });
}

std::string Pool::kernel() const { return kind_ == Kind::maximum ? "maxima of windows" : "means of windows"; }

}  // namespace dovetail::engine
