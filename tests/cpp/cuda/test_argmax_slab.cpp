#include <gtest/gtest.h>

#include <cmath>

#include "argmax_slab.cu"
#include "numbers.hpp"

namespace {

TEST(ArgmaxSlabTwin, AnswersAsTheKernelDoes)
{
  const fedmed::grid_size grid{4, 5, 6}, part{2, 3, 4}, start{1, 2, 1};
  std::vector<float> total = numbers::normal(3 * fedmed::cells(grid));
  total[40] = total[160] = std::nanf("");
  total[41] = total[161] = total[281] = 2.0F;
  std::vector<std::uint8_t> expected(fedmed::cells(part)), got(expected.size());
  fedmed::argmax_slab({total.data(), 3, grid}, start, {expected.data(), 1, part}, 1);
  fedmed::cuda::argmax_slab({total.data(), 3, grid}, start, {got.data(), 1, part}, nullptr);
  EXPECT_EQ(got, expected);
}

}  // namespace
