#pragma once

#include "fedmed/argmax_slab.hpp"

struct CUstream_st;

namespace fedmed::cuda {

/// argmax_slab of arrays on the device, queued on `stream`: the same answer as the kernel's.
///
/// @throws std::invalid_argument as the kernel does; std::runtime_error the device refused
void argmax_slab(grid_view<const float> total,
                 const grid_size& start,
                 grid_view<std::uint8_t> out,
                 CUstream_st* stream);

}  // namespace fedmed::cuda
