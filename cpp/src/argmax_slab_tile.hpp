#pragma once

#include <stddef.h>
#include <stdint.h>

// Shared by argmax_slab.cpp and by every compilation of argmax_slab_tile.cpp. The latter may use nothing but
// this, <stddef.h> and <stdint.h>: an inline library function compiled there could be the copy that the
// linker keeps.

namespace fedmed::argmax_slab_tile {

/// Channel of the largest value of each of `length` cells; the values of a channel begin `stride` apart.
using run =
  void (*)(const float* values, size_t channels, size_t stride, size_t length, uint8_t* out) noexcept;

run baseline() noexcept;
run avx2() noexcept;
run avx512() noexcept;

}  // namespace fedmed::argmax_slab_tile
