// The only file that includes nanobind.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "engine/convolution.hpp"
#include "engine/copy.hpp"
#include "engine/elementwise.hpp"
#include "engine/normalise.hpp"
#include "engine/pool.hpp"
#include "engine/product.hpp"
#include "engine/program.hpp"
#include "engine/recurrent.hpp"
#include "engine/resize.hpp"
#include "engine/sign_convolution.hpp"
#include "engine/stored_weights.hpp"
#include "engine/trial.hpp"
#include "huffman.hpp"
#include "mapper/mapper.hpp"

namespace nb = nanobind;

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Symbols = nb::ndarray<std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

namespace {

namespace mapper = dovetail::mapper;

using Rows = std::vector<std::vector<double>>;
using Whole = std::tuple<double, std::vector<mapper::Extents>, std::vector<std::array<int, 2>>, int, std::vector<int>>;

// Rows have the fields of the structs in mapper.hpp, in their order.
std::tuple<std::vector<Whole>, double, std::int64_t, bool> best_mapping(
    mapper::Extents extents, std::array<int, 2> stride, std::array<int, 2> dilation, const Rows& dimensions,
    const Rows& stores, const Rows& boundaries, std::array<double, 4> prices, bool halo_reuse, int objective,
    double seconds, std::int64_t budget) {
  mapper::Problem problem{extents,   stride,    dilation,  {}, {}, {}, prices[0], prices[1],
                            prices[2], prices[3], halo_reuse, mapper::Objective(objective), seconds, budget};
  for (const auto& d : dimensions) problem.dimensions.push_back({int(d.at(0)), unsigned(d.at(1))});
  for (const auto& s : stores)
    problem.stores.push_back(
        {s.at(0), unsigned(s.at(1)), s.at(2), s.at(3), s.at(4), s.at(5), s.at(6) != 0, s.at(7) != 0, s.at(8)});
  for (const auto& b : boundaries)
    problem.boundaries.push_back({int(b.at(0)), int(b.at(1)), int(b.at(2)), unsigned(b.at(3)), b.at(4) != 0,
                                  b.at(5) != 0, b.at(6), b.at(7), b.at(8), b.at(9)});
  mapper::Answer answer;
  {
    nb::gil_scoped_release release;
    answer = mapper::best_mapping(problem);
  }
  std::vector<Whole> best;
  for (auto& f : answer.best) best.emplace_back(f.value, f.spatial, f.temporal, f.inside, f.held);
  return {std::move(best), answer.lower_bound, answer.explored, answer.complete};
}

}  // namespace

