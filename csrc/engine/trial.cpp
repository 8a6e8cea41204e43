#include "trial.hpp"

#include <map>
#include <mutex>
#include <new>

namespace dovetail::engine {

namespace {

// Threads wait by spinning: many idle ones would take the processors from those at work.
std::shared_ptr<Threads> shared_threads(int count) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<Threads>> all;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Threads> threads = all[count].lock();
  if (!threads) all[count] = threads = std::make_shared<Threads>(count);
  return threads;
}

}  // namespace

void Trial::Free::operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t(64)); }

Trial::Memory Trial::allocate(std::size_t bytes) {
  return Memory(static_cast<std::byte*>(::operator new(bytes, std::align_val_t(64))));
}

Trial::Trial(const std::string& level, int threads, int batch, std::vector<Tensor> tensors,
             std::unique_ptr<Operation> operation)
    : primitives_(level.empty() ? primitives() : primitives(level)),
      threads_(shared_threads(threads)),
      batch_(batch),
      tensors_(std::move(tensors)),
      operation_(std::move(operation)) {
  for (const Tensor& tensor : tensors_) {
    memory_.push_back(allocate(tensor.bytes(batch)));
    std::memset(memory_.back().get(), tensor.type == Type::uint8 ? tensor.zero : 0, tensor.bytes(batch));
    places_.push_back({&tensor, memory_.back().get()});
  }
  memory_.push_back(allocate(operation_->scratch_bytes(threads)));
}

template <class Copy>
void Trial::each_pixel(int index, Copy copy) const {
  const Tensor& tensor = tensors_.at(index);
  const int bytes = bytes_of(tensor.type), pixel = tensor.channels * bytes;
  std::size_t done = 0;
  for (int image = 0; image < batch_; ++image)
    for (int row = 0; row < tensor.rows; ++row)
      for (int column = 0; column < tensor.columns; ++column, done += pixel)
        copy(memory_[index].get() + tensor.at(image, row, column) * bytes, done, pixel);
}

void Trial::set(int index, const std::byte* values) {
  each_pixel(index, [&](std::byte* at, std::size_t done, int bytes) { std::memcpy(at, values + done, bytes); });
}

void Trial::get(std::byte* values) const {
  each_pixel(output(),
             [&](const std::byte* at, std::size_t done, int bytes) { std::memcpy(values + done, at, bytes); });
}

std::size_t Trial::value_bytes(int index) const {
  const Tensor& tensor = tensors_.at(index);
  return std::size_t(batch_) * tensor.rows * tensor.columns * tensor.channels * bytes_of(tensor.type);
}

void Trial::run() {
  const std::span<const Place> places(places_);
  const std::size_t reads = places.size() - 1;
  operation_->run({batch_, places.first(reads), places.last(1), memory_.back().get(), *threads_, primitives_});
}

}  // namespace dovetail::engine
