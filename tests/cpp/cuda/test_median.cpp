#include <gtest/gtest.h>

#include <cmath>

#include "median.cu"
#include "models.hpp"

namespace {

using fedmed::element_type;
using fedmed::nan_policy;

TEST(MedianTwin, GivesTheKernelsBits)
{
  for (const std::size_t count : {1, 2, 3, 5, 8, 10, 12, 13, 16, 17, 31, 32, 33, 70}) {
    const some_models models{count, 300, count == 5 ? element_type::bfloat16 : element_type::float32};
    std::vector<std::byte> expected = models.result(), got = models.result();
    fedmed::median(models.view(), fedmed::model_output{expected.data()}, nan_policy::refuse, 1);
    fedmed::cuda::median(models.view(), got.data(), nan_policy::refuse, nullptr);
    EXPECT_EQ(got, expected) << count;
    const std::size_t cut = (count - 1) / 4;
    fedmed::trimmed_mean(models.view(), cut, fedmed::model_output{expected.data()}, nan_policy::refuse, 1);
    fedmed::cuda::trimmed_mean(models.view(), cut, got.data(), nan_policy::refuse, nullptr);
    EXPECT_EQ(got, expected) << count;
  }
}

TEST(MedianTwin, NanIsRefusedOrPropagated)
{
  for (const std::size_t count : {4, 40}) {
    some_models models{count, 40, element_type::float32};
    models.put(models.values[1], 7, std::nanf(""));
    models.put(models.values[2], 9, -INFINITY);
    std::vector<std::byte> expected = models.result(), got = models.result();
    fedmed::median(models.view(), fedmed::model_output{expected.data()}, nan_policy::propagate, 1);
    fedmed::cuda::median(models.view(), got.data(), nan_policy::propagate, nullptr);
    EXPECT_EQ(got, expected);
    EXPECT_THROW(fedmed::cuda::median(models.view(), got.data(), nan_policy::refuse, nullptr),
                 std::invalid_argument);
  }
}

}  // namespace
