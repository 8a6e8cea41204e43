#include "convolution.hpp"

#include "finishing.hpp"
#include "pixels.hpp"
#include "sign_convolution.hpp"
#include "work.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <type_traits>

namespace dovetail::engine {

namespace {

constexpr int panel_bytes = 1024;  // of weights for one output; longer panels gain little
constexpr int widest = 4;          // blocks of a tile
constexpr int widest_row = 2;      // the same where windows overlap: panels are longer by as much
constexpr int small_columns = 8;   // of an image with many of its taps on the border
constexpr int long_row = 512;      // taps times channels: after shorter ones it does not pay to put sums aside
constexpr int shortest_row = 6;    // of outputs: in tiles of fewer pixels sums wait for each other
constexpr std::int64_t worth_threads = 1 << 19;  // bytes multiplied: fewer take about a microsecond
constexpr std::int64_t longest_sum = (std::int64_t(1) << 31) / (255 * 128);
static_assert(row_outputs <= chunk_pixels * widest * lanes);
constexpr std::size_t sums_bytes = std::size_t(chunk_pixels) * widest * lanes * 4;
constexpr std::size_t scratch_of_thread = sums_bytes + std::size_t(panel_bytes + 8 * 4) * widest * lanes;

// Blocks of outputs side by side, so that a tile has the most sums, or not many fewer: more blocks are finished faster.
int blocks_of_tile(std::int64_t pixels, const Primitives& primitives) {
  int wide = 1;
  std::int64_t most = 0;
  for (int blocks = 1; blocks <= widest; blocks *= 2) {
    const std::int64_t sums = blocks * std::min<std::int64_t>(pixels, primitives.tile_pixels(blocks));
    if (8 * sums >= 7 * most) most = sums, wide = blocks;
  }
  return wide;
}

// Some blocks of outputs that read the same channels, or each its own.
struct Blocks {
  int first, count;
};

std::vector<Blocks> cut_outputs(const Weights& weights, int wide) {
  const std::vector<Span>& spans = weights.spans;
  std::vector<Blocks> tiles;
  for (int block = 0; block < int(spans.size()); block += tiles.back().count) {
    int count = wide;
    while (block + count > int(spans.size()) || (!weights.depthwise && spans[block] != spans[block + count - 1]))
      count /= 2;
    tiles.push_back({block, count});
  }
  return tiles;
}

// As many blocks as go together in a product of stored weights: so that there is a tile for each thread, if there can be.
std::vector<Blocks> cut_together(const Weights& weights, int threads) {
  auto [least, wide] = weights.together();
  while (wide > least && divide_up(weights.blocks(), wide) < threads) wide /= 2;
  std::vector<Blocks> tiles;
  for (int block = 0; block < weights.blocks(); block += wide)
    tiles.push_back({block, std::min(wide, weights.blocks() - block)});
  return tiles;
}

// The same columns of all blocks of a tile: several taps with all their channels, or some channels of one tap.
struct Columns {
  int tap, taps, channel, channels;
};

std::vector<Columns> cut_columns(int taps, int channels, int at_most) {
  std::vector<Columns> panels;
  const int whole = std::clamp(at_most / channels, 1, taps), parts = divide_up(channels, at_most);
  const int tap_step = divide_up(taps, divide_up(taps, whole));
  const int channel_step = divide_up(divide_up(channels, parts), 4) * 4;
  for (int tap = 0; tap < taps; tap += tap_step)
    for (int channel = 0; channel < channels; channel += channel_step)
      panels.push_back({tap, std::min(tap_step, taps - tap), channel, std::min(channel_step, channels - channel)});
  return panels;
}

// The taps of a row or column that are multiplied, for every output: those inside of the image; one, where there is none.
std::vector<Range> taps_taken(const Window& window, int dimension, int outputs, int extent) {
  std::vector<Range> taken = taps_inside(window, dimension, outputs, extent);
  for (Range& range : taken)
    if (range.empty()) range.first = std::min(range.first, window.size[dimension] - 1), range.end = range.first + 1;
  return taken;
}

// What all threads share while a convolution runs.
template <class Input, class Weight, class Sum>
struct Nest {
  const Run& run;
  const Window& window;
  const std::vector<Range> (&inside)[2];
  const Weights& weights;
  const Epilogue& epilogue;
  const std::vector<std::int32_t>& taps;
  int taps_in_one;
  const std::vector<Sum>& start;
  void (*product)(const Tile<Input, Weight, Sum>&);
  void (*finish)(const Finish<Sum>&);
  const Tensor &in = *run.reads[0].tensor, &out = *run.writes[0].tensor, &added = *run.reads.back().tensor;
  std::int64_t pixel_count = std::int64_t(run.batch) * out.rows * out.columns;
  bool direct = weights.direct(pixel_count);
  bool depthwise_bytes = weights.depthwise && sizeof(Input) == 1;
  bool border_is_nothing = !weights.depthwise && !direct && (in.type == Type::float32 || in.zero == 0);
  PixelOrder pixels{run.batch, out.rows, out.columns, border_is_nothing && worth_going_across()};
  bool in_rows = depthwise_bytes ? columns_overlap() : rows_overlap() && run.primitives.row_pixels(1);
  bool side_by_side = in_rows || pixels.across;
  bool clipped = border_is_nothing && side_by_side;
  std::vector<Blocks> tiles = direct && weights.together().most > 1 ? cut_together(weights, run.threads.size())
                                                                     : cut_outputs(weights, widest_tile());

