#pragma once

#include <span>
#include <string>

#include "arguments.hpp"
#include "device_arrays.hpp"

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
  return grid_of(std::span{array.shape()}.subspan(before));
}

}  // namespace fedmed::bindings
