// A network made ready to run: its activations, its steps, the memory they need and the threads that work on them.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "arena.hpp"
#include "operation.hpp"

namespace dovetail::engine {

class Program {
 public:
  explicit Program(int threads);

  Id add(const Tensor& tensor);
  // One that is the caller's: of float32, where an operation that reads or writes it knows how it lies in memory.
  Id add_external(const Tensor& tensor);
  // Operations run in the order in which they were added.
  void add(std::unique_ptr<Operation> operation);

  // `externals` are the caller's arrays, in the order in which they were added. Callers wait for each other.
  void run(int batch, std::span<std::byte* const> externals);

  const Tensor& tensor(Id id) const;
  std::vector<std::string> kernels() const;
  Arena arena(int batch);
  // Seconds that each operation took in the last run.
  const std::vector<double>& seconds() const { return seconds_; }
  void time_operations(bool on) { timed_ = on; }

 private:
  struct Layout {
    Arena arena;
    std::vector<Place> places;                  // of each operation's reads, then writes, one after the other
    std::vector<std::vector<int>> borders;      // which of them each operation must find filled
    std::vector<int> lasting;                   // those that nothing else lies over: filled once
  };
  struct Entry {
    Tensor tensor;
    int external;  // its place among the caller's, -1: in the arena
  };

  std::vector<Block> blocks(int batch) const;
  Layout lay_out(int batch);
  const Layout& prepare(int batch);
  void connect(const Layout& layout, std::span<std::byte* const> externals);

  std::vector<Entry> tensors_;
  std::vector<std::unique_ptr<Operation>> operations_;
  int externals_ = 0;
  Threads threads_;
  std::mutex mutex_;
  std::map<int, Layout> layouts_;  // by batch
  int filled_ = 0;                 // the batch whose lasting borders are filled
  struct Free {
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::size_t capacity_ = 0;
  std::vector<Place> places_;
  std::vector<double> seconds_;
  bool timed_ = false;
};

}  // namespace dovetail::engine
