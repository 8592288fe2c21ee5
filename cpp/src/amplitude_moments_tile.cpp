#include "amplitude_moments_tile.hpp"

// Compiled without contraction: products here are rounded, so that a fused multiply-add would change bits.

namespace fedmed::amplitude_moments_tile {
namespace {

// Rows that share a pass over the panel, by the registers there are.
#if defined(__AVX512F__)
constexpr size_t width = 8, row_group = 8;
#elif defined(__AVX2__)
constexpr size_t width = 4, row_group = 2;
#else
constexpr size_t width = 2, row_group = 1;
#endif
constexpr size_t vectors = lanes / width;

typedef double vector_t __attribute__((vector_size(width * sizeof(double))));
typedef double loose_t __attribute__((vector_size(width * sizeof(double)), aligned(8), may_alias));

template <typename Value>
inline void fold_row(const Value* first, const Value* second, size_t count, double* sum, double* difference)
{
  for (size_t lane = 0; lane < count; ++lane) {
    const double left = static_cast<double>(first[lane]);
    const double right = static_cast<double>(second[lane]);
    sum[lane] = left + right;
    difference[lane] = left - right;
  }
}

template <typename Value>
inline void fold(
  const Value* values, size_t stride, size_t count, size_t length, double* sums, double* differences) noexcept
{
  const size_t half = length / 2 + 1;
  if (count < lanes) {
    for (size_t n = 0; n < half * lanes; ++n) {
      sums[n] = differences[n] = 0.0;
    }
  }
  for (size_t i = 0; i < half; ++i) {
    const Value* first = values + i * stride;
    double* sum = sums + i * lanes;
    double* difference = differences + i * lanes;
    if (i == 0 || 2 * i == length) {
      for (size_t lane = 0; lane < count; ++lane) {
        sum[lane] = static_cast<double>(first[lane]);
        difference[lane] = 0.0;
      }
    } else if (count == lanes) {
      fold_row(first, values + (length - i) * stride, lanes, sum, difference);
    } else {
      fold_row(first, values + (length - i) * stride, count, sum, difference);
    }
  }
}

template <size_t rows>
inline void multiply_rows(
  const double* factors, const double* panel, size_t depth, double* out, size_t out_stride) noexcept
{
  vector_t sums[rows][vectors];
#pragma GCC unroll 8
  for (size_t r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (size_t v = 0; v < vectors; ++v) {
      sums[r][v] = vector_t{};
    }
  }
  for (size_t n = 0; n < depth; ++n) {
    const loose_t* values = reinterpret_cast<const loose_t*>(panel + n * lanes);
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (size_t v = 0; v < vectors; ++v) {
        sums[r][v] += factors[r * depth + n] * values[v];
      }
    }
  }
#pragma GCC unroll 8
  for (size_t r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (size_t v = 0; v < vectors; ++v) {
      reinterpret_cast<loose_t*>(out + r * out_stride)[v] = sums[r][v];
    }
  }
}

void multiply(const double* factors,
              size_t rows,
              const double* panel,
              size_t depth,
              double* out,
              size_t out_stride) noexcept
{
  size_t row = 0;
  for (; row + row_group <= rows; row += row_group) {
    multiply_rows<row_group>(factors + row * depth, panel, depth, out + row * out_stride, out_stride);
  }
  for (; row < rows; ++row) {
    multiply_rows<1>(factors + row * depth, panel, depth, out + row * out_stride, out_stride);
  }
}

}  // namespace

const loops& FEDMED_ISA() noexcept
{
  static constexpr loops all{fold<float>, fold<double>, multiply};
  return all;
}

}  // namespace fedmed::amplitude_moments_tile
