#include "program.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

namespace dovetail::engine {

namespace {

template <class T>
void fill(std::byte* data, std::ptrdiff_t first, std::ptrdiff_t last, T value) {
  std::fill(reinterpret_cast<T*>(data) + first, reinterpret_cast<T*>(data) + last, value);
}

// What lies around an image: above it with the first left border, between its rows, below it with the last right one.
template <class T>
void fill_borders(const Tensor& tensor, int batch, std::byte* data, T zero) {
  const std::ptrdiff_t side = std::ptrdiff_t(tensor.border) * tensor.padded_channels();
  for (int image = 0; image < batch; ++image) {
    std::ptrdiff_t begin = image * tensor.image_elements();
    for (int row = 0; row < tensor.rows; ++row) {
      fill(data, begin, tensor.at(image, row, 0), zero);
      begin = tensor.at(image, row, 0) + tensor.row_elements() - 2 * side;
    }
    fill(data, begin, (image + 1) * tensor.image_elements(), zero);
  }
}

bool over_each_other(const Arena& arena, const std::vector<Block>& blocks, int a, int b) {
  return arena.offsets[a] < arena.offsets[b] + blocks[b].bytes && arena.offsets[b] < arena.offsets[a] + blocks[a].bytes;
}

}  // namespace

void Program::Free::operator()(std::byte* memory) const { std::free(memory); }

Program::Program(int threads) : threads_(threads) {}

Id Program::add(const Tensor& tensor) {
  entries_.push_back({tensor, -1, blocks_++, -1, -1});
  return Id(entries_.size()) - 1;
}

Id Program::add_external(const Tensor& tensor) {
  entries_.push_back({tensor, externals_++, -1, -1, -1});
  entries_.back().tensor.external = true;
  return Id(entries_.size()) - 1;
}

void Program::add(std::unique_ptr<Operation> operation) {
  const int now = int(steps_.size());
  const std::size_t first = steps_.empty() ? 0
                                           : steps_.back().first_place + steps_.back().operation->reads.size() +
                                                 steps_.back().operation->writes.size();
  const auto live = [&](Id id) {
    Entry& entry = entries_.at(id);
    if (entry.first < 0) entry.first = now;
    entry.last = now;
  };
  std::for_each(operation->reads.begin(), operation->reads.end(), live);
  std::for_each(operation->writes.begin(), operation->writes.end(), live);
  steps_.push_back({std::move(operation), first, {}});
}

std::size_t Program::external_values(int external, int batch) const {
  for (const auto& entry : entries_)
    if (entry.external == external) return std::size_t(batch) * entry.tensor.image_elements();
  return 0;
}

std::vector<std::string> Program::kernels() const {
  std::vector<std::string> names;
  for (const auto& step : steps_) names.push_back(step.operation->kernel());
  return names;
}

std::vector<int> Program::images_at_once(int batch) {
  const std::lock_guard lock(mutex_);
  std::vector<int> images(steps_.size());
  for (const Segment& segment : laid_out(batch).segments)
    std::fill(images.begin() + segment.first, images.begin() + segment.last + 1, segment.images);
  return images;
}

std::vector<Demand> Program::demands() const {
  std::vector<Demand> demands;
  for (int now = 0; now < int(steps_.size()); ++now) {
    const Operation& operation = *steps_[now].operation;
    Demand demand{operation.weight_bytes(), 0, 0, 0};
    for (const auto* ids : {&operation.reads, &operation.writes})
      for (Id id : *ids) demand.touched += entries_[id].tensor.bytes(1);
    for (const Entry& entry : entries_) {
      if (entry.first > now || entry.last < now) continue;
      demand.live += entry.tensor.bytes(1);
      if (entry.last > now) demand.passed += entry.tensor.bytes(1);
    }
    demands.push_back(demand);
  }
  return demands;
}

std::vector<Block> Program::blocks(int batch, Layout& layout) const {
  std::vector<Block> blocks;
  const auto segment_of = [&](int step) {
    return *std::find_if(layout.segments.begin(), layout.segments.end(), [&](const auto& s) { return step <= s.last; });
  };
  for (const auto& entry : entries_) {
    Block block{0, entry.first, entry.last};
    layout.images.push_back(batch);
    if (entry.first >= 0) {
      const Segment written = segment_of(entry.first), read = segment_of(entry.last);
      if (written.first == read.first)
        layout.images.back() = written.images;
      else  // some images are read while others have not been written
        block.first = written.first, block.last = read.last;
    }
    block.bytes = entry.tensor.bytes(layout.images.back());
    if (entry.block >= 0) blocks.push_back(block);
  }
  for (int step = 0; step < int(steps_.size()); ++step)
    blocks.push_back({steps_[step].operation->scratch_bytes(threads_.size()), step, step});
  return blocks;
}

const Program::Layout& Program::laid_out(int batch) {
  const auto found = layouts_.find(batch);
  if (found != layouts_.end()) return found->second;
  Layout layout{segments(demands(), batch, threads_.size()), {}, {}, {}};
  layout.blocks = blocks(batch, layout);
  layout.arena = arrange(layout.blocks);
  return layouts_.emplace(batch, std::move(layout)).first->second;
}

Arena Program::arena(int batch) {
  const std::lock_guard lock(mutex_);
  return laid_out(batch).arena;
}

std::byte* Program::at(Id id) const { return memory_.get() + layout_->arena.offsets[entries_[id].block]; }

void Program::fill_border(Id id) {
  const Tensor& tensor = entries_[id].tensor;
  if (tensor.type == Type::float32)
    fill_borders<float>(tensor, layout_->images[id], at(id), 0);
  else
    fill_borders<std::uint8_t>(tensor, layout_->images[id], at(id), std::uint8_t(tensor.zero));
}

void Program::prepare(int batch) {
  if (batch == batch_) return;
  batch_ = 0;  // until all is done
  layout_ = &laid_out(batch);
  const Arena& arena = layout_->arena;
  if (arena.peak > capacity_) {
    memory_.reset();
    capacity_ = 0;
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, arena.peak)));
    if (!memory_) throw std::bad_alloc();
    capacity_ = arena.peak;
  }
  std::memset(memory_.get(), 0, arena.peak);
  places_.clear();
  for (auto& step : steps_) {
    for (const auto* ids : {&step.operation->reads, &step.operation->writes})
      for (Id id : *ids) places_.push_back({&entries_[id].tensor, entries_[id].block < 0 ? nullptr : at(id)});
    step.borders.clear();
  }
  const auto& all = layout_->blocks;
  for (Id id = 0; id < Id(entries_.size()); ++id) {
    const Entry& entry = entries_[id];
    if (entry.block < 0 || entry.tensor.border == 0 || entry.first < 0) continue;
    bool alone = true;
    for (int other = 0; other < int(all.size()); ++other)
      alone &= other == entry.block || !over_each_other(arena, all, entry.block, other);
    if (alone)
      fill_border(id);
    else
      steps_[entry.first].borders.push_back(id);
  }
  batch_ = batch;
}