  // The smaller images are, the more of their taps lie on the border.
  bool worth_going_across() const {
    const std::int64_t elements = std::max({in.image_elements(), out.image_elements(), added.image_elements()});
    return window.size[1] > 1 && taps_in_one == window.size[1] && taps_in_one * in.padded_channels() >= long_row &&
           (window.padding[0] || window.padding[1]) && out.columns <= small_columns &&
           run.batch >= run.primitives.tile_pixels(widest) &&
           elements * run.batch <= std::numeric_limits<std::int32_t>::max();
  }

  // Whether neighbouring outputs read the same inputs, and panels hold whole rows of taps.
  bool rows_overlap() const {
    return !weights.depthwise && !direct && !pixels.across && window.stride[1] == 1 && taps_in_one == row_taps &&
           out.columns >= shortest_row && taps_in_one * in.padded_channels() * int(sizeof(Input)) <= longest_panel(true);
  }

  // The same for columns of taps, which are read one by one.
  bool columns_overlap() const {
    return window.size[1] == row_taps && window.dilation[1] == 1 && window.stride[1] <= 2;
  }

  int widest_tile() const {
    return depthwise_bytes ? widest : in_rows ? widest_row : blocks_of_tile(pixel_count, run.primitives);
  }

  int most_pixels(int blocks) const {
    return depthwise_bytes ? run.primitives.depthwise_pixels
           : in_rows       ? run.primitives.row_pixels(blocks)
                           : run.primitives.tile_pixels(blocks);
  }

  // Columns of a panel. Across images, each has one row of taps, of which some may be left out.
  int longest_panel(const Span& span) const {
    const int most = longest_panel(in_rows) / int(sizeof(Input)), row = span.count * taps_in_one;
    return weights.depthwise ? weights.taps : pixels.across ? std::min(most, row) : most;
  }
  static constexpr int longest_panel(bool in_rows) { return in_rows ? panel_bytes * widest / widest_row : panel_bytes; }

  // Chunks of pixels, so that all threads have as many items.
  int chunks(int threads) const {
    const int equal = threads / std::gcd(int(tiles.size()), threads);
    return int(std::min<std::int64_t>(pixel_count, std::int64_t(divide_up(pixel_count, chunk_pixels * equal)) * equal));
  }

