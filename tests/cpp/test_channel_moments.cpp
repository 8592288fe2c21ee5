#include "fedmed/channel_moments.hpp"

#include <cmath>
#include <vector>

#include "refusal.hpp"

namespace {

struct result {
  std::vector<double> sums;
  std::vector<double> squares;
  bool operator==(const result&) const = default;
};

result moments(const std::vector<float>& values, std::size_t channels, std::size_t threads)
{
  result got{std::vector<double>(channels, -1.0), std::vector<double>(channels, -1.0)};
  fedmed::channel_moments(
    {values.data(), channels, values.size() / channels}, got.sums, got.squares, threads);
  return got;
}

std::vector<float> ramp(std::size_t length)
{
  std::vector<float> values(length);
  for (std::size_t i = 0; i < length; ++i) {
    values[i] = static_cast<float>(i % 1013) - 500.0F;
  }
  return values;
}

}  // namespace

TEST(ChannelMoments, IsExactOnWholeNumbers)
{
  for (const std::size_t length : {1UL, 15UL, 16UL, 17UL, 65535UL, 65536UL, 65537UL, 200000UL}) {
    const std::vector<float> values = ramp(3 * length);
    const result got = moments(values, 3, 2);
    for (std::size_t channel = 0; channel < 3; ++channel) {
      double sum = 0.0;
      double square = 0.0;
      for (std::size_t i = channel * length; i < (channel + 1) * length; ++i) {
        sum += static_cast<double>(values[i]);
        square += static_cast<double>(values[i]) * static_cast<double>(values[i]);
      }
      EXPECT_EQ(got.sums[channel], sum);
      EXPECT_EQ(got.squares[channel], square);
    }
  }
}

TEST(ChannelMoments, GivesTheSameBitsOnAnyNumberOfThreads)
{
  std::vector<float> values = ramp(600000);
  for (float& value : values) {
    value = std::sin(value);
  }
  const result wanted = moments(values, 2, 1);
  for (const std::size_t threads : {2UL, 3UL, 16UL}) {
    EXPECT_EQ(moments(values, 2, threads), wanted);
  }
}

TEST(ChannelMoments, GivesZeroForNoValues)
{
  std::vector<double> sums(2, 5.0);
  std::vector<double> squares(2, 5.0);
  fedmed::channel_moments({nullptr, 2, 0}, sums, squares, 2);
  EXPECT_EQ(sums, std::vector<double>(2, 0.0));
  EXPECT_EQ(squares, std::vector<double>(2, 0.0));
}

TEST(ChannelMoments, RefusesWhatDoesNotFit)
{
  const std::vector<float> values(6);
  std::vector<double> two(2);
  std::vector<double> three(3);
  EXPECT_REFUSAL(fedmed::channel_moments({values.data(), 2, 3}, two, three, 1),
                 "have 2 and 3 elements, expected 2");
}
