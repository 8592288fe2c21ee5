#include "running_mean_tile.hpp"

namespace fedmed::running_mean_tile {
namespace {

inline int64_t bits_of(double value)
{
  int64_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

void add_values(const float* values, double factor, size_t count, int64_t* sums) noexcept
{
  // In this binade the last bit stands for 1, so that the addition rounds, and bits differ by whole numbers.
  constexpr double ones = 0x1.8p52;
  for (size_t i = 0; i < count; ++i) {
    sums[i] += bits_of(ones + factor * static_cast<double>(values[i])) - bits_of(ones);
  }
}

}  // namespace

add FEDMED_ISA() noexcept
{
  return add_values;
}

}  // namespace fedmed::running_mean_tile
