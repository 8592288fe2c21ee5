#include "class_gram_tile.hpp"

namespace fedmed::class_gram_tile {
namespace {

// Tile and vector shapes by the registers there are: accumulators, a row of the panel and one broadcast.
#if defined(__AVX512F__)
constexpr size_t vector_bytes = 64, tile_rows = 8, tile_vectors = 3;
#elif defined(__AVX2__)
constexpr size_t vector_bytes = 32, tile_rows = 4, tile_vectors = 3;
#elif defined(__aarch64__)
constexpr size_t vector_bytes = 16, tile_rows = 4, tile_vectors = 6;
#else
constexpr size_t vector_bytes = 16, tile_rows = 4, tile_vectors = 2;
#endif
constexpr size_t doubles = vector_bytes / sizeof(double);
constexpr size_t floats = vector_bytes / sizeof(float);
constexpr size_t cache_line_doubles = 8;

// Rows that `fast` sums in float32 before it goes over to float64. Of 2^-24 for each rounding, of the shift, the
// products and the partial sums, the terms of a sum take (24 + 1) / 2 + 2 on average: below 1e-6 of their size.
constexpr size_t run_rows = 24;
// Runs whose sums wait in the first-level cache.
constexpr size_t runs_together = 8;

typedef double doubles_t __attribute__((vector_size(vector_bytes)));
typedef double loose_doubles_t __attribute__((vector_size(vector_bytes), aligned(8), may_alias));
typedef float floats_t __attribute__((vector_size(vector_bytes)));
typedef float half_floats_t __attribute__((vector_size(vector_bytes / 2), may_alias));

void multiply_exact(const double* left, const double* panel, size_t depth, double* const* out) noexcept
{
  constexpr size_t tile_columns = doubles * tile_vectors;
  doubles_t sums[tile_rows][tile_vectors] = {};
  for (size_t i = 0; i < tile_rows; ++i) {
    for (size_t j = 0; j < tile_columns; j += cache_line_doubles) {
      __builtin_prefetch(out[i] + j, 1);
    }
  }
  for (size_t n = 0; n < depth; ++n) {
    const doubles_t* right = reinterpret_cast<const doubles_t*>(panel + n * tile_columns);
    const double* column = left + n * tile_columns;
#pragma GCC unroll 8
    for (size_t i = 0; i < tile_rows; ++i) {
#pragma GCC unroll 8
      for (size_t v = 0; v < tile_vectors; ++v) {
        sums[i][v] += column[i] * right[v];
      }
    }
  }
#pragma GCC unroll 8
  for (size_t i = 0; i < tile_rows; ++i) {
#pragma GCC unroll 8
    for (size_t v = 0; v < tile_vectors; ++v) {
      *reinterpret_cast<loose_doubles_t*>(out[i] + v * doubles) += sums[i][v];
    }
  }
}

using run_sums = floats_t[tile_rows][tile_vectors];

/// Σ over a few rows, in registers.
inline __attribute__((always_inline)) void sum_run(const float* left,
                                                   const float* panel,
                                                   size_t depth,
                                                   run_sums& out) noexcept
{
  constexpr size_t tile_columns = floats * tile_vectors;
  run_sums sums = {};
  for (size_t n = 0; n < depth; ++n) {
    const floats_t* right = reinterpret_cast<const floats_t*>(panel + n * tile_columns);
    const float* column = left + n * tile_columns;
#pragma GCC unroll 8
    for (size_t i = 0; i < tile_rows; ++i) {
#pragma GCC unroll 8
      for (size_t v = 0; v < tile_vectors; ++v) {
        sums[i][v] += column[i] * right[v];
      }
    }
  }
#pragma GCC unroll 8
  for (size_t i = 0; i < tile_rows; ++i) {
#pragma GCC unroll 8
    for (size_t v = 0; v < tile_vectors; ++v) {
      out[i][v] = sums[i][v];
    }
  }
}

/// Add the sums of some runs to the Gram, in float64.
inline void add_runs(const run_sums* runs, size_t count, double* const* out) noexcept
{
  for (size_t i = 0; i < tile_rows; ++i) {
    doubles_t totals[2 * tile_vectors] = {};
    for (size_t run = 0; run < count; ++run) {
      const half_floats_t* sums = reinterpret_cast<const half_floats_t*>(runs[run][i]);
#pragma GCC unroll 16
      for (size_t v = 0; v < 2 * tile_vectors; ++v) {
        totals[v] += __builtin_convertvector(sums[v], doubles_t);
      }
    }
#pragma GCC unroll 16
    for (size_t v = 0; v < 2 * tile_vectors; ++v) {
      *reinterpret_cast<loose_doubles_t*>(out[i] + v * doubles) += totals[v];
    }
  }
}

void multiply_fast(const float* left, const float* panel, size_t depth, double* const* out) noexcept
{
  constexpr size_t tile_columns = floats * tile_vectors;
  for (size_t i = 0; i < tile_rows; ++i) {
    for (size_t j = 0; j < tile_columns; j += cache_line_doubles) {
      __builtin_prefetch(out[i] + j, 1);
    }
  }
  run_sums runs[runs_together];
  size_t count = 0;
  for (size_t first = 0; first < depth; first += run_rows) {
    const float* right = panel + first * tile_columns;
    if (depth - first >= run_rows) {
      sum_run(left + first * tile_columns, right, run_rows, runs[count++]);
    } else {
      sum_run(left + first * tile_columns, right, depth - first, runs[count++]);
    }
    if (count == runs_together || depth - first <= run_rows) {
      add_runs(runs, count, out);
      count = 0;
    }
  }
}

}  // namespace

const tiles& FEDMED_ISA() noexcept
{
  static constexpr tiles both{{tile_rows, doubles * tile_vectors, multiply_exact},
                              {tile_rows, floats * tile_vectors, multiply_fast}};
  return both;
}

}  // namespace fedmed::class_gram_tile