namespace {

namespace engine = dovetail::engine;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Constants = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

// Whether its values are uint8, rows, columns, channels, border, scale, zero.
using Activations = std::tuple<bool, int, int, int, int, float, int>;

engine::Tensor tensor(const Activations& of) {
  const auto [uint8, rows, columns, channels, border, scale, zero] = of;
  return {.type = uint8 ? engine::Type::uint8 : engine::Type::float32, .rows = rows, .columns = columns,
          .channels = channels, .border = border, .scale = scale, .zero = zero};
}

// The engine wants as many as there are padded channels.
std::vector<float> padded(const Floats& values) {
  std::vector<float> all(values.data(), values.data() + values.size());
  all.resize((all.size() + engine::lanes - 1) / engine::lanes * engine::lanes);
  return all;
}

using PackedWeights = std::unique_ptr<engine::Weights>;

engine::Window window(std::array<int, 8> numbers) {
  const auto [rows, columns, down, across, dilated, widened, above, left] = numbers;
  return {{rows, columns}, {down, across}, {dilated, widened}, {above, left}};
}

// One convolution by itself. tensors: the input, (the residual), the output.
std::unique_ptr<engine::Trial> convolution_trial(const std::string& level, int threads, int batch,
                                                 const std::vector<Activations>& tensors, PackedWeights weights,
                                                 std::array<int, 8> numbers, const engine::Epilogue& epilogue) {
  std::vector<engine::Tensor> all;
  for (const Activations& one : tensors) all.push_back(tensor(one));
  auto operation = engine::convolve(all.front(), all.back(), window(numbers), std::move(weights), epilogue);
  return std::make_unique<engine::Trial>(level, threads, batch, all, std::move(operation));
}

void expect_bytes(std::size_t found, std::size_t bytes) {
  if (found != bytes)
    throw std::invalid_argument("an array of " + std::to_string(found) + " bytes, where " +
                                std::to_string(bytes) + " are needed");
}

void bind_trials(nb::module_& m) {
  nb::class_<engine::Trial>(m, "Trial")
      .def("set", [](engine::Trial& trial, int tensor, const Constants& values) {
        expect_bytes(values.nbytes(), trial.value_bytes(tensor));
        trial.set(tensor, static_cast<const std::byte*>(values.data()));
      })
      .def("get", [](const engine::Trial& trial, const Values& values) {
        expect_bytes(values.nbytes(), trial.value_bytes(trial.output()));
        trial.get(static_cast<std::byte*>(values.data()));
      })
      .def("run", &engine::Trial::run, nb::call_guard<nb::gil_scoped_release>());
  m.def("convolution_trial", &convolution_trial);
  m.def("levels", &engine::levels, "The instruction sets that this processor has kernels for, the best first.");
  m.def("level", [] { return std::string(engine::primitives().name); },
        "The one in use. A ValueError if DOVETAIL_ISA names one that this processor lacks.");
}

// What it refuses is std::invalid_argument or std::domain_error: a ValueError.
using Inputs = std::vector<nb::ndarray<const float, nb::c_contig, nb::device::cpu>>;
using Outputs = std::vector<nb::ndarray<float, nb::c_contig, nb::device::cpu>>;
using engine::Epilogue, engine::Id, engine::Program, engine::Tensor;

template <class Weight>
PackedWeights pack(nb::ndarray<const Weight, nb::ndim<4>, nb::c_contig, nb::device::cpu> weights, int groups) {
  const auto side = [&](int axis) { return int(weights.shape(axis)); };
  return engine::pack(weights.data(), {side(0), side(1) * groups, side(2), side(3), groups});
}

// Outputs, inputs / groups, rows, columns, groups.
using Sides = std::array<int, 5>;
engine::WeightShape weight_shape(const Sides& of) { return {of[0], of[1] * of[4], of[2], of[3], of[4]}; }

template <class Value>
using Row = nb::ndarray<const Value, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Places = Row<std::int64_t>;

void expect_size(std::size_t found, std::size_t expected, const char* what) {
  if (found != expected)
    throw std::invalid_argument(std::to_string(found) + " " + what + ", where " + std::to_string(expected) +
                                " are needed");
}

std::int64_t elements(const Sides& of) { return std::int64_t(of[0]) * of[1] * of[2] * of[3]; }

template <class Weight>
PackedWeights pack_codes(const Row<std::uint8_t>& codes, int bits, const Row<Weight>& table, const Sides& sides) {
  expect_size(codes.size(), elements(sides), "codes");
  expect_size(table.size(), 256, "entries of a table");
  return engine::pack_codes(codes.data(), bits, table.data(), weight_shape(sides));
}

PackedWeights pack_signs(const Row<std::uint8_t>& signs, bool bytes, int least, float middle, const Sides& sides) {
  expect_size(signs.size(), elements(sides), "signs");
  const auto type = bytes ? engine::Type::uint8 : engine::Type::float32;
  return std::make_unique<engine::SignWeights>(std::vector(signs.data(), signs.data() + signs.size()), type, least, middle,
                                               weight_shape(sides));
}

template <class Value>
engine::Nonzeros<Value> nonzeros(const Places& places, const Row<Value>& values, const Sides& sides) {
  expect_size(values.size(), places.size(), "values");
  for (std::size_t i = 0; i < places.size(); ++i)
    if (places.data()[i] < (i ? places.data()[i - 1] + 1 : 0) || places.data()[i] >= elements(sides))
      throw std::invalid_argument("the places of nonzeros are ascending and within the weights");
  return {places.data(), values.data(), std::int64_t(places.size())};
}

template <class Value>
PackedWeights pack_mask(const Places& places, const Row<Value>& values, const Sides& sides) {
  return engine::pack_mask(nonzeros(places, values, sides), weight_shape(sides));
}

template <class Value>
PackedWeights pack_slots(const Places& places, const Row<Value>& values, const Sides& sides) {
  return engine::pack_slots(nonzeros(places, values, sides), weight_shape(sides));
}

template <class Value>
PackedWeights pack_blocks(const Places& places, const Row<Value>& values, const Sides& sides) {
  return engine::pack_steps(nonzeros(places, values, sides), weight_shape(sides));
}

PackedWeights pack_coded_slots(const Places& places, const Row<std::uint8_t>& codes, const Row<float>& table,
                               const Sides& sides) {
  const bool fits = table.size() >= 1 && table.size() <= 256 && table.data()[0] == 0;
  if (!fits) throw std::invalid_argument("a table of sparse weights has 1 to 256 entries, the first of which is 0");
  return engine::pack_slots(nonzeros(places, codes, sides), table.data(), int(table.size()), weight_shape(sides));
}

template <class Weight>
PackedWeights pack_inputs(const Row<Weight>& weights, const Sides& sides) {
  expect_size(weights.size(), elements(sides), "weights");
  return engine::pack_inputs(weights.data(), weight_shape(sides));
}

PackedWeights pack_coded_inputs(const Row<std::uint8_t>& codes, const Row<std::int8_t>& table, const Sides& sides) {
  expect_size(codes.size(), elements(sides), "codes");
  expect_size(table.size(), 16, "entries of a table");
  return engine::pack_inputs(codes.data(), table.data(), weight_shape(sides));
}

void add(Program& program, std::unique_ptr<engine::Operation> operation, std::vector<Id> reads, Id write) {
  operation->reads = std::move(reads);
  operation->writes = {write};
  program.add(std::move(operation));
}

using Loops = std::vector<std::tuple<int, std::array<int, 3>, std::array<int, 3>>>;
using Boxes = std::vector<std::tuple<std::array<int, 3>, std::array<int, 3>, Loops>>;

void add_copy(Program& program, std::vector<Id> reads, Id write, const std::vector<Boxes>& boxes, float low, float high) {
  std::vector<Tensor> inputs;
  for (Id read : reads) inputs.push_back(program.tensor(read));
  std::vector<std::vector<engine::Box>> all;
  for (const auto& of_input : boxes) {
    auto& to = all.emplace_back();
    for (const auto& [from_begin, to_begin, loops] : of_input) {
      auto& box = to.emplace_back(engine::Box{from_begin, to_begin, {}});
      for (const auto& [count, from_step, to_step] : loops) box.loops.push_back({count, from_step, to_step});
    }
  }
  auto copy = std::make_unique<engine::Copy>(inputs, program.tensor(write), all, low, high);
  add(program, std::move(copy), std::move(reads), write);
}

void add_convolution(Program& program, std::vector<Id> reads, Id write, std::array<int, 8> numbers,
                     PackedWeights weights, const Epilogue& epilogue) {
  auto operation = engine::convolve(program.tensor(reads.at(0)), program.tensor(write), window(numbers),
                                    std::move(weights), epilogue);
  add(program, std::move(operation), std::move(reads), write);
}

void add_elementwise(Program& program, std::vector<Id> reads, Id write, int arithmetic, const Epilogue& epilogue) {
  const Tensor* second = reads.size() > 1 ? &program.tensor(reads[1]) : nullptr;
  auto operation = std::make_unique<engine::Elementwise>(program.tensor(reads.at(0)), second, program.tensor(write),
                                                         engine::Arithmetic(arithmetic), epilogue);
  add(program, std::move(operation), std::move(reads), write);
}

void add_product(Program& program, std::vector<Id> reads, Id write, const Epilogue& epilogue) {
  auto operation = std::make_unique<engine::Product>(program.tensor(reads.at(0)), program.tensor(reads.at(1)),
                                                     program.tensor(write), epilogue);
  add(program, std::move(operation), std::move(reads), write);
}

// Of each direction weights, h, c and bias, and whether it begins at the last step.
using Directions = std::vector<std::tuple<Floats, Floats, Floats, Floats, bool>>;

void add_recurrent(Program& program, Id read, Id write, int kind, const Directions& directions) {
  const auto copied = [](const Floats& values) { return std::vector(values.data(), values.data() + values.size()); };
  std::vector<engine::Recurrent::Direction> all;
  for (const auto& [weights, h, c, bias, backward] : directions)
    all.push_back({copied(weights), copied(h), copied(c), copied(bias), backward});
  auto operation = std::make_unique<engine::Recurrent>(program.tensor(read), program.tensor(write),
                                                       engine::Recurrent::Kind(kind), std::move(all));
  add(program, std::move(operation), {read}, write);
}

// The caller's arrays in the order in which they were added: inputs, then outputs.
std::vector<std::byte*> pointers(const Program& program, int batch, const Inputs& inputs, const Outputs& outputs) {
  std::vector<std::byte*> pointers;
  bool fits = batch > 0 && int(inputs.size() + outputs.size()) == program.externals();
  const auto add = [&](const auto& array) {
    fits = fits && array.size() == program.external_values(int(pointers.size()), batch);
    pointers.push_back(reinterpret_cast<std::byte*>(const_cast<float*>(array.data())));
  };
  for (const auto& array : inputs) add(array);
  for (const auto& array : outputs) add(array);
  if (!fits) throw std::invalid_argument("program: arrays of other sizes than its inputs and outputs");
  return pointers;
}

void bind_program(nb::module_& m) {
  nb::class_<engine::Weights>(m, "Weights")
      .def_prop_ro("kind", &engine::Weights::kind)
      .def_prop_ro("bytes", &engine::Weights::bytes_stored);
  m.def("pack_codes", &pack_codes<float>, "Weights as codes into a table of 256 entries.");
  m.def("pack_codes", &pack_codes<std::int8_t>);
  m.def("pack_signs", &pack_signs, "Signs, 1 for +, to be multiplied with the signs of the activations.");
  m.def("pack_mask", &pack_mask<float>, "Weights as a bit each, and the nonzeros.");
  m.def("pack_mask", &pack_mask<std::int8_t>);
  m.def("pack_slots", &pack_slots<float>, "Weights of which few are not zero.");
  m.def("pack_slots", &pack_slots<std::int8_t>);
  m.def("pack_blocks", &pack_blocks<float>, "Weights of which many are zero for 16 outputs at once.");
  m.def("pack_blocks", &pack_blocks<std::int8_t>);
  m.def("pack_coded_slots", &pack_coded_slots, "The same, as codes into a table.");
  m.def("pack_inputs", &pack_inputs<float>, "Weights of which those of inputs that are zero are not read.");
  m.def("pack_inputs", &pack_inputs<std::int8_t>);
  m.def("pack_coded_inputs", &pack_coded_inputs, "The same, as codes of 4 bits into a table.");
  m.def("pack", &pack<float>, "The weights of a convolution, dense, as its kernels read them.");
  m.def("pack", &pack<std::int8_t>);
  nb::class_<Epilogue>(m, "Epilogue")
      .def("__init__",
           [](Epilogue* self, const Floats& scale, const Floats& bias, std::array<float, 3> rounding,
              const Floats& residual, int activation, const Floats& slopes, float low, float high) {
             const auto [step, least, most] = rounding;
             new (self) Epilogue{padded(scale), padded(bias), {step, least, most}, padded(residual),
                                 engine::Activation(activation), padded(slopes), low, high};
           })
      .def_ro("scale", &Epilogue::scale)
      .def_ro("bias", &Epilogue::bias)
      .def_prop_ro("rounding",
                   [](const Epilogue& self) {
                     return std::array{self.rounding.scale, self.rounding.least, self.rounding.most};
                   })
      .def_ro("residual", &Epilogue::residual)
      .def_prop_ro("activation", [](const Epilogue& self) { return int(self.activation); })
      .def_ro("slopes", &Epilogue::slopes)
      .def_ro("low", &Epilogue::low)
      .def_ro("high", &Epilogue::high);
  nb::class_<Program>(m, "Program")
      .def(nb::init<int>(), nb::arg("threads"))
      .def("tensor",
           [](Program& p, bool bytes, int rows, int columns, int channels, int border, float scale, int zero) {
             return p.add(tensor({bytes, rows, columns, channels, border, scale, zero}));
           })
      .def("external", [](Program& p, int values) { return p.add_external(Tensor{.channels = values}); })
      .def("copy", &add_copy)
      .def("convolution", &add_convolution)
      .def("elementwise", &add_elementwise)
      .def("pool",
           [](Program& p, Id read, Id write, std::array<int, 8> numbers, std::array<int, 2> after, int kind,
              const Epilogue& epilogue) {
             add(p, std::make_unique<engine::Pool>(p.tensor(read), p.tensor(write), window(numbers), after,
                                                   engine::Pool::Kind(kind), epilogue), {read}, write);
           })
      .def("product", &add_product)
      .def("recurrent", &add_recurrent)
      .def("normalise",
           [](Program& p, Id read, Id write, int kind, float epsilon, std::array<int, 2> beside,
              std::array<float, 3> response, const Epilogue& epilogue) {
             add(p, std::make_unique<engine::Normalise>(
                        p.tensor(read), p.tensor(write), engine::Normalise::Kind(kind), epsilon,
                        engine::Response{beside[0], beside[1], response[0], response[1], response[2]}, epilogue),
                 {read}, write);
           })
      .def("resize",
           [](Program& p, Id read, Id write, const std::vector<std::tuple<int, int, float>>& rows,
              const std::vector<std::tuple<int, int, float>>& columns, const Epilogue& epilogue) {
             const auto between = [](const auto& tuples) {
               std::vector<engine::Between> places;
               for (const auto& [first, second, share] : tuples) places.push_back({first, second, share});
               return places;
             };
             add(p, std::make_unique<engine::Resize>(p.tensor(read), p.tensor(write), between(rows), between(columns),
                                                     epilogue), {read}, write);
           })
      .def("run",
           [](Program& p, int batch, const Inputs& inputs, const Outputs& outputs) {
             const auto externals = pointers(p, batch, inputs, outputs);
             nb::gil_scoped_release release;
             p.run(batch, externals);
           })
      .def("profile",
           [](Program& p, int batch, const Inputs& inputs, const Outputs& outputs, int runs) {
             const auto externals = pointers(p, batch, inputs, outputs);
             nb::gil_scoped_release release;
             return p.profile(batch, externals, runs);
           })
      .def("kernels", &Program::kernels)
      .def("images_at_once", &Program::images_at_once)
      .def("memory", [](Program& p, int batch) {
        const auto arena = p.arena(batch);
        return std::tuple(arena.peak, arena.bound);
      });
}

}  // namespace

NB_MODULE(_native, m) {
  m.def(
      "huffman_decode",
      [](Bytes bytes, Bytes lengths, Symbols symbols) {
        bool complete;
        {
          nb::gil_scoped_release release;
          complete = dovetail::huffman_decode(bytes.data(), bytes.size(), lengths.data(), lengths.size(),
                                              symbols.data(), symbols.size());
        }
        if (!complete) throw std::invalid_argument("Huffman stream: the bits run out or match no code");
      },
      nb::arg("bytes"), nb::arg("lengths"), nb::arg("symbols"),
      "Decode symbols.size Huffman symbols from bytes into the uint32 array symbols.");
  m.def("best_mapping", &best_mapping, nb::arg("extents"), nb::arg("stride"), nb::arg("dilation"),
        nb::arg("dimensions"), nb::arg("stores"), nb::arg("boundaries"), nb::arg("prices"), nb::arg("halo_reuse"),
        nb::arg("objective"), nb::arg("seconds"), nb::arg("budget"),
        "The best mappings of a layer, the best first, a lower bound, how many were looked at, and whether all were.");
  bind_trials(m);
  bind_program(m);
}
