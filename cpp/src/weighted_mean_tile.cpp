#include "weighted_mean_tile.hpp"

#include <stdint.h>

namespace fedmed::weighted_mean_tile {
namespace {

#if defined(__AVX512F__)
constexpr size_t lanes = 8, vectors = 2;
#elif defined(__AVX2__)
constexpr size_t lanes = 4, vectors = 4;
#else
constexpr size_t lanes = 2, vectors = 4;
#endif

typedef float floats __attribute__((vector_size(lanes * 4)));
typedef float loose_floats __attribute__((vector_size(lanes * 4), aligned(1), may_alias));
typedef int32_t words __attribute__((vector_size(lanes * 4)));
typedef double doubles __attribute__((vector_size(lanes * 8)));
typedef int64_t longs __attribute__((vector_size(lanes * 8)));

constexpr int64_t exponent_bits = 0x7FF0000000000000;

inline floats load(const void* row, size_t index)
{
  return *reinterpret_cast<const loose_floats*>(static_cast<const char*>(row) + index * 4);
}

// GCC 12 makes two halves of the conversion of a whole AVX-512 vector.
inline doubles widened(floats value)
{
#if defined(__AVX512F__)
  return __builtin_ia32_cvtps2pd512_mask(value, doubles{}, -1, 4);
#else
  return __builtin_convertvector(value, doubles);
#endif
}

inline floats narrowed(doubles value)
{
#if defined(__AVX512F__)
  return __builtin_ia32_cvtpd2ps512_mask(value, floats{}, -1, 4);
#else
  return __builtin_convertvector(value, floats);
#endif
}

inline words larger(words a, words b)
{
  return a > b ? a : b;
}
inline longs larger(longs a, longs b)
{
  return a > b ? a : b;
}

/// Columns of `width` vectors at a time, so that their sums need not wait for each other.
template <bool has_base, size_t width>
struct column {
  const void* const* rows;
  const void* base;
  const double* weights;
  size_t row_count;
  int64_t room;
  double total;

  /// @param wrong lanes that were not finite so far, added to
  void mean(size_t index, float* out, longs& wrong) const
  {
    longs largest[width] = {};
    doubles bases[width] = {};
    for (size_t v = 0; has_base && v < width; ++v) {
      bases[v] = widened(load(base, index + v * lanes));
    }
    magnitudes(index, bases, largest);
    doubles rounding[width];
    for (size_t v = 0; v < width; ++v) {
      wrong |= largest[v] >= exponent_bits;
      rounding[v] = reinterpret_cast<doubles>((largest[v] & exponent_bits) + room);
    }
    doubles sums[width] = {};
    for (size_t k = 0; k < row_count; ++k) {
      for (size_t v = 0; v < width; ++v) {
        const doubles value = widened(load(rows[k], index + v * lanes));
        const doubles term = weights[k] * (has_base ? value - bases[v] : value);
        sums[v] += (rounding[v] + term) - rounding[v];
      }
    }
    for (size_t v = 0; v < width; ++v) {
      const doubles mean = sums[v] / total;
      const floats rounded = narrowed(has_base ? bases[v] + mean : mean);
      *reinterpret_cast<loose_floats*>(out + index + v * lanes) = rounded;
    }
  }

 private:
  /// Bits of the largest |value|, or with a base |term|, as float64; as integers they are in the same order, and NaN comes last.
  void magnitudes(size_t index, const doubles* bases, longs* largest) const
  {
    if constexpr (has_base) {
      for (size_t k = 0; k < row_count; ++k) {
        for (size_t v = 0; v < width; ++v) {
          const doubles term = weights[k] * (widened(load(rows[k], index + v * lanes)) - bases[v]);
          largest[v] = larger(largest[v], reinterpret_cast<longs>(term) & INT64_MAX);
        }
      }
    } else {
      words most[width] = {};
      for (size_t k = 0; k < row_count; ++k) {
        for (size_t v = 0; v < width; ++v) {
          most[v] = larger(most[v], reinterpret_cast<words>(load(rows[k], index + v * lanes)) & INT32_MAX);
        }
      }
      for (size_t v = 0; v < width; ++v) {
        largest[v] = reinterpret_cast<longs>(widened(reinterpret_cast<floats>(most[v])));
      }
    }
  }
};

template <bool has_base>
bool mean(const column<has_base, vectors>& one, size_t count, float* out)
{
  longs wrong = {};
  for (size_t index = 0; index < count; index += lanes * vectors) {
    one.mean(index, out, wrong);
  }
  int64_t any = 0;
  for (size_t i = 0; i < lanes; ++i) {
    any |= wrong[i];
  }
  return any == 0;
}

bool run_mean(const void* const* rows,
              const void* base,
              const double* weights,
              size_t row_count,
              int magnitude,
              double total,
              size_t count,
              float* out) noexcept
{
  // 1.5 · 2^e where 2^e is at least twice what the sum of all terms can be: sums stay within one binade.
  const int64_t room = (static_cast<int64_t>(magnitude + 2) << 52) | (int64_t{1} << 51);
  return base == nullptr ? mean<false>({rows, base, weights, row_count, room, total}, count, out)
                         : mean<true>({rows, base, weights, row_count, room, total}, count, out);
}

}  // namespace

run FEDMED_ISA() noexcept
{
  return run_mean;
}

}  // namespace fedmed::weighted_mean_tile
