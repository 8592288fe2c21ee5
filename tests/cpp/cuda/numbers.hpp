#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

/// The same numbers on every machine.
namespace numbers {

inline std::vector<float> normal(std::size_t count, float mean = 0.0F, unsigned seed = 1)
{
  std::mt19937 source{seed};
  std::vector<float> values(count);
  for (float& value : values) {
    // Irwin-Hall: std::normal_distribution is each library's own.
    float sum = -6.0F;
    for (int n = 0; n < 12; ++n) {
      sum += static_cast<float>(source() >> 8) / 16777216.0F;
    }
    value = sum + mean;
  }
  return values;
}

/// From `low` to `high`, both included.
inline std::vector<std::int32_t> whole(std::size_t count, int low, int high, unsigned seed = 2)
{
  std::mt19937 source{seed};
  std::vector<std::int32_t> values(count);
  for (std::int32_t& value : values) {
    value = low + static_cast<int>(source() % static_cast<unsigned>(high - low + 1));
  }
  return values;
}

}  // namespace numbers
