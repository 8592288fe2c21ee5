#include "pairwise_distances_tile.hpp"

namespace fedmed::pairwise_distances_tile {
namespace {

// Pairs at a time by the registers there are.
#if defined(__AVX512F__)
constexpr size_t lanes = 16, most = 16;
#elif defined(__AVX2__)
constexpr size_t lanes = 8, most = 4;
#else
constexpr size_t lanes = 4, most = 2;
#endif
constexpr size_t block_lanes = 16;
constexpr size_t vectors = block_lanes / lanes;

typedef float floats __attribute__((vector_size(lanes * 4)));
typedef float loose_floats __attribute__((vector_size(lanes * 4), aligned(1), may_alias));
typedef float loose_half __attribute__((vector_size(sum_lanes * 4), aligned(4), may_alias));
typedef double loose_sums __attribute__((vector_size(sum_lanes * 8), aligned(8), may_alias));

inline floats load(const void* row, size_t index)
{
  return *reinterpret_cast<const loose_floats*>(static_cast<const char*>(row) + index * 4);
}

/// In vectors of eight: a sum for each would take as long as a block's squares.
inline void add_lanes(const floats* lane, double* sums)
{
  float values[block_lanes];
  for (size_t v = 0; v < vectors; ++v) {
    *reinterpret_cast<loose_floats*>(values + v * lanes) = lane[v];
  }
  const loose_half* halves = reinterpret_cast<const loose_half*>(values);
  loose_sums* total = reinterpret_cast<loose_sums*>(sums);
  *total += __builtin_convertvector(halves[0], loose_sums) + __builtin_convertvector(halves[1], loose_sums);
}

/// `left` rows against `columns` others, and `among` each other; `sums` of each left row begin with the first
/// other.
template <size_t left, size_t columns, bool among>
void squares(const void* const* rows, const void* const* others, size_t length, double* const* sums)
{
  floats lane[left][columns][vectors] = {};
  floats own[vectors] = {};
  for (size_t index = 0; index < length; index += block_lanes) {
    // What follows in memory: a line here and there, so that it comes while the sums are made.
    __builtin_prefetch(static_cast<const char*>(rows[0]) + (length + index) * 4);
    __builtin_prefetch(static_cast<const char*>(rows[1]) + (length + index) * 4);
#pragma GCC unroll 4
    for (size_t v = 0; v < vectors; ++v) {
      floats values[left];
#pragma GCC unroll 2
      for (size_t i = 0; i < left; ++i) {
        values[i] = load(rows[i], index + v * lanes);
      }
      if constexpr (among) {
        const floats difference = values[0] - values[1];
        own[v] += difference * difference;
      }
#pragma GCC unroll 16
      for (size_t j = 0; j < columns; ++j) {
        const floats other = load(others[j], index + v * lanes);
#pragma GCC unroll 2
        for (size_t i = 0; i < left; ++i) {
          const floats difference = values[i] - other;
          lane[i][j][v] += difference * difference;
        }
      }
    }
  }
  if constexpr (among) {
    add_lanes(own, sums[0] - sum_lanes);
  }
  for (size_t i = 0; i < left; ++i) {
    for (size_t j = 0; j < columns; ++j) {
      add_lanes(lane[i][j], sums[i] + j * sum_lanes);
    }
  }
}

/// `columns` at compile time for `now`.
template <size_t left, bool among, size_t columns = most / left>
void squares_of(
  const void* const* rows, const void* const* others, size_t now, size_t length, double* const* sums)
{
  if (now == columns) {
    squares<left, columns, among>(rows, others, length, sums);
  } else if constexpr (columns > 1) {
    squares_of<left, among, columns - 1>(rows, others, now, length, sums);
  }
}

template <size_t left>
void squares_of_all(const void* const* rows, size_t count, size_t length, double* const* sums)
{
  constexpr size_t most_columns = most / left;
  for (size_t first = left; first < count;) {
    // Even shares: a single pair would wait for its own additions.
    const size_t rest = count - first;
    const size_t shares = (rest + most_columns - 1) / most_columns;
    const size_t now = (rest + shares - 1) / shares;
    double* here[left];
    for (size_t i = 0; i < left; ++i) {
      here[i] = sums[i] + (first - left) * sum_lanes;
    }
    if (left == 2 && first == left) {
      squares_of<left, left == 2>(rows, rows + first, now, length, here);
    } else {
      squares_of<left, false>(rows, rows + first, now, length, here);
    }
    first += now;
  }
}

void run_squares(const void* const* rows, size_t count, size_t left, size_t length, double* sums) noexcept
{
  double* both[] = {sums + (left - 1) * sum_lanes, sums + (count - 1) * sum_lanes};
  if (left == 2) {
    squares_of_all<2>(rows, count, length, both);
  } else {
    squares_of_all<1>(rows, count, length, both);
  }
}

}  // namespace

run FEDMED_ISA() noexcept
{
  return run_squares;
}

}  // namespace fedmed::pairwise_distances_tile
