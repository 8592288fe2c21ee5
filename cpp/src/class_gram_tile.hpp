#pragma once

#include <stddef.h>

// Shared by class_gram.cpp and by every compilation of class_gram_tile.cpp. The latter may use nothing but
// this and <stddef.h>: an inline library function compiled there could be the copy that the linker keeps.

namespace fedmed::tile {

/// The inner tile of one instruction set.
///
/// `panel` points to `depth` rows of `columns` packed doubles, aligned for its vectors, and so does `left`, but
/// at the first of the tile's `rows` columns. Adds Σ_n left[n][i] · panel[n][j] to out[i][j].
struct class_gram_tile {
  size_t rows;
  size_t columns;  // a multiple of `rows`
  void (*multiply)(const double* left, const double* panel, size_t depth, double* const* out) noexcept;
};

const class_gram_tile& baseline() noexcept;
const class_gram_tile& avx2() noexcept;
const class_gram_tile& avx512() noexcept;

}  // namespace fedmed::tile
