#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "fedmed/aggregation.hpp"
#include "fedmed/class_gram.hpp"
#include "fedmed/error.hpp"
#include "fedmed/views.hpp"

/// What arguments mean that are no arrays: the same words for a kernel and its twin.
namespace fedmed::bindings {

/// Refuse anything but one of two words.
/// @return whether it is the first
[[nodiscard]] inline bool is_first(const std::string& word,
                                   const std::string& first,
                                   const std::string& second,
                                   const std::string& where)
{
  FEDMED_EXPECTS(word == first || word == second,
                 where + " has `" + word + "`, expected `" + first + "` or `" + second + "`");
  return word == first;
}

[[nodiscard]] inline gram_mode gram_mode_of(const std::string& mode, const std::string& kernel)
{
  return is_first(mode, "exact", "fast", kernel + ": `mode`") ? gram_mode::exact : gram_mode::fast;
}

[[nodiscard]] inline nan_policy nan_of(const std::string& nan, const std::string& kernel)
{
  return is_first(nan, "refuse", "propagate", kernel + ": `nan`") ? nan_policy::refuse
                                                                  : nan_policy::propagate;
}

/// Two or three sides as a grid.
[[nodiscard]] inline grid_size grid_of(std::span<const std::size_t> sides)
{
  return sides.size() == 2 ? grid_size{1, sides[0], sides[1]} : grid_size{sides[0], sides[1], sides[2]};
}

/// The grid that sides given by number make.
[[nodiscard]] inline grid_size grid_of(const std::vector<std::size_t>& sides, const std::string& where)
{
  FEDMED_EXPECTS(sides.size() == 2 || sides.size() == 3,
                 where + " has shape " + shape_text(sides) + ", expected 2 or 3 sides");
  return grid_of(sides);
}

/// A cell of a grid of two or three axes, given as one number an axis.
[[nodiscard]] inline grid_size cell_of(const std::vector<std::ptrdiff_t>& start,
                                       std::size_t axes,
                                       const std::string& where)
{
  FEDMED_EXPECTS(start.size() == axes,
                 where + " has " + shape_text(start) + ", expected " + std::to_string(axes) + " numbers");
  std::vector<std::size_t> cell;
  for (const std::ptrdiff_t index : start) {
    FEDMED_EXPECTS(index >= 0, where + " has " + shape_text(start) + ", expected none below 0");
    cell.push_back(static_cast<std::size_t>(index));
  }
  return axes == 2 ? grid_size{0, cell[0], cell[1]} : grid_size{cell[0], cell[1], cell[2]};
}

}  // namespace fedmed::bindings
