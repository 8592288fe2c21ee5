#include "fedmed/cuda/resample.hpp"

#include "device.cuh"
#include "resample_point.hpp"

namespace fedmed::cuda {
namespace {

constexpr unsigned threads = 256;

/// A grid and a map as a device takes them: without std::array.
struct sides {
  std::size_t planes, rows, columns;
};
struct affine {
  double matrix[3][3];
  double offset[3];
};

__global__ void sample_cells(
  const float* pixels, sides from, float* out, sides to, std::size_t channels, affine map, bool nearest)
{
  using resampling::around;
  using resampling::coordinate;
  const resampling::sampler sample{from.rows, from.columns};
  const std::size_t cells = to.planes * to.rows * to.columns;
  const std::size_t channel_cells = from.planes * from.rows * from.columns;
  for (std::size_t cell = first_step(); cell < cells; cell += step_length()) {
    const std::size_t k = cell % to.columns;
    const std::size_t j = cell / to.columns % to.rows;
    const std::size_t i = cell / to.columns / to.rows;
    const auto plane = around(coordinate(map.matrix[0], map.offset[0], i, j, k), from.planes, nearest);
    const auto row = around(coordinate(map.matrix[1], map.offset[1], i, j, k), from.rows, nearest);
    const auto column = around(coordinate(map.matrix[2], map.offset[2], i, j, k), from.columns, nearest);
    for (std::size_t channel = 0; channel < channels; ++channel) {
      out[channel * cells + cell] = sample(pixels + channel * channel_cells, plane, row, column);
    }
  }
}

sides sides_of(const grid_size& size)
{
  return {size[0], size[1], size[2]};
}

}  // namespace

void resample(grid_view<const float> pixels,
              const index_map& map,
              grid_view<float> out,
              interpolation how,
              cudaStream_t stream)
{
  check_resample(pixels, map, out);
  affine plain{};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    plain.offset[axis] = map.offset[axis];
    for (std::size_t other = 0; other < 3; ++other) {
      plain.matrix[axis][other] = map.matrix[axis][other];
    }
  }
  launch(sample_cells,
         stepping_grid(cells(out.size), threads),
         dim3(threads),
         stream,
         pixels.data,
         sides_of(pixels.size),
         out.data,
         sides_of(out.size),
         out.channels,
         plain,
         how == interpolation::nearest);
}

}  // namespace fedmed::cuda
