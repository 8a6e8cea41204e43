// The C interface. Nothing is thrown through it: what goes wrong is a sentence for dovetail_error.
#include "dovetail.h"

#include <exception>
#include <fstream>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string>

#include "engine/plan.hpp"

using namespace dovetail::engine;

struct dovetail_network {
  Planned planned;
};

namespace {

constexpr int most_threads = 256, most_images = 1 << 16;

thread_local std::string last_error;

// What `call` gives, or `failure`, with the reason in last_error.
template <class Call, class Result>
Result guarded(const Call& call, Result failure) noexcept try {
  return call();
} catch (const std::bad_alloc&) {
  last_error = "There is not enough memory.";
  return failure;
} catch (const std::exception& error) {
  last_error = error.what();
  return failure;
}

dovetail_network* read(std::span<const std::byte> bytes, int threads) {
  if (threads < 1 || threads > most_threads)
    throw std::invalid_argument("A network runs on 1 to " + std::to_string(most_threads) + " threads, not on " +
                                std::to_string(threads) + ".");
  return new dovetail_network{read_plan(bytes, threads)};
}

void check_batch(const dovetail_network* network, int batch) {
  if (!network) throw std::invalid_argument("There is no network: it could not be loaded.");
  if (batch < 1 || batch > most_images)
    throw std::invalid_argument("A batch has 1 to " + std::to_string(most_images) + " inputs, not " +
                                std::to_string(batch) + ".");
}

}  // namespace

extern "C" {

const char* dovetail_error(void) { return last_error.c_str(); }

dovetail_network* dovetail_load(const char* path, int threads) {
  return guarded(
      [&] {
        std::ifstream file(path ? path : "", std::ios::binary);
        const std::string bytes{std::istreambuf_iterator<char>(file), {}};
        if (!file) throw std::invalid_argument(std::string(path ? path : "A file without a name") + " cannot be read.");
        return read(std::as_bytes(std::span(bytes)), threads);
      },
      static_cast<dovetail_network*>(nullptr));
}

dovetail_network* dovetail_read(const void* bytes, size_t size, int threads) {
  return guarded([&] { return read({static_cast<const std::byte*>(bytes), size}, threads); },
                 static_cast<dovetail_network*>(nullptr));
}

void dovetail_free(dovetail_network* network) { delete network; }

size_t dovetail_input_shape(const dovetail_network* network, const int** sides) {
  *sides = network->planned.input.data();
  return network->planned.input.size();
}

size_t dovetail_output_shape(const dovetail_network* network, const int** sides) {
  *sides = network->planned.output.data();
  return network->planned.output.size();
}

int dovetail_run(dovetail_network* network, int batch, const float* inputs, float* outputs) {
  return guarded(
      [&] {
        check_batch(network, batch);
        if (!inputs || !outputs) throw std::invalid_argument("There is no array to read from or to write to.");
        // The engine only reads the first.
        std::byte* externals[] = {reinterpret_cast<std::byte*>(const_cast<float*>(inputs)),
                                  reinterpret_cast<std::byte*>(outputs)};
        network->planned.program->run(batch, externals);
        return 0;
      },
      -1);
}

size_t dovetail_memory(dovetail_network* network, int batch) {
  return guarded(
      [&] {
        check_batch(network, batch);
        return network->planned.program->arena(batch).peak;
      },
      std::size_t(0));
}

}  // extern "C"
