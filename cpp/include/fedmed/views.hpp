#pragma once

#include <array>
#include <cstddef>

namespace fedmed {

/// Rows and columns of someone else's memory, row after row without gaps.
template <typename ElementT>
struct matrix_view {
  ElementT* data;
  std::size_t rows;
  std::size_t columns;

  [[nodiscard]] ElementT* row(std::size_t index) const noexcept { return data + index * columns; }
};

/// Sides of a grid; a 2-D one has a first side of 1.
using grid_size = std::array<std::size_t, 3>;

[[nodiscard]] constexpr std::size_t cells(const grid_size& size) noexcept
{
  return size[0] * size[1] * size[2];
}

/// Channels, each a grid, of someone else's memory, one after the other without gaps.
template <typename ElementT>
struct grid_view {
  ElementT* data;
  std::size_t channels;
  grid_size size;

  [[nodiscard]] ElementT* channel(std::size_t index) const noexcept { return data + index * cells(size); }
};

}  // namespace fedmed
