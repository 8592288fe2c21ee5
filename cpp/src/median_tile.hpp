#pragma once

#include <stddef.h>
#include <stdint.h>

// Shared by median.cpp and by every compilation of median_tile.cpp. The latter may use nothing
// but this, <stddef.h> and <stdint.h>: an inline library function compiled there could be the copy that the
// linker keeps.

namespace fedmed::median_tile {

/// Rows hold float32 at any alignment, `count` of them, a multiple of 16. False where a value is not finite;
/// then `out` is of no use.
using median_run = bool (*)(const void* const* rows, size_t count, float* out) noexcept;

/// Mean of ranks `cut` to K - 1 - `cut`, summed in float64 from the smallest.
using trimmed_run = bool (*)(const void* const* rows, size_t cut, size_t count, float* out) noexcept;

/// Put rows `low` and `high` of a block in order; a row that is not `kept` is not read again.
struct exchange {
  uint16_t low;
  uint16_t high;
  bool low_kept;
  bool high_kept;
};

/// Most rows that one call sorts in registers.
constexpr size_t registers_cap = 16;

/// The inner loops of one instruction set.
struct loops {
  /// By the number of rows; null where there is no such, and then `sort` does it.
  median_run median[registers_cap + 1];
  trimmed_run trimmed[registers_cap + 1];
  /// Sort rows that begin `stride` apart, in place. False where a value is not finite.
  bool (*sort)(
    float* block, size_t stride, size_t rows, const exchange* network, size_t length, size_t count) noexcept;
  /// The mean of rows `first` to `last` of a sorted block; of two as a median takes it if `halved`.
  void (*mean)(const float* block,
               size_t stride,
               size_t first,
               size_t last,
               bool halved,
               size_t count,
               float* out) noexcept;
};

const loops& baseline() noexcept;
const loops& avx2() noexcept;
const loops& avx512() noexcept;

}  // namespace fedmed::median_tile
