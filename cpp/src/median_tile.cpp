#include "median_tile.hpp"

namespace fedmed::median_tile {
namespace {

#if defined(__AVX512F__)
constexpr size_t lanes = 16;
#elif defined(__AVX2__)
constexpr size_t lanes = 8;
#else
constexpr size_t lanes = 4;
#endif
constexpr size_t halves = 2;
// Bytes: more streams than the processor itself would look ahead in.
constexpr size_t ahead = 2048;

typedef float floats __attribute__((vector_size(lanes * 4)));
typedef float loose_floats __attribute__((vector_size(lanes * 4), aligned(1), may_alias));
typedef float loose_half __attribute__((vector_size(lanes * 2), aligned(1), may_alias));
typedef int32_t words __attribute__((vector_size(lanes * 4)));
typedef double doubles __attribute__((vector_size(lanes * 4)));

#define FEDMED_INLINE inline __attribute__((always_inline))

FEDMED_INLINE floats load(const void* row, size_t index)
{
  return *reinterpret_cast<const loose_floats*>(static_cast<const char*>(row) + index * 4);
}

FEDMED_INLINE void store(float* out, size_t index, floats value)
{
  *reinterpret_cast<loose_floats*>(out + index) = value;
}

FEDMED_INLINE floats smaller(floats a, floats b)
{
  return a < b ? a : b;
}
FEDMED_INLINE floats larger(floats a, floats b)
{
  return a > b ? a : b;
}

/// Bits of the largest |value| so far: NaN and infinity come after all finite ones.
FEDMED_INLINE words worst(words so_far, floats value)
{
  const words magnitude = reinterpret_cast<words>(value) & INT32_MAX;
  return magnitude > so_far ? magnitude : so_far;
}

FEDMED_INLINE bool finite(words largest)
{
  words wrong = largest >= 0x7F800000;
  int32_t any = 0;
  for (size_t i = 0; i < lanes; ++i) {
    any |= wrong[i];
  }
  return any == 0;
}

/// Batcher's merge exchange for any number of rows. Source: Knuth, TAOCP 3, 5.2.2, algorithm M.
template <size_t rows>
struct batcher {
  uint8_t low[rows * 8] = {};
  uint8_t high[rows * 8] = {};
  size_t length = 0;

