#include "sign_convolution.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "finishing.hpp"
#include "work.hpp"

namespace dovetail::engine {

namespace {

constexpr int half = 16, word = 32;              // bits
constexpr int chunk_pixels = 64, widest = 4;     // blocks of a tile
constexpr std::int64_t worth_threads = 1 << 22;  // products of signs: fewer take about two microseconds
constexpr std::int64_t most_masks = 1 << 24;
constexpr std::size_t sums_bytes = sizeof(std::int32_t) * chunk_pixels * widest * lanes;

void check(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument("convolution of signs: " + message);
}

// Each range that there is, and the rows or columns of outputs that have it.
struct Alike {
  Range taps;
  std::vector<int> outputs;
};

std::vector<Alike> alike(const std::vector<Range>& inside) {
  std::vector<Alike> all;
  for (int output = 0; output < int(inside.size()); ++output) {
    const auto same = std::find_if(all.begin(), all.end(), [&](const Alike& a) { return a.taps == inside[output]; });
    if (same == all.end()) all.push_back({inside[output], {output}});
    else same->outputs.push_back(output);
  }
  return all;
}

void check_window(const Window& window, const Tensor& output) {
  const int outputs[2] = {output.rows, output.columns};
  for (int d = 0; d < 2; ++d) {
    check(window.size[d] > 0 && window.stride[d] > 0 && window.dilation[d] > 0 && window.padding[d] >= 0,
          "sizes, strides and dilations are at least 1, paddings 0");
    const std::int64_t last = std::int64_t(outputs[d] - 1) * window.stride[d];
    check(std::max<std::int64_t>(last, window.padding[d]) < 1 << 24, "the last window is too far away");
  }
}

}  // namespace

SignWeights::SignWeights(std::vector<std::uint8_t> signs, Type activations, int least, float middle,
                         const WeightShape& shape)
    : shape(shape), least(least), middle(middle), signs_(std::move(signs)) {
  check(shape.groups == 1, "groups have zeros between them, which have no sign");
  type = activations;
  depthwise = false;
  outputs = shape.outputs;
  taps = shape.rows * shape.columns;
  spans = channel_spans(shape, activations);
  for (int output = 0; output < shape.outputs; ++output)
    for (int tap = 0; tap < taps; ++tap) {
      int sum = 0;
      for (int channel = 0; channel < shape.inputs; ++channel)
        sum += signs_[(std::size_t(output) * shape.inputs + channel) * taps + tap] ? 1 : -1;
      sums_.push_back(sum);
    }
}

SignConvolution::SignConvolution(const Tensor& input, const Tensor& output, const Window& window,
                                 const SignWeights& weights, Epilogue epilogue)
    : window_(window),
      epilogue_(std::move(epilogue)),
      blocks_(weights.blocks()),
      least_(weights.least),
      halves_(input.padded_channels() / half) {
  check_window(window, output);
  check(!input.external && !output.external, "input and output must have padded channels");
  check(weights.type == input.type, "weights and activations are of different types");
  check(weights.shape.rows == window.size[0] && weights.shape.columns == window.size[1],
        "weights and window have different sizes");
  check(weights.shape.inputs == input.channels && weights.outputs == output.channels,
        "weights for other channels than those of input and output");
  const std::size_t outputs = std::size_t(blocks_) * lanes;
  check(fits(epilogue_, outputs), "scale, bias, slopes or the residual's factors of a wrong length");
  check(std::max(input.image_elements(), output.image_elements()) <= std::numeric_limits<std::int32_t>::max(),
        "the image is too large");
  pack_weights(weights, input);
  const auto rows = alike(taps_inside(window, 0, output.rows, input.rows));
  const auto columns = alike(taps_inside(window, 1, output.columns, input.columns));
  check(std::int64_t(rows.size()) * columns.size() * (words_of_block_ + outputs) <= most_masks,
        "the window reaches out of the image in too many ways");
  for (const Alike& row : rows)
    for (const Alike& column : columns) {
      add_group(weights, row.taps, column.taps);
      const int first = int(rows_.size());
      for (const int r : row.outputs)
        for (const int c : column.outputs) rows_.push_back(r), columns_.push_back(c);
      for (int at = first; at < int(rows_.size()); at += chunk_pixels)
        chunks_.push_back({int(groups_.size()) - 1, at, std::min(chunk_pixels, int(rows_.size()) - at)});
      products_ += std::int64_t(groups_.back().all) * outputs * (int(rows_.size()) - first);
    }
  slack_ = std::size_t(window.size[1]) * window.dilation[1] * halves_ + 2;
  const std::size_t signs = (2 * slack_ + std::size_t(input.rows) * input.columns * halves_) * sizeof(std::uint16_t);
  scratch_of_thread_ = sums_bytes + (signs + 63) / 64 * 64;
}

// A run is a row of taps or, where they lie apart, one tap.
void SignConvolution::pack_weights(const SignWeights& weights, const Tensor& input) {
  const int channels = input.padded_channels(), taps = window_.dilation[1] == 1 ? window_.size[1] : 1;
  const int words = divide_up(std::int64_t(taps) * channels, word);
  for (int row = 0; row < window_.size[0]; ++row)
    for (int column = 0; column < window_.size[1]; column += taps) {
      const std::int64_t pixel = std::int64_t(row) * window_.dilation[0] * input.columns + column * window_.dilation[1];
      check(pixel * halves_ <= std::numeric_limits<std::int32_t>::max(), "the window is too large");
      runs_.push_back({std::int32_t(pixel * halves_), words, std::int32_t(runs_.size()) * words});
    }
  words_of_block_ = runs_.size() * words;
  words_.resize(blocks_ * words_of_block_ * lanes);
  for (int output = 0; output < weights.outputs; ++output) {
    std::uint32_t* to = words_.data() + output / lanes * words_of_block_ * lanes + output % lanes;
    for (int row = 0; row < window_.size[0]; ++row)
      for (int column = 0; column < window_.size[1]; ++column) {
        const SignRun& run = runs_[(row * window_.size[1] + column) / taps];
        for (int channel = 0; channel < input.channels; ++channel) {
          const int bit = column % taps * channels + channel;
          const std::uint32_t sign = weights.positive(output, channel, row, column);
          to[std::size_t(run.first + bit / word) * lanes] |= sign << bit % word;
        }
      }
  }
}

void SignConvolution::add_group(const SignWeights& weights, const Range& rows, const Range& columns) {
  const int channels = halves_ * half, taps = window_.dilation[1] == 1 ? window_.size[1] : 1;
  const int runs = window_.size[1] / taps, inside = columns.count() ? rows.count() * columns.count() : 0;
  groups_.push_back({rows.first * runs, inside ? rows.count() * runs : 0, inside * weights.shape.inputs, masks_.size(),
                     biases_.size()});
  masks_.resize(masks_.size() + words_of_block_);
  std::uint32_t* masks = masks_.data() + groups_.back().masks;
  for (int row = rows.first; row < rows.end; ++row)
    for (int column = columns.first; column < columns.end; ++column)
      for (int channel = 0; channel < weights.shape.inputs; ++channel) {
        const int bit = column % taps * channels + channel;
        masks[runs_[(row * window_.size[1] + column) / taps].first + bit / word] |= 1u << bit % word;
      }
  biases_.insert(biases_.end(), epilogue_.bias.begin(), epilogue_.bias.end());
  for (int output = 0; output < weights.outputs && weights.middle != 0; ++output) {
    int sum = 0;
    for (int row = rows.first; row < rows.end; ++row)
      for (int column = columns.first; column < columns.end; ++column) sum += weights.sum(output, row, column);
    biases_[groups_.back().biases + output] += float(double(epilogue_.scale[output]) * weights.middle * sum);
  }
}

void SignConvolution::read_image(const Run& run, int image, std::uint16_t* signs) const {
  const Place& input = run.reads[0];
  const Tensor& tensor = *input.tensor;
  const std::int64_t count = std::int64_t(tensor.columns) * halves_ * half;
  for (int row = 0; row < tensor.rows; ++row, signs += tensor.columns * halves_) {
    const std::byte* at = input.data + tensor.at(image, row, 0) * bytes_of(tensor.type);
    if (tensor.type == Type::uint8)
      run.primitives.read_signs_uint8({reinterpret_cast<const std::uint8_t*>(at), count, least_, signs});
    else
      run.primitives.read_signs_float32({reinterpret_cast<const float*>(at), count, 0, signs});
  }
}

// Where the outputs of a chunk lie, given how far apart rows and columns are.
void SignConvolution::locate(const Chunk& chunk, std::ptrdiff_t row, std::ptrdiff_t column, std::ptrdiff_t start,
                             std::int32_t* offsets) const {
  const std::int32_t *rows = rows_.data() + chunk.first, *columns = columns_.data() + chunk.first;
  for (int p = 0; p < chunk.count; ++p) offsets[p] = std::int32_t(rows[p] * row + columns[p] * column + start);
}

void SignConvolution::run_chunk(const Run& run, int image, int tile, const Chunk& chunk, const std::uint16_t* signs,
                                std::int32_t* sums) const {
  const Tensor &in = *run.reads[0].tensor, &out = *run.writes[0].tensor, &added = *run.reads.back().tensor;
  const Group& group = groups_[chunk.group];
  const int first = tile * widest, blocks = std::min(widest, blocks_ - first);
  std::int32_t input[chunk_pixels], output[chunk_pixels], residual[chunk_pixels];
  const std::ptrdiff_t row = std::ptrdiff_t(in.columns) * halves_;
  locate(chunk, window_.stride[0] * row, std::ptrdiff_t(window_.stride[1]) * halves_,
         -window_.padding[0] * row - std::ptrdiff_t(window_.padding[1]) * halves_, input);
  locate(chunk, out.row_elements(), out.padded_channels(), 0, output);
  if (!epilogue_.residual.empty()) locate(chunk, added.row_elements(), added.padded_channels(), 0, residual);
  SignProduct product{.input = signs,
                      .pixels = input,
                      .pixel_count = chunk.count,
                      .runs = runs_.data() + group.first_run,
                      .run_count = group.runs,
                      .weights = nullptr,
                      .masks = masks_.data() + group.masks,
                      .all = group.all,
                      .sums = sums,
                      .stride = blocks * lanes};
  for (int block = 0; block < blocks; ++block) {
    product.weights = words_.data() + (first + block) * words_of_block_ * lanes;
    for (int p = 0; p < chunk.count; p += product.pixel_count) {
      const int left = chunk.count - p;
      product.pixels = input + p, product.sums = sums + (p * blocks + block) * lanes;
      product.pixel_count = divide_up(left, divide_up(left, run.primitives.sign_pixels));
      run.primitives.product_signs(product);
    }
  }
  auto last = finishing<std::int32_t>(run, epilogue_, image, first, blocks);
  last.bias = biases_.data() + group.biases + first * lanes;
  last.sums = sums, last.pixel_count = chunk.count;
  last.output_pixels = output, last.residual_pixels = residual;
  run.primitives.finish_int32(last);
}

void SignConvolution::run(const Run& run) const {
  const int tiles = divide_up(blocks_, widest), chunks = int(chunks_.size());
  const std::int64_t items = std::int64_t(run.batch) * tiles * chunks;
  const auto work = [&](int thread, int threads) {
    std::byte* scratch = run.scratch + thread * scratch_of_thread_;
    auto* sums = reinterpret_cast<std::int32_t*>(scratch);
    auto* signs = reinterpret_cast<std::uint16_t*>(scratch + sums_bytes) + slack_;
    int read = -1;
    for (std::int64_t item = items * thread / threads; item < items * (thread + 1) / threads; ++item) {
      const int image = int(item / (tiles * chunks)), rest = int(item % (tiles * chunks));
      if (image != read) read_image(run, read = image, signs);
      run_chunk(run, image, rest / chunks, chunks_[rest % chunks], signs, sums);
    }
  };
  if (run.batch * products_ < worth_threads) return work(0, 1);
  run.threads.each([&](int thread) { work(thread, run.threads.size()); });
}

}  // namespace dovetail::engine
