#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "fedmed/error.hpp"
#include "fedmed/instruction_set.hpp"
#include "fedmed/views.hpp"

namespace fedmed {

/// Refuse what argmax_slab cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_argmax_slab(grid_view<const float> total,
                              std::size_t first_plane,
                              std::size_t planes,
                              std::span<const std::uint8_t> out)
{
  constexpr std::size_t most_classes = 256;
  FEDMED_EXPECTS(total.channels >= 1 && total.channels <= most_classes,
                 "argmax_slab: `total` has " + std::to_string(total.channels) + " channels, expected 1 to " +
                   std::to_string(most_classes));
  FEDMED_EXPECTS(first_plane <= total.size[0] && planes <= total.size[0] - first_plane,
                 "argmax_slab: `out` has " + std::to_string(planes) + " planes from `first_plane` " +
                   std::to_string(first_plane) + ", expected planes of a grid of " + shape_text(total.size));
  FEDMED_EXPECTS(out.size() == planes * total.size[1] * total.size[2],
                 "argmax_slab: `out` has " + std::to_string(out.size()) + " cells, expected " +
                   std::to_string(planes * total.size[1] * total.size[2]));
}

/// The channel of the largest value of each cell, in some planes of a grid.
///
/// The first of equal ones; a NaN is larger than nothing. A positive weight that all channels of a cell share
/// changes no answer, so that totals of windows need not be divided by it.
///
/// @param total (K, planes, rows, columns), K ≤ 256
/// @param out cells of the planes `first_plane` to `first_plane + planes`, overwritten
/// @throws std::invalid_argument the arguments do not fit together
void argmax_slab(grid_view<const float> total,
                 std::size_t first_plane,
                 std::size_t planes,
                 std::span<std::uint8_t> out,
                 std::size_t threads,
                 instruction_set set = chosen_instruction_set());

}  // namespace fedmed