  constexpr batcher()
  {
    size_t top = 1;
    while (top * 2 < rows) {
      top *= 2;
    }
    for (size_t p = top; p > 0; p /= 2) {
      size_t q = top, r = 0, d = p;
      for (;;) {
        for (size_t i = 0; i + d < rows; ++i) {
          if ((i & p) == r) {
            low[length] = static_cast<uint8_t>(i);
            high[length++] = static_cast<uint8_t>(i + d);
          }
        }
        if (q == p) {
          break;
        }
        d = q - p;
        q /= 2;
        r = p;
      }
    }
  }
};

template <size_t rows>
constexpr batcher<rows> network{};

/// Recursion rather than a loop: all indices are constants from the start, so that values stay in registers
/// and what the result does not need is left out.
template <size_t rows, size_t step = 0>
FEDMED_INLINE void sort_registers(floats* values)
{
  if constexpr (step < network<rows>.length) {
    floats& low = values[network<rows>.low[step]];
    floats& high = values[network<rows>.high[step]];
    const floats least = smaller(low, high);
    high = larger(low, high);
    low = least;
    sort_registers<rows, step + 1>(values);
  }
}

template <size_t rows, size_t row = 0>
FEDMED_INLINE void load_registers(const void* const* from, size_t index, floats* values, words& largest)
{
  if constexpr (row < rows) {
    values[row] = load(from[row], index);
    __builtin_prefetch(static_cast<const char*>(from[row]) + index * 4 + ahead);
    largest = worst(largest, values[row]);
    load_registers<rows, row + 1>(from, index, values, largest);
  }
}

template <size_t rows>
bool median(const void* const* from, size_t count, float* out) noexcept
{
  words largest = {};
  for (size_t index = 0; index < count; index += lanes) {
    floats values[rows];
    load_registers<rows>(from, index, values, largest);
    sort_registers<rows>(values);
    const floats upper = values[rows / 2];
    // Plus zero: whether a zero among equals is negative depends on the order of the rows.
    store(out, index, (rows % 2 == 1 ? upper : (values[rows / 2 - 1] + upper) * 0.5F) + 0.0F);
  }
  return finite(largest);
}

FEDMED_INLINE doubles half_of(const float* values, size_t half)
{
  return __builtin_convertvector(*reinterpret_cast<const loose_half*>(values + half * lanes / halves),
                                 doubles);
}

FEDMED_INLINE void store_mean(float* out, const doubles* sums, double total)
{
  for (size_t half = 0; half < halves; ++half) {
    *reinterpret_cast<loose_half*>(out + half * lanes / halves) =
      __builtin_convertvector(sums[half] / total + 0.0, loose_half);
  }
}

template <size_t rows, size_t row = 0>
FEDMED_INLINE void sum_registers(const floats* values, size_t cut, doubles* sums)
{
  if constexpr (row < rows) {
    if (row >= cut && row + cut < rows) {
      float aside[lanes];
      store(aside, 0, values[row]);
      for (size_t half = 0; half < halves; ++half) {
        sums[half] += half_of(aside, half);
      }
    }
    sum_registers<rows, row + 1>(values, cut, sums);
  }
}

template <size_t rows>
bool trimmed(const void* const* from, size_t cut, size_t count, float* out) noexcept
{
  words largest = {};
  for (size_t index = 0; index < count; index += lanes) {
    floats values[rows];
    load_registers<rows>(from, index, values, largest);
    sort_registers<rows>(values);
    doubles sums[halves] = {};
    sum_registers<rows>(values, cut, sums);
    store_mean(out + index, sums, static_cast<double>(rows - 2 * cut));
  }
  return finite(largest);
}

// Columns of a block that are sorted together: several vectors, so that exchanges need not wait for each
// other.
constexpr size_t strip = 64, block_lanes = 16;

template <bool low_kept, bool high_kept, size_t width>
FEDMED_INLINE void exchange_rows(float* low, float* high)
{
#pragma GCC unroll 16
  for (size_t at = 0; at < width; at += lanes) {
    const floats a = load(low, at), b = load(high, at);
    if constexpr (low_kept) {
      store(low, at, smaller(a, b));
    }
    if constexpr (high_kept) {
      store(high, at, larger(a, b));
    }
  }
}

template <size_t width>
void sort_columns(float* block, size_t stride, const exchange* order, size_t length)
{
  for (size_t i = 0; i < length; ++i) {
    float* low = block + order[i].low * stride;
    float* high = block + order[i].high * stride;
    if (order[i].low_kept && order[i].high_kept) {
      exchange_rows<true, true, width>(low, high);
    } else if (order[i].low_kept) {
      exchange_rows<true, false, width>(low, high);
    } else {
      exchange_rows<false, true, width>(low, high);
    }
  }
}

bool sort(
  float* block, size_t stride, size_t rows, const exchange* order, size_t length, size_t count) noexcept
{
  words largest = {};
  for (size_t row = 0; row < rows; ++row) {
    for (size_t at = 0; at < count; at += lanes) {
      largest = worst(largest, load(block + row * stride, at));
    }
  }
  size_t first = 0;
  for (; first + strip <= count; first += strip) {
    sort_columns<strip>(block + first, stride, order, length);
  }
  for (; first < count; first += block_lanes) {
    sort_columns<block_lanes>(block + first, stride, order, length);
  }
  return finite(largest);
}

void mean(const float* block,
          size_t stride,
          size_t first,
          size_t last,
          bool halved,
          size_t count,
          float* out) noexcept
{
  for (size_t index = 0; index < count; index += lanes) {
    const float* top = block + first * stride + index;
    if (halved) {
      const floats lower = load(top, 0), upper = load(block + last * stride, index);
      store(out, index, (first == last ? upper : (lower + upper) * 0.5F) + 0.0F);
      continue;
    }
    doubles sums[halves] = {};
    for (size_t row = first; row <= last; ++row, top += stride) {
      for (size_t half = 0; half < halves; ++half) {
        sums[half] += half_of(top, half);
      }
    }
    store_mean(out + index, sums, static_cast<double>(last - first + 1));
  }
}

template <size_t rows = registers_cap>
constexpr void fill(loops& all)
{
  if constexpr (rows >= 2) {
    all.median[rows] = median<rows>;
    all.trimmed[rows] = trimmed<rows>;
    fill<rows - 1>(all);
  }
}

constexpr loops filled()
{
  loops all{};
  fill(all);
  all.sort = sort;
  all.mean = mean;
  return all;
}

}  // namespace

const loops& FEDMED_ISA() noexcept
{
  static constexpr loops all = filled();
  return all;
}

}  // namespace fedmed::median_tile
