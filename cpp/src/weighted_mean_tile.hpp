#pragma once

#include <stddef.h>

// Shared by weighted_mean.cpp and by every compilation of weighted_mean_tile.cpp. The latter may use
// nothing but this and <stddef.h>, <stdint.h>: an inline library function compiled there could be the copy
// that the linker keeps.

namespace fedmed::weighted_mean_tile {

/// out[i] = Σ_k weights[k] · rows[k][i] / total, or with a base
/// out[i] = base[i] + Σ_k weights[k] · (rows[k][i] - base[i]) / total.
///
/// `base` and rows hold `count` float32 at any alignment, a multiple of 16. Weights are ≥ 0; 2^`magnitude`
/// is at least their sum, or with a base the number of rows. Each term is rounded to a multiple of the same
/// power of two, 2^-51 of the largest that the sum can be (2^`magnitude` of the largest value, or with a
/// base of the largest term); sums of such are exact, so that the order of the rows changes no bit. False
/// where a value is not finite; then `out` is of no use.
using run = bool (*)(const void* const* rows,
                     const void* base,
                     const double* weights,
                     size_t row_count,
                     int magnitude,
                     double total,
                     size_t count,
                     float* out) noexcept;

run baseline() noexcept;
run avx2() noexcept;
run avx512() noexcept;

}  // namespace fedmed::weighted_mean_tile
