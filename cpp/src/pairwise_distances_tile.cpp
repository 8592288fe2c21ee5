#include "pairwise_distances_tile.hpp"

namespace fedmed::pairwise_distances_tile {
namespace {

// Rows on the right at a time by the registers there are.
#if defined(__AVX512F__)
constexpr size_t lanes = 16, most = 8;
#elif defined(__AVX2__)
constexpr size_t lanes = 8, most = 4;
#else
constexpr size_t lanes = 4, most = 2;
#endif
constexpr size_t block_lanes = 16;
constexpr size_t vectors = block_lanes / lanes;

typedef float floats __attribute__((vector_size(lanes * 4)));
typedef float loose_floats __attribute__((vector_size(lanes * 4), aligned(1), may_alias));

inline floats load(const void* row, size_t index)
{
  return *reinterpret_cast<const loose_floats*>(static_cast<const char*>(row) + index * 4);
}

inline void add_lanes(const floats* lane, double* sums)
{
  float values[block_lanes];
  for (size_t v = 0; v < vectors; ++v) {
    *reinterpret_cast<loose_floats*>(values + v * lanes) = lane[v];
  }
  for (size_t i = 0; i < sum_lanes; ++i) {
    sums[i] += static_cast<double>(values[i]) + static_cast<double>(values[i + sum_lanes]);
  }
}

template <size_t columns>
void squares(const void* left, const void* const* right, size_t count, double* sums)
{
  floats lane[columns][vectors] = {};
  for (size_t index = 0; index < count; index += block_lanes) {
#pragma GCC unroll 8
    for (size_t v = 0; v < vectors; ++v) {
      const floats value = load(left, index + v * lanes);
#pragma GCC unroll 8
      for (size_t j = 0; j < columns; ++j) {
        const floats difference = value - load(right[j], index + v * lanes);
        lane[j][v] += difference * difference;
      }
    }
  }
  for (size_t j = 0; j < columns; ++j) {
    add_lanes(lane[j], sums + j * sum_lanes);
  }
}

/// As many rows at a time as there are registers for, then the rest at once.
template <size_t columns = most>
void squares_of(const void* left, const void* const* right, size_t left_over, size_t count, double* sums)
{
  if (left_over == columns) {
    squares<columns>(left, right, count, sums);
  } else if constexpr (columns > 1) {
    squares_of<columns - 1>(left, right, left_over, count, sums);
  }
}

void run_squares(
  const void* left, const void* const* right, size_t columns, size_t count, double* sums) noexcept
{
  while (columns > 0) {
    // Even shares: a single row would wait for its own additions.
    const size_t shares = (columns + most - 1) / most;
    const size_t now = (columns + shares - 1) / shares;
    squares_of(left, right, now, count, sums);
    columns -= now;
    right += now;
    sums += now * sum_lanes;
  }
}

}  // namespace

run FEDMED_ISA() noexcept
{
  return run_squares;
}

}  // namespace fedmed::pairwise_distances_tile
