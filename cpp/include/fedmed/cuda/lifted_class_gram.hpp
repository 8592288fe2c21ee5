#pragma once

#include <cstdint>
#include <span>

#include "fedmed/lifted_class_gram.hpp"

struct CUstream_st;

namespace fedmed::cuda {

/// lifted_class_gram of maps on the device, queued on `stream`.
///
/// Maps with fewer cells than there are rows are multiplied with the weights first and interpolated then,
/// finer ones the other way round; all in float32, never TF32, in a fixed order, within the kernel's bound.
/// Rows stand in memory 32,768 at a time. The sums over rows are those of the class_gram twin.
///
/// @param maps, weights, grams, kept.rows on the device
/// @param classes, kept.numbers on the host
/// @throws std::invalid_argument as the kernel does; std::runtime_error the device refused
void lifted_class_gram(std::span<const grid_view<const float>> maps,
                       const lift_weights& weights,
                       const strided_grid& grid,
                       std::span<const std::int32_t> classes,
                       matrix_view<double> grams,
                       const kept_rows& kept,
                       gram_mode mode,
                       CUstream_st* stream);

}  // namespace fedmed::cuda
