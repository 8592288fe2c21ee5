#include "fedmed/blend_windows.hpp"

#include <algorithm>

#include "fedmed/fork_join.hpp"

namespace fedmed {
namespace {

// Values below which a second thread costs more than it brings.
constexpr std::size_t work_for_threads = std::size_t{1} << 18;
// Rows of one task.
constexpr std::size_t block_rows = 32;
constexpr std::size_t rows_ahead = 2;
constexpr std::size_t line_values = 16;  // of a cache line

grid_view<const float> read_only(grid_view<float> view) noexcept
{
  return {view.data, view.channels, view.size};
}

/// The grid's next rows lie too far off for the processor to foresee.
void fetch(const float* values, std::size_t count) noexcept
{
  for (std::size_t n = 0; n < count; n += line_values) {
    __builtin_prefetch(values + n, 1);
  }
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
  const std::size_t blocks = (covered[1] + block_rows - 1) / block_rows;
  const std::size_t used = cells(covered) * total.channels < work_for_threads ? 1 : threads;
  fork_join(used, covered[0] * blocks, [&](std::size_t task) {
    const std::size_t plane = task / blocks;
    const std::size_t first = task % blocks * block_rows;
    const std::size_t last = std::min(first + block_rows, covered[1]);
    for (std::size_t row = first; row < last; ++row) {
      const float* scale = importance.data + in_window(plane, row);
      float* sum = weight.data + in_grid(plane, row);
      fetch(sum + rows_ahead * total.size[2], covered[2]);
      for (std::size_t column = 0; column < covered[2]; ++column) {
        sum[column] += scale[column];
      }
      for (std::size_t channel = 0; channel < total.channels; ++channel) {
        const float* source = window.channel(channel) + in_window(plane, row);
        float* target = total.channel(channel) + in_grid(plane, row);
        fetch(target + rows_ahead * total.size[2], covered[2]);
        for (std::size_t column = 0; column < covered[2]; ++column) {
          target[column] += source[column] * scale[column];
        }
      }
    }
  });
}

}  // namespace fedmed
