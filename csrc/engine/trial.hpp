// One operation by itself, for tests and measurements: its activations lie in memory of their own. Trials of as many
// threads share them, so only one may run at a time.
#pragma once
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "operation.hpp"

namespace dovetail::engine {

class Trial {
 public:
  // The tensors that the operation reads, then the one that it writes.
  Trial(const std::string& level, int threads, int batch, std::vector<Tensor> tensors,
        std::unique_ptr<Operation> operation);
  // Values (batch, rows, columns, channels), without border and padding.
  void set(int tensor, const std::byte* values);
  void get(std::byte* values) const;
  void run();
  int output() const { return int(tensors_.size()) - 1; }
  std::size_t value_bytes(int tensor) const;

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  using Memory = std::unique_ptr<std::byte, Free>;
  static Memory allocate(std::size_t bytes);
  template <class Copy>
  void each_pixel(int tensor, Copy copy) const;

  const Primitives& primitives_;
  std::shared_ptr<Threads> threads_;
  int batch_;
  std::vector<Tensor> tensors_;
  std::unique_ptr<Operation> operation_;
  std::vector<Memory> memory_;  // of each tensor, and scratch
  std::vector<Place> places_;
};

}  // namespace dovetail::engine
