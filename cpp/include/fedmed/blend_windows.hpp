#pragma once

#include <cstddef>
#include <string>

#include "fedmed/error.hpp"
#include "fedmed/views.hpp"

namespace fedmed {

/// Refuse what blend_windows cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_blend_windows(grid_view<const float> total,
                                grid_view<const float> weight,
                                grid_view<const float> window,
                                grid_view<const float> importance,
                                const grid_size& start)
{
  FEDMED_EXPECTS(weight.size == total.size,
                 "blend_windows: `weight` has sides " + shape_text(weight.size) + ", expected " +
                   shape_text(total.size) + " as `total`");
  FEDMED_EXPECTS(importance.size == window.size,
                 "blend_windows: `importance` has sides " + shape_text(importance.size) + ", expected " +
                   shape_text(window.size) + " as `window`");
  FEDMED_EXPECTS(window.channels == total.channels,
                 "blend_windows: `window` has " + std::to_string(window.channels) + " channels, expected " +
                   std::to_string(total.channels) + " as `total`");
  for (std::size_t axis = 0; axis < start.size(); ++axis) {
    FEDMED_EXPECTS(start[axis] < total.size[axis],
                   "blend_windows: `start` has " + shape_text(start) + ", expected a cell of a grid of " +
                     shape_text(total.size));
  }
}

/// Add one weighted window to the running total of a sliding-window answer.
///
/// `total[:, region] += window · importance` and `weight[region] += importance`, in float32. The region
/// begins at `start`; what hangs over the grid's end is left out.
///
/// @param total (K, …), added to
/// @param weight (1, …), added to
/// @param window (K, …)
/// @param importance (1, …)
/// @throws std::invalid_argument the arguments do not fit together
void blend_windows(grid_view<float> total,
                   grid_view<float> weight,
                   grid_view<const float> window,
                   grid_view<const float> importance,
                   const grid_size& start,
                   std::size_t threads);

}  // namespace fedmed
