#include "fedmed/resample.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "refusal.hpp"

namespace {

using fedmed::grid_size;
using fedmed::index_map;
using fedmed::interpolation;

index_map scale(double factor, double shift)
{
  return {{{{factor, 0, 0}, {0, factor, 0}, {0, 0, factor}}}, {shift, shift, shift}};
}

std::vector<float> sample(const std::vector<float>& pixels,
                          std::size_t channels,
                          const grid_size& size,
                          const index_map& map,
                          const grid_size& shape,
                          interpolation how,
                          std::size_t threads = 2)
{
  std::vector<float> out(channels * fedmed::cells(shape), -1.0F);
  fedmed::resample({pixels.data(), channels, size}, map, {out.data(), channels, shape}, how, threads);
  return out;
}

std::vector<float> waves(std::size_t length)
{
  std::vector<float> values(length);
  for (std::size_t i = 0; i < length; ++i) {
    values[i] = std::sin(static_cast<float>(i));
  }
  return values;
}

}  // namespace

TEST(Resample, IdentityReturnsTheSameBits)
{
  const std::vector<float> pixels = waves(2 * 60);
  for (const interpolation how : {interpolation::linear, interpolation::nearest}) {
    EXPECT_EQ((sample(pixels, 2, {3, 4, 5}, scale(1, 0), {3, 4, 5}, how)), pixels);
  }
}

TEST(Resample, InterpolatesBetweenNeighbours)
{
  const std::vector<float> cube{0, 1, 2, 3, 4, 5, 6, 7};
  const index_map middle{{{{0, 0, 0}, {0, 0, 0}, {0, 0, 0}}}, {0.5, 0.5, 0.5}};
  EXPECT_EQ((sample(cube, 1, {2, 2, 2}, middle, {1, 1, 1}, interpolation::linear)[0]), 3.5F);
  EXPECT_EQ((sample(cube, 1, {2, 2, 2}, middle, {1, 1, 1}, interpolation::nearest)[0]), 7.0F);
}

TEST(Resample, MovesWhatIsOutsideOntoTheBorder)
{
  const std::vector<float> row{3, 5};
  const index_map far{{{{0, 0, 0}, {0, 0, 0}, {0, 0, 10}}}, {-4, 9, -5}};
  for (const interpolation how : {interpolation::linear, interpolation::nearest}) {
    EXPECT_EQ((sample(row, 1, {1, 1, 2}, far, {1, 1, 2}, how)), (std::vector<float>{3, 5}));
  }
}

TEST(Resample, DoesNotReadACellOfWeightZero)
{
  const float nothing = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> row{1, 2, nothing};
  EXPECT_EQ((sample(row, 1, {1, 1, 3}, scale(1, 0), {1, 1, 2}, interpolation::linear)),
            (std::vector<float>{1, 2}));
}

TEST(Resample, GivesTheSameBitsWhetherOrNotTheAxesMixAndOnAnyNumberOfThreads)
{
  const std::vector<float> pixels = waves(2 * 40 * 30 * 20);
  const index_map plain = scale(0.37, 1.3);
  index_map mixed = plain;
  mixed.matrix[0][2] = 1e-300;  // below the last bit of every coordinate, yet the general path
  const std::vector<float> wanted =
    sample(pixels, 2, {40, 30, 20}, plain, {50, 40, 30}, interpolation::linear, 1);
  EXPECT_EQ((sample(pixels, 2, {40, 30, 20}, plain, {50, 40, 30}, interpolation::linear, 3)), wanted);
  EXPECT_EQ((sample(pixels, 2, {40, 30, 20}, mixed, {50, 40, 30}, interpolation::linear, 1)), wanted);
  EXPECT_EQ((sample(pixels, 2, {40, 30, 20}, mixed, {50, 40, 30}, interpolation::linear, 3)), wanted);
}

TEST(Resample, RefusesWhatDoesNotFit)
{
  const std::vector<float> pixels(4);
  std::vector<float> out(8);
  const index_map same = scale(1, 0);
  const double inf = std::numeric_limits<double>::infinity();
  const auto linear = interpolation::linear;
  EXPECT_REFUSAL(fedmed::resample({pixels.data(), 1, {0, 2, 2}}, same, {out.data(), 1, {1, 2, 2}}, linear, 1),
                 "`pixels` is empty");
  EXPECT_REFUSAL(fedmed::resample({pixels.data(), 1, {1, 2, 2}}, same, {out.data(), 1, {1, 0, 2}}, linear, 1),
                 "`shape` is empty");
  EXPECT_REFUSAL(fedmed::resample({pixels.data(), 1, {1, 2, 2}}, same, {out.data(), 2, {1, 2, 2}}, linear, 1),
                 "has 2 channels, expected 1");
  EXPECT_REFUSAL(
    fedmed::resample({pixels.data(), 1, {1, 2, 2}}, scale(inf, 0), {out.data(), 1, {1, 2, 2}}, linear, 1),
    "`matrix` has inf, expected finite values");
  EXPECT_REFUSAL(
    fedmed::resample({pixels.data(), 1, {1, 2, 2}}, scale(1, inf), {out.data(), 1, {1, 2, 2}}, linear, 1),
    "`offset` has inf, expected finite values");
}
