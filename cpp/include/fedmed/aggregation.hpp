#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "fedmed/error.hpp"
#include "fedmed/sources.hpp"

/// What the aggregation kernels share. They go over K models element by element, in one pass and O(block)
/// memory; no result depends on the order of the models, on the number of threads or on the instruction
/// set. Arithmetic is on float32 values; float16 and bfloat16 results are rounded from it. Counters (I64)
/// take their maximum.
namespace fedmed {

/// What becomes of NaN and of infinities.
enum class nan_policy : std::uint8_t {
  refuse,     ///< std::invalid_argument names the source, the tensor and the index
  propagate,  ///< a NaN makes the result NaN; infinities follow arithmetic
};

/// Example counts are multiplied exactly with float32 values in float64 below this.
inline constexpr std::int64_t weight_cap = std::int64_t{1} << 29;

/// Refuse weights that do not fit K sources.
inline void check_weights(const std::string& kernel, std::span<const std::int64_t> weights, std::size_t count)
{
  FEDMED_EXPECTS(weights.size() == count,
                 kernel + ": `weights` has " + std::to_string(weights.size()) + " elements, expected " +
                   std::to_string(count));
  std::int64_t total = 0;
  for (const std::int64_t weight : weights) {
    FEDMED_EXPECTS(weight >= 0 && weight < weight_cap,
                   kernel + ": `weights` has " + std::to_string(weight) + ", expected 0 to " +
                     std::to_string(weight_cap - 1));
    total += weight;
  }
  FEDMED_EXPECTS(total > 0, kernel + ": `weights` has sum 0, expected at least 1");
}

}  // namespace fedmed
