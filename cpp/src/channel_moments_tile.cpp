#include "channel_moments_tile.hpp"

namespace fedmed::channel_moments_tile {
namespace {

#if defined(__AVX512F__)
constexpr size_t width = 8;
#elif defined(__AVX2__)
constexpr size_t width = 4;
#else
constexpr size_t width = 2;
#endif
constexpr size_t lanes = 16;
constexpr size_t vectors = lanes / width;
// Rows that are added while a column's sums stay in a register.
constexpr size_t row_block = 8;
constexpr size_t ahead = 1024;      // values between what is summed and what is fetched: 4 KiB
constexpr size_t line_values = 16;  // of a cache line

typedef double vector_t __attribute__((vector_size(width * sizeof(double))));
typedef double loose_t __attribute__((vector_size(width * sizeof(double)), aligned(8), may_alias));

/// `width` values as doubles: their squares are exact, so that a fused multiply-add changes no bit.
inline vector_t load(const float* values) noexcept
{
  double wide[width];
  for (size_t n = 0; n < width; ++n) {
    wide[n] = static_cast<double>(values[n]);
  }
  vector_t value;
  __builtin_memcpy(&value, wide, sizeof(value));
  return value;
}

inline void add(double value, double& sum, double& square) noexcept
{
  sum += value;
  square += value * value;
}

/// Sum of all lanes, in halves.
inline double fold(vector_t (&sums)[vectors]) noexcept
{
#pragma GCC unroll 4
  for (size_t count = vectors / 2; count > 0; count /= 2) {
#pragma GCC unroll 4
    for (size_t v = 0; v < count; ++v) {
      sums[v] += sums[v + count];
    }
  }
  vector_t total = sums[0];
#pragma GCC unroll 4
  for (size_t count = width / 2; count > 0; count /= 2) {
#pragma GCC unroll 4
    for (size_t n = 0; n < count; ++n) {
      total[n] += total[n + count];
    }
  }
  return total[0];
}

void along(
  const float* values, size_t runs, size_t stride, size_t length, double* sums, double* squares) noexcept
{
  const size_t whole = length - length % lanes;
  for (size_t run = 0; run < runs; ++run, values += stride) {
    vector_t sum[vectors];
    vector_t square[vectors];
#pragma GCC unroll 8
    for (size_t v = 0; v < vectors; ++v) {
      sum[v] = square[v] = vector_t{};
    }
    for (size_t n = 0; n < whole; n += lanes) {
      __builtin_prefetch(values + n + ahead);
#pragma GCC unroll 8
      for (size_t v = 0; v < vectors; ++v) {
        const vector_t value = load(values + n + v * width);
        sum[v] += value;
        square[v] += value * value;
      }
    }
    double total = fold(sum);
    double total_square = fold(square);
    for (size_t n = whole; n < length; ++n) {
      add(static_cast<double>(values[n]), total, total_square);
    }
    sums[run] += total;
    squares[run] += total_square;
  }
}

void across(const float* values, size_t rows, size_t columns, double* sums, double* squares) noexcept
{
  const size_t whole = columns - columns % width;
  for (size_t first = 0; first < rows; first += row_block) {
    const size_t last = rows - first < row_block ? rows : first + row_block;
    for (size_t column = 0; column < whole; column += width) {
      loose_t* sum = reinterpret_cast<loose_t*>(sums + column);
      loose_t* square = reinterpret_cast<loose_t*>(squares + column);
      vector_t total = *sum;
      vector_t total_square = *square;
      // The eight rows are too many streams for the processor to foresee; the next eight follow on these.
#pragma GCC unroll 8
      for (size_t line = 0; line < row_block * width; line += line_values) {
        __builtin_prefetch(values + (first + row_block) * columns + column * row_block + line);
      }
      for (size_t row = first; row < last; ++row) {
        const vector_t value = load(values + row * columns + column);
        total += value;
        total_square += value * value;
      }
      *sum = total;
      *square = total_square;
    }
    for (size_t column = whole; column < columns; ++column) {
      for (size_t row = first; row < last; ++row) {
        add(static_cast<double>(values[row * columns + column]), sums[column], squares[column]);
      }
    }
  }
}

}  // namespace

const loops& FEDMED_ISA() noexcept
{
  static constexpr loops both{along, across};
  return both;
}

}  // namespace fedmed::channel_moments_tile
