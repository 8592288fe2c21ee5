#include <gtest/gtest.h>

#include "channel_moments.cu"
#include "numbers.hpp"

namespace {

void expect_as_the_kernel(std::size_t images, std::size_t channels, std::size_t values)
{
  const std::vector<float> maps = numbers::normal(images * channels * values, 3.0F);
  const fedmed::map_view view{maps.data(), images, channels, values};
  std::vector<double> sums(channels), squares(channels), expected_sums(channels), expected_squares(channels);
  fedmed::channel_moments(view, expected_sums, expected_squares, 1);
  fedmed::cuda::channel_moments(view, sums, squares, nullptr);
  for (std::size_t channel = 0; channel < channels; ++channel) {
    EXPECT_NEAR(sums[channel], expected_sums[channel], 1e-12 * expected_squares[channel]);
    EXPECT_NEAR(squares[channel], expected_squares[channel], 1e-12 * expected_squares[channel]);
  }
}

TEST(ChannelMomentsTwin, ChannelsFirst)
{
  expect_as_the_kernel(5, 3, 49);     // many images a chunk
  expect_as_the_kernel(1, 2, 40000);  // many chunks an image
  expect_as_the_kernel(130, 2, 257);  // chunks end within images
}

TEST(ChannelMomentsTwin, ChannelsLast)
{
  expect_as_the_kernel(3000, 3, 1);  // several pixels side by side
  expect_as_the_kernel(300, 256, 1);
  expect_as_the_kernel(150, 300, 1);  // two tiles of channels
}

TEST(ChannelMomentsTwin, NothingToSum)
{
  expect_as_the_kernel(0, 3, 5);
  expect_as_the_kernel(0, 3, 1);
  expect_as_the_kernel(4, 0, 5);
}

}  // namespace
