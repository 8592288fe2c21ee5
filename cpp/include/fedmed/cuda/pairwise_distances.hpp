#pragma once

#include "fedmed/pairwise_distances.hpp"

struct CUstream_st;

namespace fedmed::cuda {

/// pairwise_distances of arrays on the device: from differences too, summed in another order.
///
/// @param models arrays on the device
/// @param distances (K, K) on the host, overwritten
/// @throws std::invalid_argument as the kernel does; std::runtime_error the device refused
void pairwise_distances(const sources& models,
                        matrix_view<double> distances,
                        nan_policy nan,
                        CUstream_st* stream);

}  // namespace fedmed::cuda
