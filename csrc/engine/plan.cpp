#include "plan.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "convolution.hpp"
#include "copy.hpp"
#include "elementwise.hpp"
#include "normalise.hpp"
#include "plan_reader.hpp"
#include "plan_weights.hpp"
#include "pool.hpp"
#include "product.hpp"
#include "recurrent.hpp"
#include "resize.hpp"

namespace dovetail::engine {

namespace {

constexpr std::int64_t most_elements = std::int64_t(1) << 26;  // of one image
constexpr int most_side = 1 << 24, most_window = 4095;

constexpr auto check = check_plan;

std::uint32_t crc32(std::span<const std::byte> bytes) {
  static const auto table = [] {
    std::array<std::uint32_t, 256> table;
    for (std::uint32_t i = 0; i < 256; ++i) {
      table[i] = i;
      for (int bit = 0; bit < 8; ++bit) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xEDB88320u : 0u);
    }
    return table;
  }();
  std::uint32_t sum = ~0u;
  for (const std::byte byte : bytes) sum = sum >> 8 ^ table[(sum ^ std::uint32_t(byte)) & 255];
  return ~sum;
}

// Builds a program from records. Operations check their own arguments; what they take on trust is checked here.
class Builder {
 public:
  Builder(PlanReader& reader, Program& program) : reader_(reader), program_(program) {}

  void next() {
    const auto record = reader_.number<std::uint8_t>();
    switch (Record(record)) {
      case Record::tensor: return tensor();
      case Record::external: return external();
      case Record::convolution: return convolution();
      case Record::elementwise: return elementwise();
      case Record::pool: return pool();
      case Record::normalise: return normalise();
      case Record::resize: return resize();
      case Record::copy: return copy();
      case Record::product: return product();
      case Record::recurrent: return recurrent();
    }
    check(false, "there is no record " + std::to_string(record));
  }

 private:
  void tensor() {
    Tensor tensor;
    tensor.type = Type(reader_.integer(0, 1, "a type"));
    tensor.rows = reader_.integer(1, most_side, "a number of rows");
    tensor.columns = reader_.integer(1, most_side, "a number of columns");
    tensor.channels = reader_.integer(1, most_side, "a number of channels");
    tensor.border = reader_.integer(0, most_window, "a border");
    tensor.scale = reader_.number<float>();
    tensor.zero = reader_.integer(0, 255, "a zero");
    check(std::isnormal(tensor.scale) && tensor.scale > 0, "a scale is not above zero");
    const std::int64_t pixels = std::int64_t(tensor.rows + 2 * tensor.border) * (tensor.columns + 2 * tensor.border);
    check(pixels <= most_elements / tensor.padded_channels(), "a tensor is too large");
    program_.add(tensor);
    tensors_.push_back(tensor);
  }

  void external() {
    Tensor tensor;
    tensor.channels = reader_.integer(1, int(most_elements), "an array's length");
    tensor.external = true;
    program_.add_external(tensor);
    tensors_.push_back(tensor);
  }

  void convolution() {
    const Id input = id(), output = id();
    const Window window = this->window();
    auto weights = read_weights(reader_, window);
    Epilogue epilogue = this->epilogue(output);
    std::vector<Id> reads{input};
    add_residual(epilogue, reads, output);
    add(convolve(tensors_[input], tensors_[output], window, std::move(weights), std::move(epilogue)), std::move(reads),
        output);
  }

  void elementwise() {
    const Id a = id(), output = id();
    const auto arithmetic = Arithmetic(reader_.integer(0, int(Arithmetic::reciprocal), "an arithmetic"));
    std::vector<Id> reads{a};
    if (takes_two(arithmetic)) reads.push_back(id());
    const Tensor* b = reads.size() > 1 ? &tensors_[reads[1]] : nullptr;
    Epilogue epilogue = this->epilogue(output);
    check(epilogue.residual.empty(), "a residual where none is taken");
    add(std::make_unique<Elementwise>(tensors_[a], b, tensors_[output], arithmetic, std::move(epilogue)),
        std::move(reads), output);
  }