  void run_thread(int thread, int threads) const {
    const int chunks = this->chunks(threads);
    const std::int64_t items = chunks * std::int64_t(tiles.size());
    std::byte* scratch = run.scratch + thread * scratch_of_thread;
    for (std::int64_t item = items * thread / threads; item < items * (thread + 1) / threads; ++item) {
      const std::int64_t chunk = item % chunks, first = pixel_count * chunk / chunks;
      run_chunk(tiles[item / chunks], first, int(pixel_count * (chunk + 1) / chunks - first), scratch);
    }
  }

  // The outputs `blocks` of `count` pixels: panel by panel of their weights, and each for all pixels.
  void run_chunk(const Blocks& blocks, std::int64_t first, int count, std::byte* scratch) const {
    constexpr int one[2] = {1, 1};
    Offsets output, others[2];
    output.locate(first, count, pixels, out, one);
    const auto located = [&](const Tensor& tensor, const int (&stride)[2], Offsets& own) {
      if (stride[0] == 1 && stride[1] == 1 && tensor.lies_like(out)) return output.at;
      own.locate(first, count, pixels, tensor, stride);
      return own.at;
    };
    const std::int32_t* const input_at = located(in, window.stride, others[0]);
    const std::int32_t* const residual_at = epilogue.residual.empty() ? output.at : located(added, one, others[1]);
    const int image = pixels.first_image(first);
    const Span span = weights.spans[blocks.first];
    const auto panels = cut_columns(int(taps.size()), span.count * taps_in_one, longest_panel(span));
    const int most = most_pixels(blocks.count);
    Finish<Sum> last = finishing<Sum>(run, epilogue, image, blocks.first, blocks.count);
    last.output_pixels = output.at, last.residual_pixels = residual_at;
    if (direct) return run_direct(blocks, image, input_at, count, reinterpret_cast<Sum*>(scratch), last);
    for (const Columns& columns : panels) {
      Tile<Input, Weight, Sum> whole = panel_tile(blocks, span, columns, scratch + sums_bytes);
      whole.input = corner(image) + span.first + columns.channel;
      PixelOrder::At at = pixels.at(first);
      for (int p = 0; p < count;) {
        const int rest = side_by_side ? std::min(count - p, pixels.run(at)) : count - p;
        Tile<Input, Weight, Sum> tile = whole;
        tile.pixels = input_at + p, tile.pixel_count = divide_up(rest, divide_up(rest, most));
        // Where one panel is all there is, sums need not be kept.
        tile.sums = reinterpret_cast<Sum*>(scratch) + (panels.size() > 1 ? p * blocks.count * lanes : 0);
        if (!clipped || clip(tile, columns, at, blocks)) product(tile);
        if (&columns == &panels.back()) {
          last.sums = tile.sums, last.pixel_count = tile.pixel_count;
          last.output_pixels = output.at + p, last.residual_pixels = residual_at + p;
          finish(last);
        }
        p += tile.pixel_count;
        if (side_by_side) pixels.skip(at, tile.pixel_count);
      }
    }
  }

  // Leaves out what lies on the border for these pixels, which are in one row or at one place; false if that is all.
  bool clip(Tile<Input, Weight, Sum>& tile, const Columns& columns, const PixelOrder::At& at,
            const Blocks& blocks) const {
    const Range rows = inside[0][at.row], taps = Range{columns.tap, columns.tap + columns.taps}.within(rows);
    if (taps.empty()) return false;
    tile.taps += taps.first - columns.tap, tile.tap_count = taps.end - taps.first;
    tile.weights += std::ptrdiff_t(taps.first - columns.tap) * columns.channels * lanes;
    bool begins = taps.first == rows.first && columns.channel == 0;
    if (pixels.across) {
      const int channels = in.padded_channels();
      const Range wanted{inside[1][at.column].first * channels, inside[1][at.column].end * channels};
      const Range found = Range{columns.channel, columns.channel + columns.channels}.within(wanted);
      if (found.empty()) return false;
      tile.input += found.first - columns.channel, tile.channels = found.end - found.first;
      tile.weights += std::ptrdiff_t(found.first - columns.channel) * lanes;
      begins = taps.first == rows.first && found.first == wanted.first;
    }
    tile.start = begins ? start.data() + blocks.first * lanes : nullptr;
    return true;
  }

