#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "fedmed/weighted_mean.hpp"

struct CUstream_st;

namespace fedmed::cuda {

/// weighted_mean of arrays on the device: the same bits as the kernel's.
///
/// @param models arrays on the device
/// @param out on the device, of the models' length and dtype
/// @throws std::invalid_argument as the kernel does; std::runtime_error the device refused
void weighted_mean(const sources& models,
                   std::span<const std::int64_t> weights,
                   std::byte* out,
                   nan_policy nan,
                   CUstream_st* stream);

/// clip_norm of arrays on the device. Norms are summed in another order than the kernel's.
///
/// @param norms (K,) on the host, overwritten
/// @throws std::invalid_argument as the kernel does; std::runtime_error the device refused
void clip_norm(const sources& models,
               std::span<const std::int64_t> weights,
               const sources& reference,
               double max_norm,
               std::span<double> norms,
               std::byte* out,
               CUstream_st* stream);

}  // namespace fedmed::cuda