void Program::connect(const Segment& segment, std::span<std::byte* const> externals, int first_image) {
  for (int i = segment.first; i <= segment.last; ++i) {
    const Step& step = steps_[i];
    Place* place = &places_[step.first_place];
    for (const auto* ids : {&step.operation->reads, &step.operation->writes})
      for (Id id : *ids) {
        const Entry& entry = entries_[id];
        const bool all = entry.external >= 0 || layout_->images[id] > segment.images;
        std::byte* data = entry.external >= 0 ? externals[entry.external] : at(id);
        (place++)->data = data + (all ? entry.tensor.bytes(first_image) : 0);
      }
  }
}

template <class Each>
void Program::each_step(int batch, std::span<std::byte* const> externals, const Each& each) {
  const std::lock_guard lock(mutex_);
  prepare(batch);
  for (const Segment& segment : layout_->segments)
    for (int first = 0; first < batch; first += segment.images) {
      connect(segment, externals, first);
      for (int i = segment.first; i <= segment.last; ++i) each(i, first, std::min(segment.images, batch - first));
    }
}

void Program::run_step(const Step& step, int first_image, int images) {
  for (Id id : step.borders)
    if (first_image == 0 || layout_->images[id] < batch_) fill_border(id);
  const std::size_t reads = step.operation->reads.size(), writes = step.operation->writes.size();
  const std::span<const Place> places(&places_[step.first_place], reads + writes);
  const std::size_t scratch = layout_->arena.offsets[blocks_ + (&step - steps_.data())];
  step.operation->run({images, places.first(reads), places.last(writes), memory_.get() + scratch, threads_, primitives()});
}

void Program::run(int batch, std::span<std::byte* const> externals) {
  each_step(batch, externals, [&](int i, int first, int images) { run_step(steps_[i], first, images); });
}

std::vector<double> Program::profile(int batch, std::span<std::byte* const> externals, int runs) {
  using Clock = std::chrono::steady_clock;
  std::vector<std::vector<double>> seconds(steps_.size(), std::vector<double>(runs));
  for (int run = 0; run < runs; ++run)
    each_step(batch, externals, [&](int i, int first, int images) {
      const auto start = Clock::now();
      run_step(steps_[i], first, images);
      seconds[i][run] += std::chrono::duration<double>(Clock::now() - start).count();
    });
  std::vector<double> medians;
  for (auto& s : seconds) {
    std::nth_element(s.begin(), s.begin() + runs / 2, s.end());
    medians.push_back(s[runs / 2]);
  }
  return medians;
}

}  // namespace dovetail::engine
