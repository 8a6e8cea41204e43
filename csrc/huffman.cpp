#include "huffman.hpp"

#include <array>
#include <vector>

namespace dovetail {

bool huffman_decode(const std::uint8_t* bytes, std::size_t byte_count, const std::uint8_t* lengths,
                    std::size_t alphabet, std::uint32_t* symbols, std::size_t count) {
  constexpr int longest = 32;
  std::array<std::uint64_t, longest + 1> of_length{};
  for (std::size_t s = 0; s < alphabet; ++s) {
    if (lengths[s] > longest) return false;
    if (lengths[s] > 0) ++of_length[lengths[s]];
  }
  // Symbols in canonical order, and where each length starts among the codes and among the symbols.
  std::array<std::uint64_t, longest + 2> first_code{}, first_index{};
  for (int l = 1; l <= longest; ++l) {
    first_code[l + 1] = (first_code[l] + of_length[l]) << 1;
    first_index[l + 1] = first_index[l] + of_length[l];
  }
  std::vector<std::uint32_t> ordered(first_index[longest + 1]);
  auto next = first_index;
  for (std::size_t s = 0; s < alphabet; ++s)
    if (lengths[s] > 0) ordered[next[lengths[s]]++] = static_cast<std::uint32_t>(s);

  const std::size_t bit_count = 8 * byte_count;
  std::size_t bit = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t code = 0;
    int length = 0;
    do {
      if (bit == bit_count || length == longest) return false;
      code = code << 1 | (bytes[bit >> 3] >> (7 - (bit & 7)) & 1);
      ++bit, ++length;
    } while (code < first_code[length] || code - first_code[length] >= of_length[length]);
    symbols[i] = ordered[first_index[length] + (code - first_code[length])];
  }
  return true;
}

}  // namespace dovetail
