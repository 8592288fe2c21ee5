#include "fedmed/blend_windows.hpp"

#include <algorithm>

#include "fedmed/fork_join.hpp"

namespace fedmed {
namespace {

// Values below which a second thread costs more than it brings.
constexpr std::size_t work_for_threads = std::size_t{1} << 18;
constexpr std::size_t rows_ahead = 2;
constexpr std::size_t line_values = 16;  // of a cache line

grid_view<const float> read_only(grid_view<float> view) noexcept
{
  return {view.data, view.channels, view.size};
}

}  // namespace

void blend_windows(grid_view<float> total,
                   grid_view<float> weight,
                   grid_view<const float> window,
                   grid_view<const float> importance,
                   const grid_size& start,
                   std::size_t threads)
{
  check_blend_windows(read_only(total), read_only(weight), window, importance, start);
  grid_size covered{};
  for (std::size_t axis = 0; axis < covered.size(); ++axis) {
    covered[axis] = std::min(window.size[axis], total.size[axis] - start[axis]);
  }
  const auto in_grid = [&](std::size_t plane, std::size_t row) {
    return ((start[0] + plane) * total.size[1] + start[1] + row) * total.size[2] + start[2];
  };
  const auto in_window = [&](std::size_t plane, std::size_t row) {
    return (plane * window.size[1] + row) * window.size[2];
  };
  const std::size_t used = cells(covered) * total.channels < work_for_threads ? 1 : threads;
  // One task a plane of a channel, and one more for each plane of the weight.
  fork_join(used, (total.channels + 1) * covered[0], [&](std::size_t task) {
    const std::size_t channel = task / covered[0];
    const std::size_t plane = task % covered[0];
    for (std::size_t row = 0; row < covered[1]; ++row) {
      const float* scale = importance.data + in_window(plane, row);
      if (channel == total.channels) {
        float* target = weight.data + in_grid(plane, row);
        for (std::size_t column = 0; column < covered[2]; ++column) {
          target[column] += scale[column];
        }
        continue;
      }
      const float* source = window.channel(channel) + in_window(plane, row);
      float* target = total.channel(channel) + in_grid(plane, row);
      // The grid's next row lies too far off for the processor to foresee.
      for (std::size_t column = 0; column < covered[2]; column += line_values) {
        __builtin_prefetch(target + rows_ahead * total.size[2] + column, 1);
      }
      for (std::size_t column = 0; column < covered[2]; ++column) {
        target[column] += source[column] * scale[column];
      }
    }
  });
}

}  // namespace fedmed