  void product() {
    const Id a = id(), b = id(), output = id();
    Epilogue epilogue = this->epilogue(output);
    std::vector<Id> reads{a, b};
    add_residual(epilogue, reads, output);
    add(std::make_unique<Product>(tensors_[a], tensors_[b], tensors_[output], std::move(epilogue)), std::move(reads),
        output);
  }

  void pool() {
    const Id input = id(), output = id();
    const Window window = this->window();
    std::array<int, 2> after;
    for (int& side : after) side = reader_.integer(0, most_window, "a padding");
    const auto kind = Pool::Kind(reader_.integer(0, 2, "a kind of pool"));
    Epilogue epilogue = this->epilogue(output);
    add(std::make_unique<Pool>(tensors_[input], tensors_[output], window, after, kind, std::move(epilogue)), {input},
        output);
  }

  void normalise() {
    const Id input = id(), output = id();
    const auto kind = Normalise::Kind(reader_.integer(0, 2, "a kind of normalisation"));
    Response response;
    for (int* side : {&response.before, &response.after}) *side = reader_.integer(0, most_window, "channels beside one");
    const auto epsilon = reader_.number<float>();
    for (float* number : {&response.factor, &response.offset, &response.power}) *number = reader_.number<float>();
    Epilogue epilogue = this->epilogue(output);
    add(std::make_unique<Normalise>(tensors_[input], tensors_[output], kind, epsilon, response, std::move(epilogue)),
        {input}, output);
  }

  void resize() {
    const Id input = id(), output = id();
    auto rows = reader_.numbers<Between>(), columns = reader_.numbers<Between>();
    Epilogue epilogue = this->epilogue(output);
    add(std::make_unique<Resize>(tensors_[input], tensors_[output], std::move(rows), std::move(columns),
                                 std::move(epilogue)),
        {input}, output);
  }

  void copy() {
    const Id output = id(true);
    std::vector<Id> reads(reader_.count());
    for (Id& input : reads) input = id(true);
    std::vector<Tensor> inputs;
    for (Id input : reads) inputs.push_back(tensors_[input]);
    std::vector<std::vector<Box>> boxes(reads.size());
    for (auto& list : boxes) {
      list.resize(reader_.count());
      for (Box& one : list) one = box();
    }
    const auto low = reader_.number<float>(), high = reader_.number<float>();
    check(low <= high, "limits that cross");
    add(std::make_unique<Copy>(inputs, tensors_[output], boxes, low, high), std::move(reads), output);
  }

  void recurrent() {
    const Id gates = id(), output = id();
    const auto kind = Recurrent::Kind(reader_.integer(0, int(Recurrent::Kind::gru_reset_after), "a kind of recurrence"));
    std::vector<Recurrent::Direction> directions(reader_.count());
    for (auto& direction : directions) {
      for (auto* values : {&direction.weights, &direction.h, &direction.c, &direction.bias})
        *values = reader_.numbers<float>();
      direction.backward = reader_.integer(0, 1, "a direction") == 1;
    }
    add(std::make_unique<Recurrent>(tensors_[gates], tensors_[output], kind, std::move(directions)), {gates}, output);
  }

  // Only copies know how the caller's arrays lie in memory.
  Id id(bool external_too = false) {
    const Id id = reader_.integer(0, int(tensors_.size()) - 1, "a tensor");
    check(external_too || !tensors_[id].external, "an array of the caller's where a tensor is needed");
    return id;
  }

  Window window() {
    Window window;
    for (int(*sides)[2] : {&window.size, &window.stride, &window.dilation})
      for (int& side : *sides) side = reader_.integer(1, most_window, "a window's side");
    for (int& side : window.padding) side = reader_.integer(0, most_window, "a padding");
    return window;
  }

  Grid grid() {
    const float scale = reader_.number<float>(), least = reader_.number<float>(), most = reader_.number<float>();
    check(scale == 0 || (std::isnormal(scale) && scale > 0), "a grid's scale is not above zero");
    check(-255 <= least && least <= most && most <= 255, "a grid's limits are not those of codes");
    return {scale, least, most};
  }

