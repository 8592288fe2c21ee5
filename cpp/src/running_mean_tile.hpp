#pragma once

#include <stddef.h>
#include <stdint.h>

// Shared by running_mean.cpp and by every compilation of running_mean_tile.cpp. The latter may use nothing
// but this, <stddef.h> and <stdint.h>: an inline library function compiled there could be the copy that the
// linker keeps.

namespace fedmed::running_mean_tile {

/// sums[i] += factor · values[i] to the nearest whole number, which is below 2^51; the product rounds
/// nothing.
using add = void (*)(const float* values, double factor, size_t count, int64_t* sums) noexcept;

add baseline() noexcept;
add avx2() noexcept;
add avx512() noexcept;

}  // namespace fedmed::running_mean_tile