  // The same straight from the stored weights.
  void run_direct(const Blocks& blocks, int image, const std::int32_t* at, int count, Sum* sums,
                  Finish<Sum>& last) const {
    const Span span = weights.spans[blocks.first];
    Tile<Input, Weight, Sum> tile = {.input = corner(image) + span.first,
                                     .pixels = at,
                                     .pixel_count = count,
                                     .taps = taps.data(),
                                     .tap_count = int(taps.size()),
                                     .channels = span.count * taps_in_one,
                                     .blocks = blocks.count};
    for (int block = 0; block < blocks.count; block += weights.together().most) {
      tile.start = start.data() + (blocks.first + block) * lanes;
      tile.sums = sums + block * lanes;
      weights.product(run.primitives, blocks.first + block, tile);
    }
    last.sums = sums, last.pixel_count = count;
    finish(last);
  }

  Tile<Input, Weight, Sum> panel_tile(const Blocks& blocks, Span span, const Columns& columns, std::byte* room) const {
    const int column = columns.tap * span.count * taps_in_one + columns.channel;
    const Panel panel = weights.panel(run.primitives, blocks.first, blocks.count, column,
                                      columns.taps * columns.channels, room);
    return {.taps = taps.data() + columns.tap,
            .tap_count = columns.taps,
            .channels = columns.channels,
            .tap_rows = window.size[0],
            .neighbour = in_rows ? in.padded_channels() : 0,
            .stride = window.stride[1],
            .weights = static_cast<const Weight*>(panel.data),
            .block_stride = panel.block_stride,
            .blocks = blocks.count,
            .start = column ? nullptr : start.data() + blocks.first * lanes};
  }

