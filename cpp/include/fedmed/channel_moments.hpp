#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "fedmed/error.hpp"
#include "fedmed/instruction_set.hpp"

namespace fedmed {

/// Maps of someone else's memory, (images, channels, values) without gaps. With one value a channel the
/// channel is the last axis: channels-last maps are (pixels, channels, 1).
struct map_view {
  const float* data;
  std::size_t images;
  std::size_t channels;
  std::size_t values;
};

/// Refuse what channel_moments cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_channel_moments(const map_view& maps,
                                  std::span<const double> sums,
                                  std::span<const double> squares)
{
  FEDMED_EXPECTS(sums.size() == maps.channels && squares.size() == maps.channels,
                 "channel_moments: `sums` and `squares` have " + std::to_string(sums.size()) + " and " +
                   std::to_string(squares.size()) + " elements, expected " + std::to_string(maps.channels));
}

/// Sum and sum of squares of every channel over all images, in float64.
///
/// Squares are exact; both sums run in a fixed order, so that neither the number of threads nor the
/// instruction set changes a bit.
///
/// @param sums, squares (C,), overwritten
/// @throws std::invalid_argument the arguments do not fit together; std::bad_alloc
void channel_moments(const map_view& maps,
                     std::span<double> sums,
                     std::span<double> squares,
                     std::size_t threads,
                     instruction_set set = chosen_instruction_set());

}  // namespace fedmed
