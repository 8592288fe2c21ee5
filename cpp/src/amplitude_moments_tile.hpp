#pragma once

#include <stddef.h>

// Shared by amplitude_moments.cpp and by every compilation of amplitude_moments_tile.cpp. The latter may use
// nothing but this and <stddef.h>: an inline library function compiled there could be the copy that the
// linker keeps.

namespace fedmed::amplitude_moments_tile {

/// Values that are transformed side by side.
constexpr size_t lanes = 16;

/// The inner loops of one instruction set; all give the same bits.
struct loops {
  /// sums[i] = x[i] + x[length - i] and differences[i] = x[i] - x[length - i] for i to length / 2; x[0], and
  /// the middle of an even length, stand alone. x[i] are `count` ≤ lanes values at `stride`; the other lanes
  /// are 0.
  void (*fold_floats)(const float* values,
                      size_t stride,
                      size_t count,
                      size_t length,
                      double* sums,
                      double* differences) noexcept;
  void (*fold_doubles)(const double* values,
                       size_t stride,
                       size_t count,
                       size_t length,
                       double* sums,
                       double* differences) noexcept;

  /// out[r · out_stride + lane] = Σ_n factors[r · depth + n] · panel[n · lanes + lane], n rising.
  void (*multiply)(const double* factors,
                   size_t rows,
                   const double* panel,
                   size_t depth,
                   double* out,
                   size_t out_stride) noexcept;
};

const loops& baseline() noexcept;
const loops& avx2() noexcept;
const loops& avx512() noexcept;

}  // namespace fedmed::amplitude_moments_tile