  Epilogue epilogue(Id output) {
    Epilogue epilogue;
    epilogue.scale = reader_.numbers<float>();
    epilogue.bias = reader_.numbers<float>();
    const std::size_t channels = tensors_[output].padded_channels();
    epilogue.residual = reader_.numbers<float>();
    for (const auto* values : {&epilogue.scale, &epilogue.bias, &epilogue.residual})
      check(values->empty() || values->size() == channels, "scales, biases or factors for other channels");
    epilogue.rounding = grid();
    epilogue.activation = Activation(reader_.integer(0, int(Activation::step), "an activation"));
    epilogue.slopes = reader_.numbers<float>();
    check(epilogue.slopes.size() == (epilogue.activation == Activation::leaky_relu ? channels : 0),
          "slopes for other channels");
    epilogue.low = reader_.number<float>();
    epilogue.high = reader_.number<float>();
    check(epilogue.low <= epilogue.high, "limits that cross");
    return epilogue;
  }

  void add_residual(const Epilogue& epilogue, std::vector<Id>& reads, Id output) {
    if (epilogue.residual.empty()) return;
    reads.push_back(id());
    check(same_shape(tensors_[reads.back()], tensors_[output]), "a sum of values of two shapes");
  }

  Box box() {
    Box box{place(), place(), {}};
    box.loops.resize(reader_.count());
    std::int64_t values = 1;
    for (Loop& loop : box.loops) {
      loop.count = reader_.integer(1, int(most_elements), "a loop");
      loop.from = place();
      loop.to = place();
      values *= loop.count;
      check(values <= most_elements, "a copy is too large");
    }
    return box;
  }

  std::array<int, 3> place() {
    std::array<int, 3> place;
    for (int& side : place) side = reader_.integer(-most_side, int(most_elements), "a place");
    return place;
  }

  static bool same_shape(const Tensor& a, const Tensor& b) {
    return a.rows == b.rows && a.columns == b.columns && a.channels == b.channels;
  }

  void add(std::unique_ptr<Operation> operation, std::vector<Id> reads, Id output) {
    operation->reads = std::move(reads);
    operation->writes = {output};
    program_.add(std::move(operation));
  }

  PlanReader& reader_;
  Program& program_;
  std::vector<Tensor> tensors_;
};

std::span<const std::byte> body(std::span<const std::byte> bytes) {
  PlanHeader header;
  constexpr char magic[8] = "DVTPLAN";
  if (bytes.size() < sizeof(header) || std::memcmp(bytes.data(), magic, sizeof(magic)) != 0)
    throw std::invalid_argument("This is no plan that `dovetail export --to plan` wrote.");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.version != plan_version)
    throw std::invalid_argument("The plan has version " + std::to_string(header.version) +
                                ", this library reads version " + std::to_string(plan_version) + ": export it again.");
  const auto body = bytes.subspan(sizeof(header));
  check(header.bytes == body.size(), "its length is not the one that it says");
  check(header.checksum == crc32(body), "its checksum is another");
  return body;
}

void check_external(const Program& program, int external, const std::vector<std::int32_t>& shape) {
  std::int64_t values = 1;
  for (const std::int32_t side : shape) {
    check(side > 0 && side <= most_elements, "a side of an input or output");
    values *= side;
    check(values <= most_elements, "an input or output is too large");
  }
  check(program.external_values(external, 1) == std::size_t(values), "an input or output of another size");
}

}  // namespace

Planned read_plan(std::span<const std::byte> bytes, int threads) {
  PlanReader reader(body(bytes));
  Planned planned;
  planned.input = reader.numbers<std::int32_t>();
  planned.output = reader.numbers<std::int32_t>();
  planned.program = std::make_unique<Program>(threads);
  Builder builder(reader, *planned.program);
  while (!reader.done()) builder.next();
  check(planned.program->externals() == 2, "it should have one input and one output");
  check_external(*planned.program, 0, planned.input);
  check_external(*planned.program, 1, planned.output);
  return planned;
}

}  // namespace dovetail::engine
