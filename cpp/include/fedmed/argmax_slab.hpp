#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "fedmed/error.hpp"
#include "fedmed/instruction_set.hpp"
#include "fedmed/views.hpp"

namespace fedmed {

/// Refuse what argmax_slab cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_argmax_slab(grid_view<const float> total,
                              const grid_size& start,
                              grid_view<const std::uint8_t> out)
{
  constexpr std::size_t most_classes = 256;
  FEDMED_EXPECTS(total.channels >= 1 && total.channels <= most_classes,
                 "argmax_slab: `total` has " + std::to_string(total.channels) + " channels, expected 1 to " +
                   std::to_string(most_classes));
  for (std::size_t axis = 0; axis < start.size(); ++axis) {
    FEDMED_EXPECTS(start[axis] <= total.size[axis] && out.size[axis] <= total.size[axis] - start[axis],
                   "argmax_slab: `out` has sides " + shape_text(out.size) + " from " + shape_text(start) +
                     ", expected a part of a grid of " + shape_text(total.size));
  }
}

/// The channel of the largest value of each cell, for a part of a grid.
///
/// The first of equal ones; a NaN is larger than nothing. A positive weight that all channels of a cell share
/// changes no answer, so that totals of windows need not be divided by it.
///
/// @param total (K, …), K ≤ 256
/// @param start cell of the grid where `out` begins
/// @param out (1, …), overwritten
/// @throws std::invalid_argument the arguments do not fit together
void argmax_slab(grid_view<const float> total,
                 const grid_size& start,
                 grid_view<std::uint8_t> out,
                 std::size_t threads,
                 instruction_set set = chosen_instruction_set());

}  // namespace fedmed
