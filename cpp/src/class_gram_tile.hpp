#pragma once

#include <stddef.h>

// Shared by class_gram.cpp and by every compilation of class_gram_tile.cpp. The latter may use nothing but
// this and <stddef.h>: an inline library function compiled there could be the copy that the linker keeps.

namespace fedmed::class_gram_tile {

/// The inner tile of one instruction set for packed doubles (`exact`) or floats (`fast`).
///
/// `panel` points to `depth` rows of `columns` packed values, aligned for its vectors, and so does `left`,
/// but at the first of the tile's `rows` columns. Adds Σ_n left[n][i] · panel[n][j] to out[i][j].
template <typename PackedT>
struct tile {
  size_t rows;
  size_t columns;  // a multiple of `rows`
  void (*multiply)(const PackedT* left, const PackedT* panel, size_t depth, double* const* out) noexcept;
};

/// The inner loops of one instruction set.
struct tiles {
  tile<double> exact;
  tile<float> fast;
  /// sums[j] += Σ_n panel[n][j], in the order of n; for panels of `fast`.
  void (*sum_columns)(const float* panel, size_t depth, float* sums) noexcept;
  /// panel[n][j] -= shifts[j], and rests[j] += Σ_n of what is left.
  void (*shift_columns)(float* panel, size_t depth, const float* shifts, double* rests) noexcept;
};

const tiles& baseline() noexcept;
const tiles& avx2() noexcept;
const tiles& avx512() noexcept;

}  // namespace fedmed::class_gram_tile
