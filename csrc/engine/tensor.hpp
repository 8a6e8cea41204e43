// The engine's activations: images of rows, columns and channels, the channels next to each other.
#pragma once
#include <cstddef>
#include <cstdint>

namespace dovetail::engine {

// Channels are padded to a multiple of this, with the value that stands for zero, so no kernel needs masks.
constexpr int lanes = 16;

enum class Type : std::uint8_t { float32, uint8 };

constexpr int bytes_of(Type type) { return type == Type::float32 ? 4 : 1; }

// What is known of an activation before it is computed. A vector is an image of one pixel, a sequence one of one row.
// Around every image lie `border` rows and columns that hold zero, so that a convolution reads its padding like
// everything else. A code q of uint8 stands for scale * (q - zero).
struct Tensor {
  Type type = Type::float32;
  int rows = 1, columns = 1, channels = 1, border = 0;
  float scale = 1;
  int zero = 0;
  bool external = false;  // the caller's array: float32, without padding or border

  int padded_channels() const { return external ? channels : (channels + lanes - 1) / lanes * lanes; }
  std::ptrdiff_t row_elements() const { return std::ptrdiff_t(columns + 2 * border) * padded_channels(); }
  std::ptrdiff_t image_elements() const { return (rows + 2 * border) * row_elements(); }
  std::size_t bytes(int batch) const { return std::size_t(batch) * image_elements() * bytes_of(type); }
  // Offset in elements of a pixel; rows and columns from -border on.
  std::ptrdiff_t at(int image, int row, int column) const {
    return image * image_elements() + (row + border) * row_elements() + std::ptrdiff_t(column + border) * padded_channels();
  }
  // Whether pixels lie as far apart as those of the other.
  bool lies_like(const Tensor& other) const {
    return padded_channels() == other.padded_channels() && row_elements() == other.row_elements() &&
           image_elements() == other.image_elements();
  }
};

}  // namespace dovetail::engine
