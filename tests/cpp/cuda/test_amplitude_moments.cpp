#include <gtest/gtest.h>

#include "amplitude_moments.cu"
#include "numbers.hpp"

namespace {

void expect_as_the_kernel(const fedmed::block_size& block,
                          std::size_t rows,
                          std::size_t columns,
                          std::size_t slices)
{
  const std::vector<float> pixels = numbers::normal(2 * rows * columns * slices, 1.0F);
  const fedmed::plane_view view{pixels.data(), 2, rows, columns, slices};
  const std::size_t size = 2 * block[0] * block[1];
  std::vector<double> sums(size), squares(size), expected_sums(size), expected_squares(size);
  fedmed::amplitude_moments(view, block, 1e-6, expected_sums, expected_squares, 1);
  fedmed::cuda::amplitude_moments(view, block, 1e-6, sums, squares, nullptr);
  for (std::size_t n = 0; n < size; ++n) {
    EXPECT_NEAR(sums[n], expected_sums[n], 1e-9);
    EXPECT_NEAR(squares[n], expected_squares[n], 1e-9);
  }
}

TEST(AmplitudeMomentsTwin, IsNearTheKernel)
{
  expect_as_the_kernel({3, 5}, 16, 20, 1);
  expect_as_the_kernel({11, 3}, 17, 9, 3);
  expect_as_the_kernel({1, 1}, 1, 1, 2);
}

}  // namespace
