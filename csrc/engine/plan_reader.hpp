// Reads numbers and lists from the body of a plan. Nothing in it is trusted.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace dovetail::engine {

static_assert(std::endian::native == std::endian::little, "plans are little-endian");

inline void check_plan(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument("The plan is damaged or forged: " + what + ".");
}

class PlanReader {
 public:
  explicit PlanReader(std::span<const std::byte> bytes) : rest_(bytes) {}
  bool done() const { return rest_.empty(); }

  template <class T>
  T number() {
    check_plan(rest_.size() >= sizeof(T), "it ends too early");
    T value;
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_ = rest_.subspan(sizeof(T));
    return value;
  }

  int integer(int low, int high, const char* what) {
    const auto value = number<std::int32_t>();
    check_plan(low <= value && value <= high, std::string(what) + " is " + std::to_string(value));
    return value;
  }

  template <class T>
  std::vector<T> numbers() {
    const auto count = number<std::uint32_t>();
    check_plan(rest_.size() / sizeof(T) >= count, "a list is longer than the file");
    std::vector<T> values(count);
    if (count) std::memcpy(values.data(), rest_.data(), count * sizeof(T));
    rest_ = rest_.subspan(count * sizeof(T));
    return values;
  }

  // As many as there are, for lists whose elements are lists themselves: each takes a byte at least.
  std::uint32_t count() {
    const auto count = number<std::uint32_t>();
    check_plan(count <= rest_.size(), "a list is longer than the file");
    return count;
  }

 private:
  std::span<const std::byte> rest_;
};

}  // namespace dovetail::engine
