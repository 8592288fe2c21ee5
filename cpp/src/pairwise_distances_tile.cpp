#include "pairwise_distances_tile.hpp"

namespace fedmed::pairwise_distances_tile {
namespace {

// Pairs at a time by the registers there are.
#if defined(__AVX512F__)
constexpr size_t lanes = 16, most = 12;
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

template <size_t rows, size_t columns>
void squares(
  const void* const* left, const void* const* right, size_t count, double* const* sums, size_t first)
{
  floats lane[rows][columns][vectors] = {};
  for (size_t index = 0; index < count; index += block_lanes) {
#pragma GCC unroll 4
    for (size_t v = 0; v < vectors; ++v) {
      floats values[rows];
#pragma GCC unroll 2
      for (size_t i = 0; i < rows; ++i) {
        values[i] = load(left[i], index + v * lanes);
      }
#pragma GCC unroll 8
      for (size_t j = 0; j < columns; ++j) {
        const floats other = load(right[j], index + v * lanes);
#pragma GCC unroll 2
        for (size_t i = 0; i < rows; ++i) {
          const floats difference = values[i] - other;
          lane[i][j][v] += difference * difference;
        }
      }
    }
  }
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < columns; ++j) {
      add_lanes(lane[i][j], sums[i] + (first + j) * sum_lanes);
    }
  }
}

/// `columns` at compile time for `now`.
template <size_t rows, size_t columns = most / rows>
void squares_of(const void* const* left,
                const void* const* right,
                size_t now,
                size_t count,
                double* const* sums,
                size_t first)
{
  if (now == columns) {
    squares<rows, columns>(left, right, count, sums, first);
  } else if constexpr (columns > 1) {
    squares_of<rows, columns - 1>(left, right, now, count, sums, first);
  }
}

template <size_t rows>
void squares_of_all(
  const void* const* left, const void* const* right, size_t columns, size_t count, double* const* sums)
{
  for (size_t first = 0; first < columns;) {
    // Even shares: a single pair would wait for its own additions.
    const size_t rest = columns - first;
    const size_t shares = (rest + most / rows - 1) / (most / rows);
    const size_t now = (rest + shares - 1) / shares;
    squares_of<rows>(left, right + first, now, count, sums, first);
    first += now;
  }
}

void run_squares(const void* const* left,
                 size_t rows,
                 const void* const* right,
                 size_t columns,
                 size_t count,
                 double* const* sums) noexcept
{
  if (rows == 2) {
    squares_of_all<2>(left, right, columns, count, sums);
  } else {
    squares_of_all<1>(left, right, columns, count, sums);
  }
}

}  // namespace

run FEDMED_ISA() noexcept
{
  return run_squares;
}

}  // namespace fedmed::pairwise_distances_tile
