#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "fedmed/lifted_class_gram.hpp"

namespace fedmed {

/// Two neighbours and the share of the upper one.
struct tap {
  std::uint32_t below;
  std::uint32_t above;
  float share;
};

/// Where the grid's positions along an axis lie in a map of `side` cells, cell centres at half-integers.
inline std::vector<tap> taps_of(const strided_grid& grid, std::size_t axis, std::size_t side)
{
  std::vector<tap> taps;
  const double scale = static_cast<double>(side) / static_cast<double>(grid.size[axis]);
  for (std::size_t index = 0; index < grid.count(axis); ++index) {
    const auto cell = static_cast<double>(grid.first(axis) + index * grid.stride);
    const double place = std::max((cell + 0.5) * scale - 0.5, 0.0);
    const std::size_t below = std::min(static_cast<std::size_t>(place), side - 1);
    const std::size_t above = std::min(below + 1, side - 1);
    const double share = above > below ? place - static_cast<double>(below) : 0.0;
    taps.push_back(
      {static_cast<std::uint32_t>(below), static_cast<std::uint32_t>(above), static_cast<float>(share)});
  }
  return taps;
}

}  // namespace fedmed
