#include "primitives.hpp"

#include <cstdlib>
#include <stdexcept>

namespace dovetail::engine {

extern const Primitives plain;
#if defined(__x86_64__)
extern const Primitives avx2, avx512;
#endif

namespace {

// The best first.
std::vector<const Primitives*> supported() {
  std::vector<const Primitives*> all;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vpopcntdq"))
    all.push_back(&avx512);
  if (has_avx2) all.push_back(&avx2);
#endif
  all.push_back(&plain);
  return all;
}

const Primitives& chosen() {
  const char* forced = std::getenv("DOVETAIL_ISA");
  return forced && *forced ? primitives(forced) : *supported().front();
}

}  // namespace

const Primitives& primitives() {
  static const Primitives& best = chosen();
  return best;
}

const Primitives& primitives(const std::string& name) {
  std::string names;
  for (const Primitives* level : supported()) {
    if (level->name == name) return *level;
    names += (names.empty() ? "" : ", ") + std::string(level->name);
  }
  throw std::invalid_argument("DOVETAIL_ISA is " + name + ", but this processor runs " + names);
}

std::vector<std::string> levels() {
  std::vector<std::string> names;
  for (const Primitives* level : supported()) names.push_back(level->name);
  return names;
}

}  // namespace dovetail::engine
