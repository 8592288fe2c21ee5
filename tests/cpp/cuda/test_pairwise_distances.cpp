#include <gtest/gtest.h>

#include <cmath>

#include "models.hpp"
#include "pairwise_distances.cu"

namespace {

using fedmed::element_type;
using fedmed::nan_policy;

TEST(PairwiseDistancesTwin, IsNearTheKernel)
{
  for (const std::size_t count : {1, 2, 10, 35}) {
    const some_models models{count, 8300, element_type::float32, 1.0F};
    std::vector<double> expected(count * count), got(count * count);
    fedmed::pairwise_distances(models.view(), {expected.data(), count, count}, nan_policy::refuse, 1);
    fedmed::cuda::pairwise_distances(models.view(), {got.data(), count, count}, nan_policy::refuse, nullptr);
    for (std::size_t n = 0; n < got.size(); ++n) {
      EXPECT_NEAR(got[n], expected[n], 1e-6 * expected[n]);
    }
  }
}

TEST(PairwiseDistancesTwin, NanIsRefused)
{
  some_models models{3, 40, element_type::float32};
  models.put(models.values[1], 7, std::nanf(""));
  std::vector<double> got(9);
  EXPECT_THROW(
    fedmed::cuda::pairwise_distances(models.view(), {got.data(), 3, 3}, nan_policy::refuse, nullptr),
    std::invalid_argument);
  fedmed::cuda::pairwise_distances(models.view(), {got.data(), 3, 3}, nan_policy::propagate, nullptr);
  EXPECT_TRUE(std::isnan(got[1]) && std::isfinite(got[2]));
}

}  // namespace