  // Where the first window of an image begins.
  const Input* corner(int image) const {
    return reinterpret_cast<const Input*>(run.reads[0].data) + in.at(image, -window.padding[0], -window.padding[1]);
  }
};

void check(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument("convolution: " + message);
}

// The window must stay inside the bordered image, at the first and at the last output.
void check_window(const Window& window, const Tensor& input, const Tensor& output) {
  const int extent[2] = {input.rows, input.columns}, outputs[2] = {output.rows, output.columns};
  for (int d = 0; d < 2; ++d) {
    check(window.size[d] > 0 && window.stride[d] > 0 && window.dilation[d] > 0,
          "sizes, strides and dilations are at least 1");
    const std::int64_t first = std::int64_t(outputs[d] - 1) * window.stride[d] - window.padding[d];
    const std::int64_t last = first + std::int64_t(window.size[d] - 1) * window.dilation[d];
    check(window.padding[d] >= 0 && window.padding[d] <= input.border && last < extent[d] + input.border,
          "the window leaves the image, whose border is " + std::to_string(input.border));
  }
}

// Offsets within a chunk are of 32 bits: the images that it spans must not be too large.
void check_offsets(const Tensor& tensor, const Tensor& output) {
  const std::int64_t images = chunk_pixels / (std::int64_t(output.rows) * output.columns) + 2;
  check(images * tensor.image_elements() <= std::numeric_limits<std::int32_t>::max(),
        "images of " + std::to_string(tensor.image_elements()) + " elements are too large for so few outputs");
}

}  // namespace

Convolution::Convolution(const Tensor& input, const Tensor& output, Window window, std::unique_ptr<Weights> weights,
                         Epilogue epilogue)
    : window_(window), weights_(std::move(weights)), epilogue_(std::move(epilogue)) {
  check_window(window_, input, output);
  inside_[0] = taps_taken(window_, 0, output.rows, input.rows);
  inside_[1] = taps_taken(window_, 1, output.columns, input.columns);
  check_offsets(input, output);
  check_offsets(output, output);
  check(!output.external, "the output must have padded channels");
  check(weights_->type == input.type, "weights and activations are of different types");
  check(weights_->taps == window_.size[0] * window_.size[1], "weights and window have different sizes");
  check(weights_->outputs == output.channels, "weights for " + std::to_string(weights_->outputs) +
                                                  " channels, but the output has " + std::to_string(output.channels));
  const std::size_t outputs = std::size_t(weights_->blocks()) * lanes;
  check(fits(epilogue_, outputs), "scale, bias, slopes or the residual's factors of a wrong length");
  for (const Span& span : weights_->spans) {
    check(span.first + (weights_->depthwise ? lanes : span.count) <= input.padded_channels(),
          "weights for more channels than the input's " + std::to_string(input.channels));
    check(input.type == Type::float32 || std::int64_t(span.count) * weights_->taps <= longest_sum,
          "sums of more than " + std::to_string(longest_sum) + " products of bytes may not fit into 32 bits");
    multiplications_ += std::int64_t(span.count) * lanes * weights_->taps * output.rows * output.columns;
  }
  const std::vector<Span>& spans = weights_->spans;  // taps lie side by side for those who read all channels
  const auto all = std::count(spans.begin(), spans.end(), Span{0, input.padded_channels()});
  const bool side_by_side = window_.dilation[1] == 1 && all == std::ptrdiff_t(spans.size());
  if (side_by_side && !weights_->depthwise && !weights_->direct(1)) taps_in_one_ = window_.size[1];
  for (int row = 0; row < window_.size[0]; ++row)
    for (int column = 0; column < window_.size[1]; column += taps_in_one_)
      taps_.push_back(std::int32_t(row * window_.dilation[0] * input.row_elements() +
                                   std::ptrdiff_t(column) * window_.dilation[1] * input.padded_channels()));
  weights_->locate(taps_);
  zeros_.assign(outputs, 0.0f);
  if (input.type == Type::uint8) start_ = weights_->row_sums();
  for (std::int32_t& sum : start_) sum *= -input.zero;
}

std::size_t Convolution::scratch_bytes(int threads) const { return threads * scratch_of_thread; }

std::string Convolution::kernel() const {
  return std::string(weights_->depthwise ? "depthwise" : "direct") + " convolution, " + weights_->kind();
}

template <class Input, class Weight, class Sum>
void Convolution::run_nest(const Run& run, const std::vector<Sum>& start,
                           void (*product)(const Tile<Input, Weight, Sum>&), void (*finish)(const Finish<Sum>&)) const {
  const Nest<Input, Weight, Sum> nest{run, window_, inside_, *weights_, epilogue_, taps_, taps_in_one_, start, product,
                                      finish};
  if (run.batch * multiplications_ * int(sizeof(Input)) < worth_threads) return nest.run_thread(0, 1);
  run.threads.each([&](int thread) { nest.run_thread(thread, run.threads.size()); });
}

void Convolution::run(const Run& run) const {
  const Primitives& p = run.primitives;
  const bool depthwise = weights_->depthwise;
  if (weights_->type == Type::float32)
    run_nest(run, zeros_, depthwise ? p.depthwise_float32 : p.product_float32, p.finish_float32);
  else if (depthwise)
    run_nest(run, start_, p.depthwise_uint8, p.finish_int32);
  else
    run_nest(run, start_, p.product_uint8, p.finish_int32);
}

std::unique_ptr<Operation> convolve(const Tensor& input, const Tensor& output, const Window& window,
                                    std::unique_ptr<Weights> weights, Epilogue epilogue) {
  if (const auto* signs = dynamic_cast<const SignWeights*>(weights.get()))
    return std::make_unique<SignConvolution>(input, output, window, *signs, std::move(epilogue));
  return std::make_unique<Convolution>(input, output, window, std::move(weights), std::move(epilogue));
}

}  // namespace dovetail::engine
