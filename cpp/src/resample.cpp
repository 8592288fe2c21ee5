#include "fedmed/resample.hpp"

#include <vector>

#include "fedmed/fork_join.hpp"
#include "resample_point.hpp"

namespace fedmed {
namespace {

using resampling::around;
using resampling::neighbours;
using resampling::sampler;

// Output cells below which a second thread costs more than it brings.
constexpr std::size_t work_for_threads = std::size_t{1} << 15;

double coordinate(const index_map& map, std::size_t axis, const grid_size& cell) noexcept
{
  return resampling::coordinate(map.matrix[axis].data(), map.offset[axis], cell[0], cell[1], cell[2]);
}

bool is_separable(const index_map& map) noexcept
{
  for (std::size_t axis = 0; axis < 3; ++axis) {
    for (std::size_t other = 0; other < 3; ++other) {
      if (other != axis && map.matrix[axis][other] != 0.0) {
        return false;
      }
    }
  }
  return true;
}

std::vector<neighbours> along_axis(
  const index_map& map, std::size_t axis, std::size_t count, std::size_t side, interpolation how)
{
  std::vector<neighbours> result;
  result.reserve(count);
  for (std::size_t index = 0; index < count; ++index) {
    grid_size cell{};
    cell[axis] = index;
    result.push_back(around(coordinate(map, axis, cell), side, how == interpolation::nearest));
  }
  return result;
}

}  // namespace

void resample(grid_view<const float> pixels,
              const index_map& map,
              grid_view<float> out,
              interpolation how,
              std::size_t threads)
{
  check_resample(pixels, map, out);
  const grid_size size = out.size;
  const sampler sample{pixels.size[1], pixels.size[2]};
  const std::size_t lines = size[0] * size[1];
  const std::size_t used = cells(size) * out.channels < work_for_threads ? 1 : threads;

  if (is_separable(map)) {
    std::array<std::vector<neighbours>, 3> axes;
    for (std::size_t axis = 0; axis < 3; ++axis) {
      axes[axis] = along_axis(map, axis, size[axis], pixels.size[axis], how);
    }
    fork_join(used, lines * out.channels, [&](std::size_t task) {
      const float* source = pixels.channel(task / lines);
      const std::size_t line = task % lines;
      float* target = out.channel(task / lines) + line * size[2];
      const neighbours& plane = axes[0][line / size[1]];
      const neighbours& row = axes[1][line % size[1]];
      for (std::size_t column = 0; column < size[2]; ++column) {
        target[column] = sample(source, plane, row, axes[2][column]);
      }
    });
    return;
  }
  fork_join(used, lines, [&](std::size_t line) {
    for (std::size_t column = 0; column < size[2]; ++column) {
      const grid_size cell{line / size[1], line % size[1], column};
      std::array<neighbours, 3> at;
      for (std::size_t axis = 0; axis < 3; ++axis) {
        at[axis] = around(coordinate(map, axis, cell), pixels.size[axis], how == interpolation::nearest);
      }
      for (std::size_t channel = 0; channel < out.channels; ++channel) {
        out.channel(channel)[line * size[2] + column] = sample(pixels.channel(channel), at[0], at[1], at[2]);
      }
    }
  });
}

}  // namespace fedmed
