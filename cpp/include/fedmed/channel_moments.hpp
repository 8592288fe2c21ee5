#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "fedmed/error.hpp"
#include "fedmed/views.hpp"

namespace fedmed {

/// Refuse what channel_moments cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_channel_moments(matrix_view<const float> maps,
                                  std::span<const double> sums,
                                  std::span<const double> squares)
{
  FEDMED_EXPECTS(sums.size() == maps.rows && squares.size() == maps.rows,
                 "channel_moments: `sums` and `squares` have " + std::to_string(sums.size()) + " and " +
                   std::to_string(squares.size()) + " elements, expected " + std::to_string(maps.rows));
}

/// Sum and sum of squares of every channel, in float64.
///
/// Squares are exact; both sums run in a fixed order that does not depend on the number of threads.
///
/// @param maps (C, n) values of each channel
/// @param sums, squares (C,), overwritten
/// @throws std::invalid_argument the arguments do not fit together; std::bad_alloc
void channel_moments(matrix_view<const float> maps,
                     std::span<double> sums,
                     std::span<double> squares,
                     std::size_t threads);

}  // namespace fedmed
