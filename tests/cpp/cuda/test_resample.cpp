#include <gtest/gtest.h>

#include "numbers.hpp"
#include "resample.cu"

namespace {

using fedmed::grid_size;
using fedmed::interpolation;

TEST(ResampleTwin, GivesTheKernelsBits)
{
  const grid_size from{5, 7, 9}, to{4, 11, 6};
  const std::vector<float> pixels = numbers::normal(2 * fedmed::cells(from));
  const fedmed::index_map turned{{{{0.9, -0.3, 0.1}, {0.3, 0.7, 0.05}, {-0.1, 0.0, 1.3}}}, {0.3, -0.4, 0.7}};
  const fedmed::index_map scaled{{{{1.2, 0.0, 0.0}, {0.0, 0.6, 0.0}, {0.0, 0.0, 1.5}}}, {0.0, 0.2, -0.5}};
  for (const fedmed::index_map& map : {turned, scaled}) {
    for (const interpolation how : {interpolation::linear, interpolation::nearest}) {
      std::vector<float> expected(2 * fedmed::cells(to)), got(expected.size());
      fedmed::resample({pixels.data(), 2, from}, map, {expected.data(), 2, to}, how, 1);
      fedmed::cuda::resample({pixels.data(), 2, from}, map, {got.data(), 2, to}, how, nullptr);
      EXPECT_EQ(got, expected);
    }
  }
}

}  // namespace
