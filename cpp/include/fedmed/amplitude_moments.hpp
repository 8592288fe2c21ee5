#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>

#include "fedmed/error.hpp"
#include "fedmed/instruction_set.hpp"

namespace fedmed {

/// Planes of someone else's memory, (channels, rows, columns, slices) without gaps; an image is one slice.
struct plane_view {
  const float* data;
  std::size_t channels;
  std::size_t rows;
  std::size_t columns;
  std::size_t slices;
};

/// Sides of the block of frequencies around 0; both odd.
using block_size = std::array<std::size_t, 2>;

/// Refuse what amplitude_moments cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_amplitude_moments(const plane_view& pixels,
                                    const block_size& block,
                                    double floor,
                                    std::span<const double> sums,
                                    std::span<const double> squares)
{
  const std::array<std::size_t, 2> sides{pixels.rows, pixels.columns};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    FEDMED_EXPECTS(block[axis] % 2 == 1 && block[axis] <= sides[axis],
                   "amplitude_moments: `block` has " + shape_text(block) + ", expected odd sides within " +
                     shape_text(sides));
  }
  FEDMED_EXPECTS(floor > 0.0,
                 "amplitude_moments: `floor` has " + std::to_string(floor) + ", expected above 0");
  const std::size_t size = pixels.channels * block[0] * block[1];
  FEDMED_EXPECTS(sums.size() == size && squares.size() == size,
                 "amplitude_moments: `sums` and `squares` have " + std::to_string(sums.size()) + " and " +
                   std::to_string(squares.size()) + " elements, expected " + std::to_string(size));
}

/// Sum and sum of squares, over slices, of the log-amplitude of each channel's low frequencies, in float64.
///
/// `log(|F(u, v)| / (rows · columns) + floor)` for the block of frequencies around 0, zero in its middle. A
/// partial transform: rows first, then columns, each folded at its middle, so that one plane costs about
/// rows · columns · (half block + 1) products. Neither threads nor the instruction set change a bit of F.
///
/// @param sums, squares (C, block[0], block[1]), overwritten
/// @throws std::invalid_argument the arguments do not fit together; std::bad_alloc
void amplitude_moments(const plane_view& pixels,
                       const block_size& block,
                       double floor,
                       std::span<double> sums,
                       std::span<double> squares,
                       std::size_t threads,
                       instruction_set set = chosen_instruction_set());

}  // namespace fedmed
