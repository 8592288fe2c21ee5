#include "fedmed/cuda/blend_windows.hpp"

#include <algorithm>

#include "device.cuh"

namespace fedmed::cuda {
namespace {

constexpr unsigned threads = 256;

/// Where a window lies in the grid.
struct region {
  std::size_t planes, rows, columns;  // what of the window is inside
  std::size_t window_rows, window_columns, window_cells;
  std::size_t grid_rows, grid_columns, grid_cells;
  std::size_t start;  // cell of the grid
};

__global__ void add_window(
  float* total, float* weight, const float* window, const float* importance, std::size_t channels, region at)
{
  const std::size_t cells = at.planes * at.rows * at.columns;
  for (std::size_t cell = first_step(); cell < cells; cell += step_length()) {
    const std::size_t column = cell % at.columns;
    const std::size_t row = cell / at.columns % at.rows;
    const std::size_t plane = cell / at.columns / at.rows;
    const std::size_t source = (plane * at.window_rows + row) * at.window_columns + column;
    const std::size_t target = at.start + (plane * at.grid_rows + row) * at.grid_columns + column;
    const float scale = importance[source];
    for (std::size_t channel = 0; channel < channels; ++channel) {
      total[channel * at.grid_cells + target] += window[channel * at.window_cells + source] * scale;
    }
    weight[target] += scale;
  }
}

}  // namespace

void blend_windows(grid_view<float> total,
                   grid_view<float> weight,
                   grid_view<const float> window,
                   grid_view<const float> importance,
                   const grid_size& start,
                   cudaStream_t stream)
{
  check_blend_windows({total.data, total.channels, total.size},
                      {weight.data, weight.channels, weight.size},
                      window,
                      importance,
                      start);
  const grid_size& grid = total.size;
  const region at{std::min(window.size[0], grid[0] - start[0]),
                  std::min(window.size[1], grid[1] - start[1]),
                  std::min(window.size[2], grid[2] - start[2]),
                  window.size[1],
                  window.size[2],
                  cells(window.size),
                  grid[1],
                  grid[2],
                  cells(grid),
                  (start[0] * grid[1] + start[1]) * grid[2] + start[2]};
  launch(add_window,
         stepping_grid(at.planes * at.rows * at.columns, threads),
         dim3(threads),
         stream,
         total.data,
         weight.data,
         window.data,
         importance.data,
         total.channels,
         at);
}

}  // namespace fedmed::cuda
