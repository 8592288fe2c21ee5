#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "fedmed/aggregation.hpp"
#include "fedmed/instruction_set.hpp"

namespace fedmed {

/// Weighted sums that arrive one by one, as whole multiples of `quantum`: adding is exact, so that models
/// may come in any order and one that is taken away again leaves no trace.
///
/// A term weight · value is rounded once to a multiple. With |value| ≤ bound and weights below `weight_cap`
/// a term is less than 2^51 multiples; 4,096 of them fit.
[[nodiscard]] inline double quantum_of(double bound) noexcept
{
  int exponent = 0;
  std::frexp(bound, &exponent);  // bound ≤ 2^exponent
  return std::ldexp(1.0, exponent + 29 - 51);
}

/// Refuse what running_mean_add cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_running_mean(std::span<const std::int64_t> sums,
                               const sources& model,
                               std::int64_t weight,
                               double bound)
{
  const source_part& part = model.parts().front();
  FEDMED_EXPECTS(part.tensor.length == sums.size(),
                 "running_mean: `values` has " + std::to_string(part.tensor.length) + " elements, expected " +
                   std::to_string(sums.size()));
  FEDMED_EXPECTS(weight > -weight_cap && weight < weight_cap,
                 "running_mean: `weight` has " + std::to_string(weight) + ", expected less than " +
                   std::to_string(weight_cap));
  FEDMED_EXPECTS(bound >= 0x1p-60 && bound <= 0x1p60,
                 "running_mean: `bound` has " + std::to_string(bound) + ", expected 2^-60 to 2^60");
}

/// Add weight · values to the sums; a negative weight takes away what its opposite added.
///
/// @param sums (n,) multiples of quantum_of(bound), added to
/// @param model one array in memory
/// @throws std::invalid_argument the arguments do not fit together, or a value is beyond ±bound or NaN; then
/// `sums` is as it was
void running_mean_add(std::span<std::int64_t> sums,
                      const sources& model,
                      std::int64_t weight,
                      double bound,
                      std::size_t threads,
                      instruction_set set = chosen_instruction_set());

/// The mean: sums · quantum_of(bound) / total.
///
/// @param out as many float32, overwritten
void running_mean_finish(std::span<const std::int64_t> sums,
                         double bound,
                         std::int64_t total,
                         std::span<float> out,
                         std::size_t threads);

}  // namespace fedmed
