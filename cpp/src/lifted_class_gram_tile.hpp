#pragma once

#include <stddef.h>

// Shared by lifted_class_gram.cpp and by every compilation of lifted_class_gram_tile.cpp. The latter may use
// nothing but this and <stddef.h>: an inline library function compiled there could be the copy that the
// linker keeps.

namespace fedmed::lifted_class_gram_tile {

/// The inner loops of one instruction set.
struct loops {
  size_t rows;     // of the tile
  size_t columns;  // of the tile and of a panel

  /// out[i][j] = Σ_c left[c][i] · panel[c][j]: `left` has `left_stride` between channels, `panel` none
  /// between its rows, `out` has `out_stride`.
  void (*multiply)(const float* left,
                   size_t left_stride,
                   const float* panel,
                   size_t depth,
                   float* out,
                   size_t out_stride) noexcept;

  /// out += below + share · (above - below)
  void (*interpolate)(
    const float* below, const float* above, float share, size_t length, float* out) noexcept;

  /// out = max(out, 0)
  void (*rectify)(size_t length, float* out) noexcept;
};

const loops& baseline() noexcept;
const loops& avx2() noexcept;
const loops& avx512() noexcept;

}  // namespace fedmed::lifted_class_gram_tile
