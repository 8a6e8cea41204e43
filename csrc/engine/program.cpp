#include "program.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

#include <unistd.h>

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

// Of one core.
std::size_t second_cache_bytes() {
  long bytes = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
  bytes = found;
#endif
  return bytes > 0 ? std::size_t(bytes) : std::size_t(1) << 19;
}

}  // namespace

void Program::Free::operator()(std::byte* memory) const { std::free(memory); }

Program::Program(int threads) : threads_(threads) {}

Id Program::add(const Tensor& tensor) {
  entries_.push_back({tensor, -1, blocks_++, {0, -1, -1}});
  return Id(entries_.size()) - 1;
}

Id Program::add_external(const Tensor& tensor) {
  entries_.push_back({tensor, externals_++, -1, {0, -1, -1}});
  entries_.back().tensor.external = true;
  return Id(entries_.size()) - 1;
}

void Program::add(std::unique_ptr<Operation> operation) {
  const int now = int(steps_.size());
  const std::size_t first = steps_.empty() ? 0
                                           : steps_.back().first_place + steps_.back().operation->reads.size() +
                                                 steps_.back().operation->writes.size();
  const auto live = [&](Id id) {
    Block& life = entries_.at(id).life;
    if (life.first < 0) life.first = now;
    life.last = now;
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

std::vector<Block> Program::blocks(int batch) const {
  std::vector<Block> blocks;
  for (const auto& entry : entries_)
    if (entry.block >= 0) blocks.push_back({entry.tensor.bytes(batch), entry.life.first, entry.life.last});
  for (int step = 0; step < int(steps_.size()); ++step)
    blocks.push_back({steps_[step].operation->scratch_bytes(threads_.size()), step, step});
  return blocks;
}

const Arena& Program::laid_out(int batch) {
  const auto found = arenas_.find(batch);
  return found != arenas_.end() ? found->second : arenas_.emplace(batch, arrange(blocks(batch))).first->second;
}

Arena Program::arena(int batch) {
  const std::lock_guard lock(mutex_);
  return laid_out(images_at_once(batch));
}

std::byte* Program::at(Id id) const { return memory_.get() + arenas_.at(batch_).offsets[entries_[id].block]; }

void Program::fill_border(Id id) {
  const Tensor& tensor = entries_[id].tensor;
  if (tensor.type == Type::float32)
    fill_borders<float>(tensor, batch_, at(id), 0);
  else
    fill_borders<std::uint8_t>(tensor, batch_, at(id), std::uint8_t(tensor.zero));
}

void Program::prepare(int batch) {
  if (batch == batch_) return;
  const Arena& arena = laid_out(batch);
  batch_ = 0;  // until all is done
  if (arena.peak > capacity_) {
    memory_.reset();
    capacity_ = 0;
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, arena.peak)));
    if (!memory_) throw std::bad_alloc();
    capacity_ = arena.peak;
  }
  std::memset(memory_.get(), 0, arena.peak);
  batch_ = batch;
  places_.clear();
  for (auto& step : steps_) {
    for (const auto* ids : {&step.operation->reads, &step.operation->writes})
      for (Id id : *ids) places_.push_back({&entries_[id].tensor, entries_[id].block < 0 ? nullptr : at(id)});
    step.borders.clear();
  }
  const auto all = blocks(batch);
  for (Id id = 0; id < Id(entries_.size()); ++id) {
    const Entry& entry = entries_[id];
    if (entry.block < 0 || entry.tensor.border == 0 || entry.life.first < 0) continue;
    bool alone = true;
    for (int other = 0; other < int(all.size()); ++other)
      alone &= other == entry.block || !over_each_other(arena, all, entry.block, other);
    if (alone)
      fill_border(id);
    else
      steps_[entry.life.first].borders.push_back(id);
  }
}

void Program::connect(std::span<std::byte* const> externals, int first_image) {
  for (const auto& step : steps_) {
    Place* place = &places_[step.first_place];
    for (const auto* ids : {&step.operation->reads, &step.operation->writes})
      for (Id id : *ids) {
        const Entry& entry = entries_[id];
        if (entry.external >= 0) place->data = externals[entry.external] + entry.tensor.bytes(first_image);
        ++place;
      }
  }
}

int Program::images_at_once(int batch) {
  const std::size_t room = second_cache_bytes() / 2;
  std::size_t weights = 0;
  for (const auto& step : steps_) weights += step.operation->weight_bytes();
  if (weights > room) return batch;
  const std::size_t fitting = threads_.size() * room / std::max<std::size_t>(1, laid_out(1).peak);
  const int most = int(std::clamp<std::size_t>(fitting, 1, batch));
  // Parts of one size if it can be: all is laid out anew where the size changes.
  for (int images = most; 2 * images > most; --images)
    if (batch % images == 0) return images;
  return most;
}

template <class Part>
void Program::each_part(int batch, std::span<std::byte* const> externals, const Part& part) {
  const std::lock_guard lock(mutex_);
  const int most = images_at_once(batch);
  for (int first = 0; first < batch; first += most) {
    prepare(std::min(most, batch - first));
    connect(externals, first);
    part();
  }
}

void Program::run_step(const Step& step) {
  for (Id id : step.borders) fill_border(id);
  const std::size_t reads = step.operation->reads.size(), writes = step.operation->writes.size();
  const std::span<const Place> places(&places_[step.first_place], reads + writes);
  const std::size_t scratch = arenas_.at(batch_).offsets[blocks_ + (&step - steps_.data())];
  step.operation->run({batch_, places.first(reads), places.last(writes), memory_.get() + scratch, threads_, primitives()});
}

void Program::run(int batch, std::span<std::byte* const> externals) {
  each_part(batch, externals, [&] {
    for (const auto& step : steps_) run_step(step);
  });
}

std::vector<double> Program::profile(int batch, std::span<std::byte* const> externals, int runs) {
  using Clock = std::chrono::steady_clock;
  std::vector<std::vector<double>> seconds(steps_.size(), std::vector<double>(runs));
  for (int run = 0; run < runs; ++run)
    each_part(batch, externals, [&] {
      for (std::size_t i = 0; i < steps_.size(); ++i) {
        const auto start = Clock::now();
        run_step(steps_[i]);
        seconds[i][run] += std::chrono::duration<double>(Clock::now() - start).count();
      }
    });
  std::vector<double> medians;
  for (auto& s : seconds) {
    std::nth_element(s.begin(), s.begin() + runs / 2, s.end());
    medians.push_back(s[runs / 2]);
  }
  return medians;
}

}  // namespace dovetail::engine
