#pragma once

#include "fedmed/blend_windows.hpp"

struct CUstream_st;

namespace fedmed::cuda {

/// blend_windows of arrays on the device, queued on `stream`: the same bits as the kernel's.
///
/// @throws std::invalid_argument as the kernel does; std::runtime_error the device refused
void blend_windows(grid_view<float> total,
                   grid_view<float> weight,
                   grid_view<const float> window,
                   grid_view<const float> importance,
                   const grid_size& start,
                   CUstream_st* stream);

}  // namespace fedmed::cuda
