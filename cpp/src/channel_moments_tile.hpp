#pragma once

#include <stddef.h>

// Shared by channel_moments.cpp and by every compilation of channel_moments_tile.cpp. The latter may use
// nothing but this and <stddef.h>: an inline library function compiled there could be the copy that the
// linker keeps.

namespace fedmed::channel_moments_tile {

/// The inner loops of one instruction set. Both add to sums and sums of squares, in the same order
/// everywhere.
struct loops {
  /// Sums of `runs` runs of `length` values that begin `stride` apart, one sum a run. Value n goes to lane
  /// n mod 16; lanes are added in halves (i and i + 8, i and i + 4, …), then the values after the last 16.
  void (*along)(
    const float* values, size_t runs, size_t stride, size_t length, double* sums, double* squares) noexcept;

  /// Sums of every column over rows without gaps, row after row.
  void (*across)(const float* values, size_t rows, size_t columns, double* sums, double* squares) noexcept;
};

const loops& baseline() noexcept;
const loops& avx2() noexcept;
const loops& avx512() noexcept;

}  // namespace fedmed::channel_moments_tile
