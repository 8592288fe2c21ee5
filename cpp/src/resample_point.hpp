#pragma once

#include <cmath>
#include <cstddef>

// What the kernel and its twin do for one output cell, so that both round alike.
#ifdef __CUDACC__
#define FEDMED_EVERYWHERE __host__ __device__
#else
#define FEDMED_EVERYWHERE
#endif

namespace fedmed::resampling {

/// The two cells of one axis that a coordinate lies between, and the weight of the second.
struct neighbours {
  std::size_t low;
  std::size_t high;
  double weight;
};

FEDMED_EVERYWHERE inline neighbours around(double coordinate, std::size_t side, bool nearest) noexcept
{
  const double last = static_cast<double>(side - 1);
  const double inside = coordinate < 0.0 ? 0.0 : last < coordinate ? last : coordinate;
  const double low = std::floor(nearest ? inside + 0.5 : inside);
  const auto cell = static_cast<std::size_t>(last < low ? last : low);
  const double weight = nearest ? 0.0 : inside - low;
  // A weight of 0 points at the same cell twice: its neighbour may hold anything.
  return {cell, weight > 0.0 ? cell + 1 : cell, weight};
}

/// Where in the input the output cell (i, j, k) lies along one axis.
FEDMED_EVERYWHERE inline double coordinate(
  const double* row, double offset, std::size_t i, std::size_t j, std::size_t k) noexcept
{
  return row[0] * static_cast<double>(i) + row[1] * static_cast<double>(j) + row[2] * static_cast<double>(k) +
         offset;
}

FEDMED_EVERYWHERE inline double between(double first, double second, double weight) noexcept
{
  return (1.0 - weight) * first + weight * second;
}

/// One value from the eight cells around it, the last axis first.
class sampler {
 public:
  FEDMED_EVERYWHERE sampler(std::size_t rows, std::size_t columns) noexcept
    : row_{columns}, plane_{rows * columns}
  {
  }

  [[nodiscard]] FEDMED_EVERYWHERE float operator()(const float* channel,
                                                   const neighbours& plane,
                                                   const neighbours& row,
                                                   const neighbours& column) const noexcept
  {
    double value = in_plane(channel + plane.low * plane_, row, column);
    if (plane.weight > 0.0) {
      value = between(value, in_plane(channel + plane.high * plane_, row, column), plane.weight);
    }
    return static_cast<float>(value);
  }

 private:
  [[nodiscard]] FEDMED_EVERYWHERE double in_plane(const float* plane,
                                                  const neighbours& row,
                                                  const neighbours& column) const noexcept
  {
    const double value = in_row(plane + row.low * row_, column);
    return row.weight > 0.0 ? between(value, in_row(plane + row.high * row_, column), row.weight) : value;
  }

  [[nodiscard]] FEDMED_EVERYWHERE static double in_row(const float* row, const neighbours& column) noexcept
  {
    const auto first = static_cast<double>(row[column.low]);
    return column.weight > 0.0 ? between(first, static_cast<double>(row[column.high]), column.weight) : first;
  }

  std::size_t row_;
  std::size_t plane_;
};

}  // namespace fedmed::resampling
