#pragma once

#include <stddef.h>

// Shared by pairwise_distances.cpp and by every compilation of pairwise_distances_tile.cpp. The latter may
// use nothing but this and <stddef.h>: an inline library function compiled there could be the copy that the
// linker keeps.

namespace fedmed::pairwise_distances_tile {

/// Sums that a pair of rows has until the end.
constexpr size_t sum_lanes = 8;

/// The inner loop of one instruction set: adds Σ_n (left[i][n] - right[j][n])² to sums[i] + j · sum_lanes
/// for each of `rows` (1 or 2) on the left and `columns` on the right, `sum_lanes` sums a pair.
///
/// Rows hold `count` float32 at any alignment, a multiple of 16. Differences and squares are float32;
/// element n goes to lane n mod 16, each lane is summed in float32; lanes i and i + 8 are added to sum i in
/// float64.
using run = void (*)(const void* const* left,
                     size_t rows,
                     const void* const* right,
                     size_t columns,
                     size_t count,
                     double* const* sums) noexcept;

run baseline() noexcept;
run avx2() noexcept;
run avx512() noexcept;

}  // namespace fedmed::pairwise_distances_tile
