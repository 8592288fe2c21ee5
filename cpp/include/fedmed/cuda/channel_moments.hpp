#pragma once

#include <span>

#include "fedmed/channel_moments.hpp"

struct CUstream_st;

namespace fedmed::cuda {

/// channel_moments of maps on the device, queued on `stream`.
///
/// Sums are float64, in an order that depends on the shape alone: the same bits on any device.
///
/// @param sums, squares (C,) on the device, overwritten
/// @throws std::invalid_argument as the kernel does; std::runtime_error the device refused
void channel_moments(const map_view& maps,
                     std::span<double> sums,
                     std::span<double> squares,
                     CUstream_st* stream);

}  // namespace fedmed::cuda
