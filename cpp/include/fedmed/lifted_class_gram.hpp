#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "fedmed/class_gram.hpp"
#include "fedmed/error.hpp"
#include "fedmed/instruction_set.hpp"
#include "fedmed/views.hpp"

namespace fedmed {

/// The fixed map from all scales' channels (C = Σ c_k) to rows [relu(f W + b), f P, 1], f = (x - mean) gain.
struct lift_weights {
  std::span<const float> mean;          // (C,)
  std::span<const float> gain;          // (C,)
  matrix_view<const float> lift;        // (C, L): standardised channels to lifted columns
  std::span<const float> bias;          // (L,)
  matrix_view<const float> projection;  // (C, F); no columns: f itself stands in the row

  [[nodiscard]] std::size_t features() const noexcept
  {
    return projection.columns == 0 ? mean.size() : projection.columns;
  }
  [[nodiscard]] std::size_t row_columns() const noexcept { return lift.columns + features() + 1; }
};

/// Rows of every `stride`-th cell of a label grid, from cell stride / 2 on (side / 2 where that is less).
struct strided_grid {
  grid_size size;
  std::size_t stride;

  [[nodiscard]] constexpr std::size_t first(std::size_t axis) const noexcept
  {
    return std::min(stride, size[axis]) / 2;
  }
  [[nodiscard]] constexpr std::size_t count(std::size_t axis) const noexcept
  {
    return (size[axis] - first(axis) + stride - 1) / stride;
  }
  [[nodiscard]] constexpr std::size_t rows() const noexcept { return count(0) * count(1) * count(2); }
};

/// Some rows to be handed out as they are.
struct kept_rows {
  std::span<const std::int64_t> numbers;  // ascending
  matrix_view<float> rows;
};

/// Refuse what lifted_class_gram cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_lifted_class_gram(std::span<const grid_view<const float>> maps,
                                    const lift_weights& weights,
                                    const strided_grid& grid,
                                    std::span<const std::int32_t> classes,
                                    matrix_view<double> grams,
                                    const kept_rows& kept)
{
  const auto size_is = [](const char* name, std::size_t got, std::size_t wanted) {
    FEDMED_EXPECTS(got == wanted,
                   "lifted_class_gram: `" + std::string{name} + "` has " + std::to_string(got) +
                     ", expected " + std::to_string(wanted));
  };
  std::size_t channels = 0;
  for (const grid_view<const float>& map : maps) {
    FEDMED_EXPECTS(map.channels * cells(map.size) > 0,
                   "lifted_class_gram: `maps` has an empty one, expected at least 1 value");
    channels += map.channels;
  }
  FEDMED_EXPECTS(channels > 0, "lifted_class_gram: `maps` is empty, expected at least 1 map");
  FEDMED_EXPECTS(grid.stride > 0 && cells(grid.size) > 0,
                 "lifted_class_gram: `size` has " + shape_text(grid.size) + " and `stride` " +
                   std::to_string(grid.stride) + ", expected at least 1");
  size_is("mean", weights.mean.size(), channels);
  size_is("gain", weights.gain.size(), channels);
  size_is("lift", weights.lift.rows, channels);
  size_is("bias", weights.bias.size(), weights.lift.columns);
  size_is("projection", weights.projection.rows, weights.projection.columns == 0 ? 0 : channels);
  size_is("classes", classes.size(), grid.rows());
  size_is("grams", grams.columns, packed_size(weights.row_columns()));
  size_is("kept", kept.rows.rows, kept.numbers.size());
  if (!kept.numbers.empty()) {
    size_is("kept", kept.rows.columns, weights.row_columns());
  }
  for (std::size_t index = 0; index < classes.size(); ++index) {
    FEDMED_EXPECTS(classes[index] >= -1 && classes[index] < static_cast<std::int64_t>(grams.rows),
                   "lifted_class_gram: `classes` has " + std::to_string(classes[index]) + " at index " +
                     std::to_string(index) + ", expected -1 to " +
                     std::to_string(static_cast<std::int64_t>(grams.rows) - 1));
  }
  std::int64_t least = 0;
  for (const std::int64_t number : kept.numbers) {
    FEDMED_EXPECTS(number >= least && number < static_cast<std::int64_t>(classes.size()),
                   "lifted_class_gram: `picked` has " + std::to_string(number) +
                     ", expected ascending rows below " + std::to_string(classes.size()));
    least = number + 1;
  }
}

/// Make the lifted rows of one image from its maps and add each one's outer product to the Gram of its class.
///
/// Row n belongs to cell n of the strided grid. Maps are interpolated linearly between their cells' centres
/// (align_corners=False). Rows are made line by line of the grid's last axis, a few hundred at a time: all
/// other axes are interpolated first, then comes the product with the weights at the coarser of the map's and
/// the line's resolution, then the last axis. All in float32, sums over channels in order: an element is
/// within (C + 16) 2^-24 Σ|f w| of its float64 definition, and may differ by instruction set within that. The
/// sums over rows are those of class_gram. Nothing depends on the number of threads.
///
/// @param maps (c_k, …) of every scale
/// @param classes (N,) from -1 to K - 1
/// @param grams (K, D (D + 1) / 2), added to
/// @param kept rows to be written out, whatever their class
/// @throws std::invalid_argument the arguments do not fit together; std::bad_alloc
void lifted_class_gram(std::span<const grid_view<const float>> maps,
                       const lift_weights& weights,
                       const strided_grid& grid,
                       std::span<const std::int32_t> classes,
                       matrix_view<double> grams,
                       const kept_rows& kept,
                       std::size_t threads,
                       instruction_set set = chosen_instruction_set(),
                       gram_mode mode = gram_mode::exact);

}  // namespace fedmed
