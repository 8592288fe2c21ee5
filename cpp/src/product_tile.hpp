#pragma once

#include <stddef.h>

// The register tile of a matrix product, for the tiles that are compiled once for every instruction set. They
// may use nothing but such headers and <stddef.h>; all of this one is theirs alone, so that no linker can mix
// the copies.

namespace fedmed {
namespace {

// By the registers there are: accumulators, a row of the panel and one broadcast.
#if defined(__AVX512F__)
constexpr size_t vector_bytes = 64, tile_rows = 8, tile_vectors = 3;
#elif defined(__AVX2__)
constexpr size_t vector_bytes = 32, tile_rows = 4, tile_vectors = 3;
#elif defined(__aarch64__)
constexpr size_t vector_bytes = 16, tile_rows = 4, tile_vectors = 6;
#else
constexpr size_t vector_bytes = 16, tile_rows = 4, tile_vectors = 2;
#endif

/// Elements of a row of the tile, and of a panel.
template <typename ElementT>
constexpr size_t tile_columns = vector_bytes / sizeof(ElementT) * tile_vectors;

template <typename VectorT>
using tile_sums = VectorT[tile_rows][tile_vectors];

/// sums[i] = Σ_n left[n · stride + i] · panel[n], in the order of n; rows of the panel are aligned, none lies
/// between.
template <typename ElementT, typename VectorT>
inline __attribute__((always_inline)) void multiply_tile(
  const ElementT* left, size_t stride, const ElementT* panel, size_t depth, tile_sums<VectorT>& sums) noexcept
{
  tile_sums<VectorT> registers = {};
  for (size_t n = 0; n < depth; ++n) {
    const VectorT* right = reinterpret_cast<const VectorT*>(panel + n * tile_columns<ElementT>);
    const ElementT* column = left + n * stride;
#pragma GCC unroll 8
    for (size_t i = 0; i < tile_rows; ++i) {
#pragma GCC unroll 8
      for (size_t v = 0; v < tile_vectors; ++v) {
        registers[i][v] += column[i] * right[v];
      }
    }
  }
#pragma GCC unroll 8
  for (size_t i = 0; i < tile_rows; ++i) {
#pragma GCC unroll 8
    for (size_t v = 0; v < tile_vectors; ++v) {
      sums[i][v] = registers[i][v];
    }
  }
}

}  // namespace
}  // namespace fedmed
