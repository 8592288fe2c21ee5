#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "fedmed/error.hpp"
#include "fedmed/half.hpp"
#include "fedmed/instruction_set.hpp"
#include "fedmed/views.hpp"

namespace fedmed {

/// How class_gram multiplies: `exact` in float64, `fast` in float32 blocks.
enum class gram_mode { exact, fast };

/// Rows (N, D) of any of the three kinds of numbers; exactly one pointer is set.
struct row_view {
  const float* single = nullptr;
  const float16* half = nullptr;
  const bfloat16* brain = nullptr;
  std::size_t rows;
  std::size_t columns;

  row_view(const float* data, std::size_t row_count, std::size_t column_count) noexcept
    : single{data}, rows{row_count}, columns{column_count}
  {
  }
  row_view(matrix_view<const float> view) noexcept : single{view.data}, rows{view.rows}, columns{view.columns}
  {
  }
  row_view(matrix_view<const float16> view) noexcept : half{view.data}, rows{view.rows}, columns{view.columns}
  {
  }
  row_view(matrix_view<const bfloat16> view) noexcept
    : brain{view.data}, rows{view.rows}, columns{view.columns}
  {
  }
};

/// Elements of the packed upper triangle of a `side` × `side` matrix.
[[nodiscard]] constexpr std::size_t packed_size(std::size_t side) noexcept
{
  return side * (side + 1) / 2;
}

/// Where the diagonal element of `row` stands in a packed upper triangle, row after row.
[[nodiscard]] constexpr std::size_t packed_diagonal(std::size_t side, std::size_t row) noexcept
{
  return row * side - row * (row - 1) / 2;
}

/// Refuse what class_gram cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_class_gram(const row_view& rows,
                             std::span<const std::int32_t> classes,
                             matrix_view<double> grams)
{
  FEDMED_EXPECTS(rows.columns > 0, "class_gram: `rows` has 0 columns, expected at least 1");
  FEDMED_EXPECTS(classes.size() == rows.rows,
                 "class_gram: `classes` has " + std::to_string(classes.size()) +
                   " elements, expected one for each of the " + std::to_string(rows.rows) + " rows");
  FEDMED_EXPECTS(grams.columns == packed_size(rows.columns),
                 "class_gram: `grams` has " + std::to_string(grams.columns) + " columns, expected " +
                   std::to_string(packed_size(rows.columns)) + " for rows of " +
                   std::to_string(rows.columns));
  for (std::size_t index = 0; index < classes.size(); ++index) {
    const std::int32_t label = classes[index];
    FEDMED_EXPECTS(label >= -1 && (label < 0 || static_cast<std::size_t>(label) < grams.rows),
                   "class_gram: `classes` has " + std::to_string(label) + " at index " +
                     std::to_string(index) + ", expected -1 to " +
                     std::to_string(static_cast<std::int64_t>(grams.rows) - 1));
  }
}

/// Add each row's outer product with itself to the Gram of its class.
///
/// `grams[classes[n]] += rows[n]ᵀ rows[n]`, as the packed upper triangle; a row of class -1 is left out.
/// `exact`: products are exact in float64 and summed in float64, in row order within blocks of fixed length:
/// the result depends neither on the number of threads, nor on the instruction set, nor on other classes'
/// rows. `fast`: of up to 1,024 rows of a class at once the mean is taken off in float32; products are summed
/// in float32 over 12 rows, four such sums to each other and then in float64, and the mean is put back in
/// float64. No element is further than 1e-6 √(gᵢᵢ gⱼⱼ) from `exact`, whatever the rows and their mean, as
/// long as values are 0 or between 1e-18 and 1e18 in size, so that squares are float32 numbers. The result
/// depends on the instruction set within that bound, not on the number of threads.
///
/// @param rows (N, D)
/// @param classes (N,) from -1 to K - 1
/// @param grams (K, D (D + 1) / 2), added to
/// @throws std::invalid_argument the arguments do not fit together; std::bad_alloc
void class_gram(const row_view& rows,
                std::span<const std::int32_t> classes,
                matrix_view<double> grams,
                std::size_t threads,
                instruction_set set = chosen_instruction_set(),
                gram_mode mode = gram_mode::exact);

}  // namespace fedmed
