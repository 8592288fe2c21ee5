#pragma once

#include <cstddef>

#include "fedmed/aggregation.hpp"
#include "fedmed/instruction_set.hpp"

namespace fedmed {

/// Median of K models, element by element: of an even number the mean of the middle two, in float32.
///
/// The bits of numpy.median, but that a zero comes out without its sign.
///
/// @throws std::invalid_argument a value is not finite and `nan` is refuse; std::system_error the file cannot
/// be written; std::bad_alloc
void median(const sources& models,
            const model_output& out,
            nan_policy nan,
            std::size_t threads,
            instruction_set set = chosen_instruction_set());

/// Refuse what trimmed_mean cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_trimmed_mean(const sources& models, std::size_t cut)
{
  FEDMED_EXPECTS(cut <= (models.count() - 1) / 2,
                 "trimmed_mean: `cut` has " + std::to_string(cut) + ", expected at most " +
                   std::to_string((models.count() - 1) / 2) + " of " + std::to_string(models.count()) +
                   " models");
}

/// Mean of what is left of K models, element by element, without the `cut` smallest and the `cut` largest
/// values.
///
/// Summed in float64 from the smallest value, rounded to float32.
///
/// @param cut below K / 2
/// @throws std::invalid_argument the arguments do not fit together, or a value is not finite and `nan` is
/// refuse; std::system_error the file cannot be written; std::bad_alloc
void trimmed_mean(const sources& models,
                  std::size_t cut,
                  const model_output& out,
                  nan_policy nan,
                  std::size_t threads,
                  instruction_set set = chosen_instruction_set());

}  // namespace fedmed
