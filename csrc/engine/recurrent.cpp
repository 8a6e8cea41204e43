#include "recurrent.hpp"

#include <algorithm>
#include <stdexcept>

#include "work.hpp"

namespace dovetail::engine {

namespace {

constexpr int images_at_once = 14;  // two tiles with AVX-512
constexpr int widest = 4;  // blocks of a tile

int padded_to_blocks(int channels) { return (channels + lanes - 1) / lanes * lanes; }

void check(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("recurrence: ") + what);
}

}  // namespace

// Of one thread: for each image its sums, c and h, and what r made of h; the sums of a tile; decoded weights.
struct Recurrent::Room {
  float *sums, *c, *h, *reset, *tile;
  std::byte* weights;

  static std::size_t floats(int gates, int padded) {
    const std::size_t tile = std::size_t(images_at_once) * widest * lanes;
    return std::size_t(images_at_once) * padded * (gates + 3) + tile + std::size_t(widest) * lanes * (padded + 4);
  }
  Room(float* begin, int gates, int padded) {
    const std::size_t each = std::size_t(images_at_once) * padded;
    sums = begin, c = sums + gates * each, h = c + each, reset = h + each, tile = reset + each;
    weights = reinterpret_cast<std::byte*>(tile + images_at_once * widest * lanes);
  }
};

Recurrent::Recurrent(const Tensor& gates, const Tensor& output, Kind kind, std::vector<Direction> directions)
    : kind_(kind),
      directions_(std::move(directions)),
      channels_(directions_.empty() ? 0 : output.channels / int(directions_.size())),
      padded_(padded_to_blocks(channels_)),
      zeros_(widest * lanes) {
  check(!directions_.empty() && output.channels == channels_ * int(directions_.size()), "directions of other widths");
  check(gates.type == Type::float32 && output.type == Type::float32 && !gates.external && !output.external,
        "gates and output must be of float32, and padded");
  check(gates.rows == 1 && output.rows == 1 && gates.columns == output.columns, "steps should be pixels of one row");
  check(gates.channels == int(directions_.size()) * this->gates() * padded_, "gates of another width");
  const int rows = this->gates() * padded_;
  for (Direction& direction : directions_) {
    check(direction.weights.size() == std::size_t(rows) * padded_, "weights of another shape");
    for (const auto* values : {&direction.h, &direction.c, &direction.bias})
      check(values->size() == std::size_t(padded_), "a state or bias of another width");
    weights_.push_back(pack(direction.weights.data(), {.outputs = rows, .inputs = padded_}));
    std::vector<float>().swap(direction.weights);
  }
}

std::size_t Recurrent::scratch_bytes(int threads) const {
  return sizeof(float) * threads * Room::floats(gates(), padded_);
}

void Recurrent::run(const Run& run) const {
  const int chunks = (run.batch + images_at_once - 1) / images_at_once, count = chunks * int(directions_.size());
  const std::int64_t steps = run.writes[0].tensor->columns;
  share(run.threads, count, steps * gates() * padded_ * padded_ / lanes, [&](int thread, int item) {
    auto* begin = reinterpret_cast<float*>(run.scratch) + thread * Room::floats(gates(), padded_);
    const int first = item % chunks * images_at_once;
    run_images(run, item / chunks, first, std::min(images_at_once, run.batch - first), Room(begin, gates(), padded_));
  });
}

// The sums of gates from `first` up to `last`, for each image, of the recurrent weights times its h.
void Recurrent::multiply(const Run& run, const Weights& weights, const float* h, int images, int first, int last,
                         const Room& room) const {
  constexpr std::int32_t tap = 0;
  std::array<std::int32_t, images_at_once> pixels;
  for (int i = 0; i < images_at_once; ++i) pixels[i] = i * padded_;
  const int row = gates() * padded_, end = last * padded_ / lanes;
  for (int block = first * padded_ / lanes, wide = widest; block < end; block += wide) {
    while (block + wide > end) wide /= 2;
    const Panel panel = weights.panel(run.primitives, block, wide, 0, padded_, room.weights);
    const int step = std::min(run.primitives.tile_pixels(wide), images_at_once);
    for (int image = 0; image < images; image += step) {
      const int count = std::min(step, images - image);
      run.primitives.product_float32({.input = h + std::ptrdiff_t(image) * padded_,
                                      .pixels = pixels.data(),
                                      .pixel_count = count,
                                      .taps = &tap,
                                      .tap_count = 1,
                                      .channels = padded_,
                                      .weights = static_cast<const float*>(panel.data),
                                      .block_stride = panel.block_stride,
                                      .blocks = wide,
                                      .start = zeros_.data(),
                                      .sums = room.tile});
      for (int i = 0; i < count; ++i)
        std::copy_n(room.tile + i * wide * lanes, wide * lanes,
                    room.sums + std::ptrdiff_t(image + i) * row + block * lanes);
    }
  }
}

void Recurrent::run_images(const Run& run, int number, int first, int count, const Room& room) const {
  const Direction& direction = directions_[number];
  const Tensor &gates_tensor = *run.reads[0].tensor, &output = *run.writes[0].tensor;
  const auto* all_gates = reinterpret_cast<const float*>(run.reads[0].data) + number * gates() * padded_;
  auto* outputs = reinterpret_cast<float*>(run.writes[0].data) + number * channels_;
  for (int image = 0; image < count; ++image) {
    std::copy(direction.h.begin(), direction.h.end(), room.h + std::ptrdiff_t(image) * padded_);
    std::copy(direction.c.begin(), direction.c.end(), room.c + std::ptrdiff_t(image) * padded_);
  }
  for (int step = 0; step < output.columns; ++step) {
    const int place = direction.backward ? output.columns - 1 - step : step;
    const bool before = kind_ == Kind::gru;
    multiply(run, *weights_[number], room.h, count, 0, before ? 2 : gates(), room);
    const auto cell = [&](int image) {
      const std::ptrdiff_t at = std::ptrdiff_t(image) * padded_;
      return Cell{.gates = all_gates + gates_tensor.at(first + image, 0, place),
                  .sums = room.sums + at * gates(),
                  .bias = direction.bias.data(),
                  .width = padded_,
                  .c = room.c + at,
                  .h = room.h + at,
                  .reset = room.reset + at};
    };
    if (before) {
      for (int image = 0; image < count; ++image) run.primitives.gru_reset(cell(image));
      multiply(run, *weights_[number], room.reset, count, 2, 3, room);
    }
    const auto finish = kind_ == Kind::lstm ? run.primitives.lstm
                        : before            ? run.primitives.gru
                                            : run.primitives.gru_reset_after;
    for (int image = 0; image < count; ++image) {
      finish(cell(image));
      float* to = outputs + output.at(first + image, 0, place);
      std::copy_n(room.h + std::ptrdiff_t(image) * padded_, channels_, to);
      if (number + 1 == int(directions_.size()))  // the last also pads
        std::fill(to + channels_, to + channels_ + output.padded_channels() - output.channels, 0.0f);
    }
  }
}

std::string Recurrent::kernel() const {
  const std::string name = kind_ == Kind::lstm ? "LSTM" : "GRU";
  return name + (directions_.size() > 1 ? ", both directions, " : ", ") + weights_.front()->kind();
}

}  // namespace dovetail::engine
