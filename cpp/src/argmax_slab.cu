#include "fedmed/cuda/argmax_slab.hpp"

#include <cmath>

#include "device.cuh"

namespace fedmed::cuda {
namespace {

constexpr unsigned threads = 256;

/// Where a part lies in the grid.
struct region {
  std::size_t planes, rows, columns;
  std::size_t grid_rows, grid_columns, grid_cells;
  std::size_t start;  // cell of the grid
};

__global__ void find_largest(const float* total, std::size_t channels, std::uint8_t* out, region at)
{
  const std::size_t cells = at.planes * at.rows * at.columns;
  for (std::size_t cell = first_step(); cell < cells; cell += step_length()) {
    const std::size_t row = cell / at.columns;
    const std::size_t plane = row / at.rows;
    const float* values =
      total + at.start + (plane * at.grid_rows + row % at.rows) * at.grid_columns + cell % at.columns;
    float largest = -HUGE_VALF;
    std::size_t best = 0;
    for (std::size_t channel = 0; channel < channels; ++channel) {
      const float value = values[channel * at.grid_cells];
      // False where either is no number.
      if (value > largest) {
        largest = value;
        best = channel;
      }
    }
    out[cell] = static_cast<std::uint8_t>(best);
  }
}

}  // namespace

void argmax_slab(grid_view<const float> total,
                 const grid_size& start,
                 grid_view<std::uint8_t> out,
                 cudaStream_t stream)
{
  check_argmax_slab(total, start, {out.data, out.channels, out.size});
  const grid_size& grid = total.size;
  const region at{out.size[0],
                  out.size[1],
                  out.size[2],
                  grid[1],
                  grid[2],
                  cells(grid),
                  (start[0] * grid[1] + start[1]) * grid[2] + start[2]};
  if (cells(out.size) > 0) {
    launch(find_largest,
           stepping_grid(cells(out.size), threads),
           dim3(threads),
           stream,
           total.data,
           total.channels,
           out.data,
           at);
  }
}

}  // namespace fedmed::cuda
