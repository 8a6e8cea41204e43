// What this machine can do at most, on as many threads as the first argument says: products per second in registers,
// uint8 by int8 and float32, and bytes per second read from memory. The best of several tries; prints JSON.
// Build: g++ -O3 -march=native -pthread roof.cpp
#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

constexpr int sums = 10, turns = 400000, tries = 60;

// The same instruction on ten sums that wait for nobody, `turns` times. In assembly, as compilers move the sums about.
#define TEN_SUMS(instruction)                                                                                \
  for (int turn = 0; turn < turns; ++turn)                                                                   \
    asm volatile(instruction " %%zmm0, %%zmm1, %%zmm2\n" instruction " %%zmm0, %%zmm1, %%zmm3\n"             \
                 instruction " %%zmm0, %%zmm1, %%zmm4\n" instruction " %%zmm0, %%zmm1, %%zmm5\n"             \
                 instruction " %%zmm0, %%zmm1, %%zmm6\n" instruction " %%zmm0, %%zmm1, %%zmm7\n"             \
                 instruction " %%zmm0, %%zmm1, %%zmm8\n" instruction " %%zmm0, %%zmm1, %%zmm9\n"             \
                 instruction " %%zmm0, %%zmm1, %%zmm10\n" instruction " %%zmm0, %%zmm1, %%zmm11\n" ::        \
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",       \
                       "xmm10", "xmm11")

void integers() { TEN_SUMS("vpdpbusd"); }
void floats() {
  asm volatile("vpxord %%zmm0, %%zmm0, %%zmm0" ::: "xmm0");  // no slow subnormal numbers
  TEN_SUMS("vfmadd231ps");
}

void read(const char* from, std::size_t bytes) {
  __m512i sums[8] = {};
  for (std::size_t i = 0; i < bytes; i += sizeof sums)
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) sums[k] = _mm512_xor_si512(sums[k], _mm512_loadu_si512(from + i + k * 64));
  for (auto& sum : sums) asm volatile("" : "+v"(sum));  // so that it must be read
}

void pin(int processor) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(processor, &only);
  sched_setaffinity(0, sizeof only, &only);
}

// Seconds of the fastest try.
template <class Work>
double fastest(int threads, Work work) {
  double best = 1e9;
  for (int i = 0; i < tries; ++i) {
    std::vector<std::thread> others;
    const auto start = std::chrono::steady_clock::now();
    for (int t = 1; t < threads; ++t) others.emplace_back([=] { pin(t), work(t); });
    pin(0), work(0);
    for (auto& other : others) other.join();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

int main(int, char** arguments) {
  const int threads = std::atoi(arguments[1]);
  const std::size_t bytes = std::size_t(256) << 20;
  const std::vector<char> memory(bytes, 1);
  const double vectors = double(threads) * turns * sums;
  std::printf("{\"int8_products\": %.4g, \"float32_products\": %.4g, \"bytes\": %.4g}\n",
              vectors * 64 / fastest(threads, [](int) { integers(); }),
              vectors * 16 / fastest(threads, [](int) { floats(); }),
              bytes / fastest(threads, [&](int t) { read(memory.data() + bytes / threads * t, bytes / threads); }));
}
