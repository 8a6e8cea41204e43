// Canonical Huffman decoding. Knows nothing of Python.
#pragma once
#include <cstddef>
#include <cstdint>

namespace dovetail {

// Decodes `count` symbols from `bytes` (most significant bit first) into `symbols`.
// `lengths[s]` is the code length of symbol s in bits, 0 for a symbol that does not occur, 32 at most; codes are
// canonical: ordered by length, then by symbol. Returns false if the bits run out or match no code.
bool huffman_decode(const std::uint8_t* bytes, std::size_t byte_count, const std::uint8_t* lengths,
                    std::size_t alphabet, std::uint32_t* symbols, std::size_t count);

}  // namespace dovetail
