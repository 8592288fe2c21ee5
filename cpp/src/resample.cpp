#include "fedmed/resample.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "fedmed/fork_join.hpp"

namespace fedmed {
namespace {

// Output cells below which a second thread costs more than it brings.
constexpr std::size_t work_for_threads = std::size_t{1} << 15;

/// The two cells of one axis that a coordinate lies between, and the weight of the second.
struct neighbours {
  std::size_t low;
  std::size_t high;
  double weight;
};

neighbours around(double coordinate, std::size_t side, interpolation how) noexcept
{
  const double last = static_cast<double>(side - 1);
  const double inside = std::clamp(coordinate, 0.0, last);
  const double low = std::floor(how == interpolation::nearest ? inside + 0.5 : inside);
  const auto cell = static_cast<std::size_t>(std::min(low, last));
  const double weight = how == interpolation::nearest ? 0.0 : inside - low;
  // A weight of 0 points at the same cell twice: its neighbour may hold anything.
  return {cell, weight > 0.0 ? cell + 1 : cell, weight};
}

double coordinate(const index_map& map, std::size_t axis, const grid_size& cell) noexcept
{
  const std::array<double, 3>& row = map.matrix[axis];
  return row[0] * static_cast<double>(cell[0]) + row[1] * static_cast<double>(cell[1]) +
         row[2] * static_cast<double>(cell[2]) + map.offset[axis];
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

double between(double first, double second, double weight) noexcept
{
  return (1.0 - weight) * first + weight * second;
}

/// One value from the eight cells around it, the last axis first.
class sampler {
 public:
  explicit sampler(const grid_size& size) noexcept : rows_{size[2]}, planes_{size[1] * size[2]} {}

  [[nodiscard]] float operator()(const float* channel,
                                 const neighbours& plane,
                                 const neighbours& row,
                                 const neighbours& column) const noexcept
  {
    double value = in_plane(channel + plane.low * planes_, row, column);
    if (plane.weight > 0.0) {
      value = between(value, in_plane(channel + plane.high * planes_, row, column), plane.weight);
    }
    return static_cast<float>(value);
  }

 private:
  [[nodiscard]] double in_plane(const float* plane,
                                const neighbours& row,
                                const neighbours& column) const noexcept
  {
    const double value = in_row(plane + row.low * rows_, column);
    return row.weight > 0.0 ? between(value, in_row(plane + row.high * rows_, column), row.weight) : value;
  }

  [[nodiscard]] static double in_row(const float* row, const neighbours& column) noexcept
  {
    const auto first = static_cast<double>(row[column.low]);
    return column.weight > 0.0 ? between(first, static_cast<double>(row[column.high]), column.weight) : first;
  }

  std::size_t rows_;
  std::size_t planes_;
};

std::vector<neighbours> along_axis(
  const index_map& map, std::size_t axis, std::size_t count, std::size_t side, interpolation how)
{
  std::vector<neighbours> result;
  result.reserve(count);
  for (std::size_t index = 0; index < count; ++index) {
    grid_size cell{};
    cell[axis] = index;
    result.push_back(around(coordinate(map, axis, cell), side, how));
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
  const sampler sample{pixels.size};
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
        at[axis] = around(coordinate(map, axis, cell), pixels.size[axis], how);
      }
      for (std::size_t channel = 0; channel < out.channels; ++channel) {
        out.channel(channel)[line * size[2] + column] = sample(pixels.channel(channel), at[0], at[1], at[2]);
      }
    }
  });
}

}  // namespace fedmed
