#include "class_gram_tile.hpp"

namespace fedmed::tile {
namespace {

// Tile and vector shapes by the registers there are: accumulators, a row of the panel and one broadcast.
#if defined(__AVX512F__)
constexpr size_t lanes = 8, tile_rows = 8, tile_vectors = 3;
#elif defined(__AVX2__)
constexpr size_t lanes = 4, tile_rows = 4, tile_vectors = 3;
#elif defined(__aarch64__)
constexpr size_t lanes = 2, tile_rows = 4, tile_vectors = 6;
#else
constexpr size_t lanes = 2, tile_rows = 4, tile_vectors = 2;
#endif
constexpr size_t tile_columns = lanes * tile_vectors;

typedef double vector_t __attribute__((vector_size(lanes * sizeof(double))));
typedef double loose_t __attribute__((vector_size(lanes * sizeof(double)), aligned(8), may_alias));

void multiply(const double* left, const double* panel, size_t depth, double* const* out) noexcept
{
  vector_t sums[tile_rows][tile_vectors] = {};
  for (size_t i = 0; i < tile_rows; ++i) {
    for (size_t v = 0; v < tile_vectors; ++v) {
      __builtin_prefetch(out[i] + v * lanes, 1);
    }
  }
  for (size_t n = 0; n < depth; ++n) {
    const vector_t* right = reinterpret_cast<const vector_t*>(panel + n * tile_columns);
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
      loose_t* target = reinterpret_cast<loose_t*>(out[i] + v * lanes);
      *target += sums[i][v];
    }
  }
}

}  // namespace

const class_gram_tile& FEDMED_ISA() noexcept
{
  static constexpr class_gram_tile shape{tile_rows, tile_columns, multiply};
  return shape;
}

}  // namespace fedmed::tile
