#pragma once

#include <span>

#include "fedmed/amplitude_moments.hpp"

struct CUstream_st;

namespace fedmed::cuda {

/// amplitude_moments of planes on the device, queued on `stream`.
///
/// The same partial transform in float64, in a fixed order; not the kernel's order, nor its bits.
///
/// @param sums, squares (C, block[0], block[1]) on the device, overwritten
/// @throws std::invalid_argument as the kernel does; std::runtime_error the device refused
void amplitude_moments(const plane_view& pixels,
                       const block_size& block,
                       double floor,
                       std::span<double> sums,
                       std::span<double> squares,
                       CUstream_st* stream);

}  // namespace fedmed::cuda
