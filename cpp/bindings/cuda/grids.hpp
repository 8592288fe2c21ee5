#pragma once

#include <string>
#include <vector>

#include "device_arrays.hpp"
#include "fedmed/views.hpp"

/// Device arrays as grids of two or three sides.
namespace fedmed::bindings {

/// Refuse anything but `before` axes followed by the two or three of a grid.
inline void check_grid_axes(const device_array& array, std::size_t before)
{
  FEDMED_EXPECTS(array.axes() == before + 2 || array.axes() == before + 3,
                 array.where() + " has shape " + shape_text(array.shape()) + ", expected " +
                   std::to_string(before + 2) + " or " + std::to_string(before + 3) + " axes");
}

/// Grid sides of an array whose first axis holds channels (`before` 1), or that has none (0).
[[nodiscard]] inline grid_size grid_of(const device_array& array, std::size_t before)
{
  const std::vector<std::size_t>& shape = array.shape();
  return shape.size() == before + 2 ? grid_size{1, shape[before], shape[before + 1]}
                                    : grid_size{shape[before], shape[before + 1], shape[before + 2]};
}

/// A cell given by its indices, one number an axis.
[[nodiscard]] inline grid_size cell_of(const std::vector<py::ssize_t>& start,
                                       std::size_t axes,
                                       const std::string& where)
{
  FEDMED_EXPECTS(start.size() == axes,
                 where + " has " + shape_text(start) + ", expected " + std::to_string(axes) + " numbers");
  std::vector<std::size_t> cell;
  for (const py::ssize_t index : start) {
    FEDMED_EXPECTS(index >= 0, where + " has " + shape_text(start) + ", expected none below 0");
    cell.push_back(static_cast<std::size_t>(index));
  }
  return axes == 2 ? grid_size{0, cell[0], cell[1]} : grid_size{cell[0], cell[1], cell[2]};
}

}  // namespace fedmed::bindings
