// The only file that includes nanobind.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>

#include "huffman.hpp"

namespace nb = nanobind;

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Symbols = nb::ndarray<std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

NB_MODULE(_native, m) {
  m.def(
      "huffman_decode",
      [](Bytes bytes, Bytes lengths, Symbols symbols) {
        bool complete;
        {
          nb::gil_scoped_release release;
          complete = dovetail::huffman_decode(bytes.data(), bytes.size(), lengths.data(), lengths.size(),
                                              symbols.data(), symbols.size());
        }
        if (!complete) throw std::invalid_argument("Huffman stream: the bits run out or match no code");
      },
      nb::arg("bytes"), nb::arg("lengths"), nb::arg("symbols"),
      "Decode symbols.size Huffman symbols from bytes into the uint32 array symbols.");
}
