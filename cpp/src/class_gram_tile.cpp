#include "class_gram_tile.hpp"

#include "product_tile.hpp"

namespace fedmed::class_gram_tile {
namespace {

constexpr size_t doubles = vector_bytes / sizeof(double);
constexpr size_t cache_line_doubles = 8;

// Rows that `fast` sums in float32, and how many such sums it adds to each other before it goes over to
// float64. No term is rounded more often than 12 times in its run, twice with the other runs, and twice where
// its factors' mean is taken off: 16 · 2^-24 is below 1e-6.
constexpr size_t run_rows = 12;
constexpr size_t runs_together = 4;

typedef double doubles_t __attribute__((vector_size(vector_bytes)));
typedef double loose_doubles_t __attribute__((vector_size(vector_bytes), aligned(8), may_alias));
typedef float floats_t __attribute__((vector_size(vector_bytes)));
typedef float loose_floats_t __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
typedef float loose_half_t __attribute__((vector_size(vector_bytes / 2), aligned(4), may_alias));
typedef float half_floats_t __attribute__((vector_size(vector_bytes / 2), may_alias));

/// What a tile is added to comes from memory while it is made.
template <size_t columns>
inline void fetch(double* const* out)
{
  for (size_t i = 0; i < tile_rows; ++i) {
    for (size_t j = 0; j < columns; j += cache_line_doubles) {
      __builtin_prefetch(out[i] + j, 1);
    }
  }
}

void multiply_exact(const double* left, const double* panel, size_t depth, double* const* out) noexcept
{
  fetch<tile_columns<double>>(out);
  tile_sums<doubles_t> sums;
  multiply_tile(left, tile_columns<double>, panel, depth, sums);
#pragma GCC unroll 8
  for (size_t i = 0; i < tile_rows; ++i) {
#pragma GCC unroll 8
    for (size_t v = 0; v < tile_vectors; ++v) {
      *reinterpret_cast<loose_doubles_t*>(out[i] + v * doubles) += sums[i][v];
    }
  }
}

using run_sums = tile_sums<floats_t>;

/// Add the sums of four runs to the Gram: to each other in float32, then in float64.
inline void add_runs(const run_sums* runs, double* const* out) noexcept
{
  for (size_t i = 0; i < tile_rows; ++i) {
    floats_t four[tile_vectors];
#pragma GCC unroll 8
    for (size_t v = 0; v < tile_vectors; ++v) {
      four[v] = (runs[0][i][v] + runs[1][i][v]) + (runs[2][i][v] + runs[3][i][v]);
    }
#pragma GCC unroll 16
    for (size_t v = 0; v < 2 * tile_vectors; ++v) {
      *reinterpret_cast<loose_doubles_t*>(out[i] + v * doubles) +=
        __builtin_convertvector(reinterpret_cast<const half_floats_t*>(four)[v], doubles_t);
    }
  }
}

void multiply_fast(const float* left, const float* panel, size_t depth, double* const* out) noexcept
{
  constexpr size_t columns = tile_columns<float>;
  fetch<columns>(out);
  run_sums runs[runs_together];
  size_t count = 0;
  for (size_t first = 0; first < depth; first += run_rows) {
    const float* right = panel + first * columns;
    if (depth - first >= run_rows) {
      multiply_tile(left + first * columns, columns, right, run_rows, runs[count++]);
    } else {
      multiply_tile(left + first * columns, columns, right, depth - first, runs[count++]);
    }
    if (depth - first <= run_rows) {
      for (; count < runs_together; ++count) {
        __builtin_memset(runs[count], 0, sizeof runs[count]);
      }
    }
    if (count == runs_together) {
      add_runs(runs, out);
      count = 0;
    }
  }
}

void sum_columns(const float* panel, size_t depth, float* sums) noexcept
{
  floats_t totals[tile_vectors];
  for (size_t v = 0; v < tile_vectors; ++v) {
    totals[v] = reinterpret_cast<const loose_floats_t*>(sums)[v];
  }
  for (size_t n = 0; n < depth; ++n) {
    const floats_t* row = reinterpret_cast<const floats_t*>(panel + n * tile_columns<float>);
#pragma GCC unroll 8
    for (size_t v = 0; v < tile_vectors; ++v) {
      totals[v] += row[v];
    }
  }
  for (size_t v = 0; v < tile_vectors; ++v) {
    reinterpret_cast<loose_floats_t*>(sums)[v] = totals[v];
  }
}

void shift_columns(float* panel, size_t depth, const float* shifts, double* rests) noexcept
{
  doubles_t totals[2 * tile_vectors];
  for (size_t v = 0; v < 2 * tile_vectors; ++v) {
    totals[v] = reinterpret_cast<const loose_doubles_t*>(rests)[v];
  }
  for (size_t n = 0; n < depth; ++n) {
    half_floats_t* row = reinterpret_cast<half_floats_t*>(panel + n * tile_columns<float>);
#pragma GCC unroll 16
    for (size_t v = 0; v < 2 * tile_vectors; ++v) {
      row[v] -= reinterpret_cast<const loose_half_t*>(shifts)[v];
      totals[v] += __builtin_convertvector(row[v], doubles_t);
    }
  }
  for (size_t v = 0; v < 2 * tile_vectors; ++v) {
    reinterpret_cast<loose_doubles_t*>(rests)[v] = totals[v];
  }
}

}  // namespace

const tiles& FEDMED_ISA() noexcept
{
  static constexpr tiles all{{tile_rows, tile_columns<double>, multiply_exact},
                             {tile_rows, tile_columns<float>, multiply_fast},
                             sum_columns,
                             shift_columns};
  return all;
}

}  // namespace fedmed::class_gram_tile
