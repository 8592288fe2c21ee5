#include <gtest/gtest.h>

#include <cmath>

#include "models.hpp"
#include "weighted_mean.cu"

namespace {

using fedmed::element_type;
using fedmed::nan_policy;

TEST(WeightedMeanTwin, GivesTheKernelsBits)
{
  for (const element_type type : {element_type::float32, element_type::float16, element_type::bfloat16}) {
    const some_models models{10, 1000, type};
    const std::vector<std::int64_t> weights{1, 20, 300, 0, 5, 60000, 7, 8, 9, 10};
    std::vector<std::byte> expected = models.result(), got = models.result();
    fedmed::weighted_mean(
      models.view(), weights, fedmed::model_output{expected.data()}, nan_policy::refuse, 1);
    fedmed::cuda::weighted_mean(models.view(), weights, got.data(), nan_policy::refuse, nullptr);
    EXPECT_EQ(got, expected);
  }
}

TEST(WeightedMeanTwin, NanIsRefusedOrPropagated)
{
  some_models models{3, 40, element_type::float32};
  models.put(models.values[1], 7, std::nanf(""));
  models.put(models.values[2], 9, INFINITY);
  const std::vector<std::int64_t> weights{1, 2, 3};
  std::vector<std::byte> expected = models.result(), got = models.result();
  fedmed::weighted_mean(
    models.view(), weights, fedmed::model_output{expected.data()}, nan_policy::propagate, 1);
  fedmed::cuda::weighted_mean(models.view(), weights, got.data(), nan_policy::propagate, nullptr);
  EXPECT_EQ(got, expected);
  try {
    fedmed::cuda::weighted_mean(models.view(), weights, got.data(), nan_policy::refuse, nullptr);
    FAIL();
  } catch (const std::invalid_argument& refusal) {
    EXPECT_STREQ(refusal.what(), "weighted_mean: `sources[1]` at index 7 has nan, expected finite values");
  }
}

TEST(ClipNormTwin, IsNearTheKernel)
{
  const some_models models{5, 20000, element_type::float32}, start{1, 20000, element_type::float32, 0.1F};
  const std::vector<std::int64_t> weights{1, 2, 3, 4, 5};
  std::vector<std::byte> expected = models.result(), got = models.result();
  std::vector<double> expected_norms(5), norms(5);
  fedmed::clip_norm(
    models.view(), weights, start.view(), 150.0, expected_norms, fedmed::model_output{expected.data()}, 1);
  fedmed::cuda::clip_norm(models.view(), weights, start.view(), 150.0, norms, got.data(), nullptr);
  for (std::size_t k = 0; k < norms.size(); ++k) {
    EXPECT_NEAR(norms[k], expected_norms[k], 1e-6 * expected_norms[k]);
  }
  for (std::size_t n = 0; n < models.length; ++n) {
    float value, wanted;
    std::memcpy(&value, got.data() + 4 * n, 4);
    std::memcpy(&wanted, expected.data() + 4 * n, 4);
    EXPECT_NEAR(value, wanted, 1e-5);
  }
}

}  // namespace
