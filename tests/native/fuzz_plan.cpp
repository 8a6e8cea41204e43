// Runs plans, then damages them again and again, and runs what is still taken: nothing may crash.
//
//   fuzz_plan TIMES FILE.plan...
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "dovetail.h"

namespace {

constexpr std::size_t header = 24, checksum_at = 12;

std::uint32_t crc32(const std::string& bytes, std::size_t from) {
  std::uint32_t sum = ~0u;
  for (std::size_t i = from; i < bytes.size(); ++i) {
    sum ^= static_cast<unsigned char>(bytes[i]);
    for (int bit = 0; bit < 8; ++bit) sum = sum >> 1 ^ (sum & 1 ? 0xEDB88320u : 0u);
  }
  return ~sum;
}

// As a forger would: the length and the checksum fit again.
void make_valid(std::string& bytes) {
  if (bytes.size() < header) return;
  const std::uint64_t length = bytes.size() - header;
  const std::uint32_t sum = crc32(bytes, header);
  std::memcpy(&bytes[checksum_at], &sum, sizeof(sum));
  std::memcpy(&bytes[checksum_at + sizeof(sum)], &length, sizeof(length));
}

bool run(const std::string& bytes, int threads, int batch) {
  dovetail_network* network = dovetail_read(bytes.data(), bytes.size(), threads);
  if (!network) return false;
  const auto values = [&](std::size_t (*shape)(const dovetail_network*, const int**)) {
    const int* sides;
    std::size_t count = batch;
    for (std::size_t i = shape(network, &sides); i-- > 0;) count *= sides[i];
    return count;
  };
  std::vector<float> inputs(values(dovetail_input_shape)), outputs(values(dovetail_output_shape));
  for (std::size_t i = 0; i < inputs.size(); ++i) inputs[i] = float(i % 17) / 8 - 1;
  const bool ran = dovetail_run(network, batch, inputs.data(), outputs.data()) == 0;
  dovetail_free(network);
  return ran;
}

// Most damage is done to the description of the network, which is small beside its weights: near the file's ends, and
// where numbers are small.
void damage(std::string& bytes, std::mt19937& random) {
  const std::size_t at = random() % 3 ? random() % bytes.size() : header + random() % (bytes.size() - header) % 512;
  const std::int32_t numbers[] = {0, 1, -1, 2, 15, 16, 17, 255, 4095, 65536, 1 << 24, 1 << 26, INT32_MAX, INT32_MIN};
  switch (random() % 5) {
    case 0: bytes[at] ^= char(1 << random() % 8); break;
    case 1: bytes[at] = char(random()); break;
    case 2: bytes.resize(at); break;
    case 3: bytes.erase(at, random() % 64); break;
    default:
      if (at + 4 <= bytes.size()) std::memcpy(&bytes[at], &numbers[random() % std::size(numbers)], 4);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const int times = count > 1 ? std::atoi(arguments[1]) : 0;
  std::mt19937 random(1);
  for (int file = 2; file < count; ++file) {
    std::ifstream stream(arguments[file], std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
    for (const int batch : {1, 3})
      for (const int threads : {1, 2})
        if (!run(bytes, threads, batch)) {
          std::fprintf(stderr, "%s: %s\n", arguments[file], dovetail_error());
          return 1;
        }
    int taken = 0;
    for (int i = 0; i < times; ++i) {
      std::string damaged = bytes;
      for (int more = random() % 3; more >= 0 && damaged.size() > header; --more) damage(damaged, random);
      if (random() % 16) make_valid(damaged);
      taken += run(damaged, 1, 1);
    }
    std::printf("%s: %d of %d damaged plans still ran\n", arguments[file], taken, times);
  }
  return 0;
}
