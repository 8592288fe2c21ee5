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
typedef uint64_t counts __attribute__((vector_size(lanes * 8)));

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

/// sum + factor * value where the product is exact, so that fused and apart give the same bits.
inline doubles plus_exact(doubles sum, double factor, doubles value)
{
#if defined(__AVX512F__)
  return __builtin_ia32_vfmaddpd512_mask(factor - doubles{}, value, sum, -1, 4);
#elif defined(__AVX2__)
  return __builtin_ia32_vfmaddpd256(factor - doubles{}, value, sum);
#else
  return sum + factor * value;
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

/// What one call takes.
struct call {
  const void* const* rows;
  const void* base;
  const double* weights;
  size_t row_count;
  uint64_t room;
  double total;
};

// Most rows whose values are kept from the first look to the second. They come from as many places in
// memory, which may share one set of the cache; more rows come from a buffer that has them apart.
constexpr size_t most_kept = 16;
// Bytes: more streams than the processor itself would look ahead in.
constexpr size_t ahead = 2048;

/// Some columns of a few vectors, so that their sums need not wait for each other.
/// `kept_rows`: the number of rows if their values are kept, else 0.
template <size_t kept_rows>
struct columns {
  const call& job;
  floats kept[kept_rows > 0 ? kept_rows : 1][vectors];

  [[nodiscard]] size_t row_count() const { return kept_rows > 0 ? kept_rows : job.row_count; }

  [[nodiscard]] floats again(size_t k, size_t index, size_t v) const
  {
    return kept_rows > 0 ? kept[k][v] : load(job.rows[k], index + v * lanes);
  }

  /// Bits of the largest |value|, as float64; as integers they are in the same order, and NaN comes last.
  void look(size_t index, longs* largest)
  {
    words most[vectors] = {};
#pragma GCC unroll 16
    for (size_t k = 0; k < (kept_rows > 0 ? kept_rows : job.row_count); ++k) {
      for (size_t v = 0; v < vectors; ++v) {
        const floats value = load(job.rows[k], index + v * lanes);
        most[v] = larger(most[v], reinterpret_cast<words>(value) & INT32_MAX);
        if constexpr (kept_rows > 0) {
          kept[k][v] = value;
        }
      }
      if constexpr (kept_rows > 0) {
        __builtin_prefetch(static_cast<const char*>(job.rows[k]) + index * 4 + ahead);
      }
    }
    for (size_t v = 0; v < vectors; ++v) {
      largest[v] = reinterpret_cast<longs>(widened(reinterpret_cast<floats>(most[v])));
    }
  }

  /// Bits of rounding + term, summed as integers: they count last places, and wrap around without harm.
  void add(size_t index, const doubles* rounding, counts* sums) const
  {
#pragma GCC unroll 16
    for (size_t k = 0; k < (kept_rows > 0 ? kept_rows : job.row_count); ++k) {
      for (size_t v = 0; v < vectors; ++v) {
        sums[v] +=
          reinterpret_cast<counts>(plus_exact(rounding[v], job.weights[k], widened(again(k, index, v))));
      }
    }
  }
};

/// The same for differences to a base, whose products round.
struct differences {
  const call& job;
  doubles bases[vectors];

  [[nodiscard]] size_t row_count() const { return job.row_count; }

  [[nodiscard]] doubles term(size_t k, size_t index, size_t v) const
  {
    return job.weights[k] * (widened(load(job.rows[k], index + v * lanes)) - bases[v]);
  }

  void look(size_t index, longs* largest)
  {
    for (size_t v = 0; v < vectors; ++v) {
      bases[v] = widened(load(job.base, index + v * lanes));
    }
    for (size_t k = 0; k < row_count(); ++k) {
      for (size_t v = 0; v < vectors; ++v) {
        largest[v] = larger(largest[v], reinterpret_cast<longs>(term(k, index, v)) & INT64_MAX);
      }
    }
  }

  void add(size_t index, const doubles* rounding, counts* sums) const
  {
    for (size_t k = 0; k < row_count(); ++k) {
      for (size_t v = 0; v < vectors; ++v) {
        sums[v] += reinterpret_cast<counts>(rounding[v] + term(k, index, v));
      }
    }
  }
};

inline doubles placed(const differences& from, size_t v, doubles mean)
{
  return from.bases[v] + mean;
}

template <size_t kept_rows>
doubles placed(const columns<kept_rows>&, size_t, doubles mean)
{
  return mean;
}

template <typename ColumnsT>
bool mean(const call& job, size_t count, float* out)
{
  longs wrong = {};
  for (size_t index = 0; index < count; index += lanes * vectors) {
    ColumnsT one{job, {}};
    longs largest[vectors] = {};
    one.look(index, largest);
    doubles rounding[vectors];
    for (size_t v = 0; v < vectors; ++v) {
      wrong |= largest[v] >= exponent_bits;
      rounding[v] =
        reinterpret_cast<doubles>(reinterpret_cast<counts>(largest[v] & exponent_bits) + job.room);
    }
    counts sums[vectors] = {};
    one.add(index, rounding, sums);
    for (size_t v = 0; v < vectors; ++v) {
      const counts sum = sums[v] - (one.row_count() - 1) * reinterpret_cast<counts>(rounding[v]);
      const doubles mean = (reinterpret_cast<doubles>(sum) - rounding[v]) / job.total;
      *reinterpret_cast<loose_floats*>(out + index + v * lanes) = narrowed(placed(one, v, mean));
    }
  }
  int64_t any = 0;
  for (size_t i = 0; i < lanes; ++i) {
    any |= wrong[i];
  }
  return any == 0;
}

template <size_t kept_rows = most_kept>
bool mean_of_rows(const call& job, size_t count, float* out)
{
  if (job.row_count == kept_rows) {
    return mean<columns<kept_rows>>(job, count, out);
  }
  if constexpr (kept_rows > 1) {
    return mean_of_rows<kept_rows - 1>(job, count, out);
  }
  return mean<columns<0>>(job, count, out);
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
  const uint64_t room = (static_cast<uint64_t>(magnitude + 2) << 52) | (uint64_t{1} << 51);
  const call job{rows, base, weights, row_count, room, total};
  return base == nullptr ? mean_of_rows(job, count, out) : mean<differences>(job, count, out);
}

}  // namespace

run FEDMED_ISA() noexcept
{
  return run_mean;
}

}  // namespace fedmed::weighted_mean_tile
