#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <string>

#include "fedmed/error.hpp"
#include "fedmed/views.hpp"

namespace fedmed {

enum class interpolation { linear, nearest };

/// Where in the input an output cell is sampled: `matrix · output index + offset`, in index coordinates
/// whose integers are cell centres.
struct index_map {
  std::array<std::array<double, 3>, 3> matrix;
  std::array<double, 3> offset;
};

/// Refuse what resample cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_resample(grid_view<const float> pixels, const index_map& map, grid_view<float> out)
{
  FEDMED_EXPECTS(cells(pixels.size) > 0, "resample: `pixels` is empty, expected at least 1 cell");
  FEDMED_EXPECTS(cells(out.size) > 0, "resample: `shape` is empty, expected at least 1 cell");
  FEDMED_EXPECTS(out.channels == pixels.channels,
                 "resample: `out` has " + std::to_string(out.channels) + " channels, expected " +
                   std::to_string(pixels.channels));
  for (std::size_t axis = 0; axis < 3; ++axis) {
    FEDMED_EXPECTS(std::isfinite(map.offset[axis]),
                   "resample: `offset` has " + std::to_string(map.offset[axis]) + ", expected finite values");
    for (const double value : map.matrix[axis]) {
      FEDMED_EXPECTS(std::isfinite(value),
                     "resample: `matrix` has " + std::to_string(value) + ", expected finite values");
    }
  }
}

/// Sample every channel on another grid.
///
/// Coordinates beyond the input's border are moved onto it. Linear: coordinates, weights and sums in float64,
/// last axis first; a cell of weight 0 is not read. Nearest: the cell at floor(coordinate + 0.5).
///
/// @param pixels (C, …)
/// @param out (C, …), overwritten
/// @throws std::invalid_argument the arguments do not fit together; std::bad_alloc
void resample(grid_view<const float> pixels,
              const index_map& map,
              grid_view<float> out,
              interpolation how,
              std::size_t threads);

}  // namespace fedmed
