#include <gtest/gtest.h>

#include "blend_windows.cu"
#include "numbers.hpp"

namespace {

using fedmed::cells;
using fedmed::grid_size;

TEST(BlendWindowsTwin, GivesTheKernelsBits)
{
  const grid_size grid{4, 6, 7}, size{3, 4, 5};
  const std::vector<float> window = numbers::normal(2 * cells(size)),
                           importance = numbers::normal(cells(size));
  std::vector<float> total(2 * cells(grid)), weight(cells(grid)), other_total(total), other_weight(weight);
  for (const grid_size& start : {grid_size{0, 0, 0}, grid_size{1, 2, 2}, grid_size{3, 4, 6}}) {
    const fedmed::grid_view<const float> one{window.data(), 2, size}, scale{importance.data(), 1, size};
    fedmed::blend_windows({total.data(), 2, grid}, {weight.data(), 1, grid}, one, scale, start, 1);
    fedmed::cuda::blend_windows(
      {other_total.data(), 2, grid}, {other_weight.data(), 1, grid}, one, scale, start, nullptr);
  }
  EXPECT_EQ(other_total, total);
  EXPECT_EQ(other_weight, weight);
}

}  // namespace
