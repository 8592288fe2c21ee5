#pragma once

#include <cstddef>

#include "fedmed/median.hpp"

struct CUstream_st;

namespace fedmed::cuda {

/// median of arrays on the device: the same bits as the kernel's.
///
/// @param models arrays on the device
/// @param out on the device, of the models' length and dtype
/// @throws std::invalid_argument as the kernel does; std::runtime_error the device refused
void median(const sources& models, std::byte* out, nan_policy nan, CUstream_st* stream);

/// trimmed_mean of arrays on the device: the same bits as the kernel's.
///
/// @throws std::invalid_argument as the kernel does; std::runtime_error the device refused
void trimmed_mean(
  const sources& models, std::size_t cut, std::byte* out, nan_policy nan, CUstream_st* stream);

}  // namespace fedmed::cuda
