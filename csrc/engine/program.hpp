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
#include "segments.hpp"

namespace dovetail::engine {

class Program {
 public:
  explicit Program(int threads);

  Id add(const Tensor& tensor);
  // One that is the caller's; what reads or writes it knows how it lies in memory.
  Id add_external(const Tensor& tensor);
  // Operations run in the order in which they were added.
  void add(std::unique_ptr<Operation> operation);

  // `externals` are the caller's arrays, in the order in which they were added. Callers wait for each other.
  void run(int batch, std::span<std::byte* const> externals);

  const Tensor& tensor(Id id) const { return entries_.at(id).tensor; }
  int externals() const { return externals_; }
  std::size_t external_values(int external, int batch) const;
  std::vector<std::string> kernels() const;
  // Of a run of so many images.
  Arena arena(int batch);
  // How many of so many images go through each step at a time.
  std::vector<int> images_at_once(int batch);
  // Seconds that each operation takes, run on its own: the median of several runs of the whole.
  std::vector<double> profile(int batch, std::span<std::byte* const> externals, int runs);

 private:
  struct Entry {
    Tensor tensor;
    int external;     // its place among the caller's, -1 if it lies in the arena
    int block;        // its place among the blocks of the arena, those of operations' scratch memory coming after
    int first, last;  // the steps that use it
  };
  struct Step {
    std::unique_ptr<Operation> operation;
    std::size_t first_place;   // of its reads, then its writes, in places_
    std::vector<Id> borders;   // those to be filled before it runs, as something else lay there
  };
  struct Free {
    void operator()(std::byte* memory) const;
  };
  // Of a batch. Memory of values that pass from one segment to the next is for all of its images.
  struct Layout {
    std::vector<Segment> segments;
    std::vector<int> images;    // that each tensor has room for
    std::vector<Block> blocks;
    Arena arena;
  };

  std::vector<Demand> demands() const;
  std::vector<Block> blocks(int batch, Layout& layout) const;
  const Layout& laid_out(int batch);
  void prepare(int batch);
  void connect(const Segment& segment, std::span<std::byte* const> externals, int first_image);
  // Calls each(step, first image, how many) where all is ready for it.
  template <class Each>
  void each_step(int batch, std::span<std::byte* const> externals, const Each& each);
  void run_step(const Step& step, int first_image, int images);
  void fill_border(Id id);
  std::byte* at(Id id) const;

  std::vector<Entry> entries_;
  std::vector<Step> steps_;
  int externals_ = 0, blocks_ = 0;
  Threads threads_;
  std::mutex mutex_;
  std::map<int, Layout> layouts_;  // by batch
  std::unique_ptr<std::byte, Free> memory_;
  std::size_t capacity_ = 0;
  // What it is prepared for now.
  int batch_ = 0;
  const Layout* layout_ = nullptr;
  std::vector<Place> places_;
};

}  // namespace dovetail::engine
