#pragma once

#include "fedmed/resample.hpp"

struct CUstream_st;

namespace fedmed::cuda {

/// resample of pixels on the device, queued on `stream`: the same bits as the kernel's.
///
/// @param pixels (C, …) on the device
/// @param out (C, …) on the device, overwritten
/// @throws std::invalid_argument as the kernel does; std::runtime_error the device refused
void resample(grid_view<const float> pixels,
              const index_map& map,
              grid_view<float> out,
              interpolation how,
              CUstream_st* stream);

}  // namespace fedmed::cuda
