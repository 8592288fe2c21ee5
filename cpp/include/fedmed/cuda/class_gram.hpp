#pragma once

#include <cstdint>
#include <span>

#include "fedmed/class_gram.hpp"

struct CUstream_st;

namespace fedmed::cuda {

/// class_gram of rows on the device, queued on `stream`.
///
/// `exact`: products and sums in float64, by the tensor cores for it where there are some. `fast`: the same
/// on devices whose float64 is at least half as quick as float32; on others the mean of a class's rows is
/// taken off, products are summed in float32 over 12 rows and then in pairs of float32, and the mean is put
/// back in float64:
/// within 1e-6 √(gᵢᵢ gⱼⱼ) of `exact`. Never TF32. The order of sums depends on the classes and on D alone.
///
/// @param rows (N, D) on the device
/// @param classes (N,) on the host: they are checked and sorted there
/// @param grams (K, D (D + 1) / 2) on the device, added to
/// @throws std::invalid_argument as the kernel does; std::runtime_error the device refused
void class_gram(const row_view& rows,
                std::span<const std::int32_t> classes,
                matrix_view<double> grams,
                gram_mode mode,
                CUstream_st* stream);

}  // namespace fedmed::cuda
