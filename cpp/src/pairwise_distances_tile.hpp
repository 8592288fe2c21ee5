#pragma once

#include <stddef.h>

// Shared by pairwise_distances.cpp and by every compilation of pairwise_distances_tile.cpp. The latter may
// use nothing but this and <stddef.h>: an inline library function compiled there could be the copy that the
// linker keeps.

namespace fedmed::pairwise_distances_tile {

/// Sums that a pair of rows has until the end.
constexpr size_t sum_lanes = 8;

/// The inner loop of one instruction set: adds Σ_n (a[n] - b[n])² to `sum_lanes` sums of every pair of one of
/// the first `left` rows (1 or 2) with a later row. Pairs stand in order in `sums`: those of the first row,
/// then those of the second.
///
/// Rows hold `length` float32 at any alignment, a multiple of 16. Differences and squares are float32;
/// element n goes to lane n mod 16, each lane is summed in float32; lanes i and i + 8 are added to sum i in
/// float64.
using run =
  void (*)(const void* const* rows, size_t count, size_t left, size_t length, double* sums) noexcept;

run baseline() noexcept;
run avx2() noexcept;
run avx512() noexcept;

}  // namespace fedmed::pairwise_distances_tile
