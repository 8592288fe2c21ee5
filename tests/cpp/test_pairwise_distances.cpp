#include "fedmed/pairwise_distances.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "models.hpp"
#include "refusal.hpp"

namespace {

using fedmed::instruction_set;
using fedmed::nan_policy;

std::vector<double> distances(const random_models& models,
                              std::size_t threads = 2,
                              instruction_set set = fedmed::chosen_instruction_set(),
                              nan_policy nan = nan_policy::refuse)
{
  const std::size_t count = models.values.size();
  std::vector<double> out(count * count, -1.0);
  fedmed::pairwise_distances(models.sources(), {out.data(), count, count}, nan, threads, set);
  return out;
}

}  // namespace

TEST(PairwiseDistances, AgreeWithTheDefinition)
{
  for (const std::size_t count : {1UL, 2UL, 3UL, 9UL, 10UL, 21UL}) {
    for (const std::size_t length : {1UL, 16UL, 700UL, 70001UL}) {
      const random_models models{count, length};
      const std::vector<double> got = distances(models);
      for (std::size_t i = 0; i < count; ++i) {
        for (std::size_t j = 0; j < count; ++j) {
          double square = 0.0;
          for (std::size_t n = 0; n < length; ++n) {
            const double d =
              static_cast<double>(models.values[i][n]) - static_cast<double>(models.values[j][n]);
            square += d * d;
          }
          EXPECT_NEAR(got[i * count + j], std::sqrt(square), 1e-6 * std::sqrt(square));
        }
      }
    }
  }
}

TEST(PairwiseDistances, GiveTheSameBitsOnAnyNumberOfThreadsAndAnyInstructionSet)
{
  const random_models models{11, 140001};
  EXPECT_TRUE(same_everywhere(
    [&](std::size_t threads, instruction_set set) { return distances(models, threads, set); }));
}

TEST(PairwiseDistances, KeepWhatNormsWouldCancel)
{
  random_models models{2, 10000};
  models.values[1] = models.values[0];
  models.values[1][17] = std::nextafter(models.values[1][17], 9.0F);
  const double step = static_cast<double>(models.values[1][17]) - static_cast<double>(models.values[0][17]);
  EXPECT_NEAR(distances(models)[1], step, 1e-6 * step);
}

TEST(PairwiseDistances, RefuseOrPropagateWhatIsNotFinite)
{
  random_models models{3, 900};
  models.values[1][800] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_REFUSAL(distances(models), "pairwise_distances: `sources[1]` at index 800 has nan, expected finite");
  const std::vector<double> got =
    distances(models, 2, fedmed::chosen_instruction_set(), nan_policy::propagate);
  EXPECT_TRUE(std::isnan(got[1]) && std::isnan(got[5]) && !std::isnan(got[2]));
}

TEST(PairwiseDistances, RefuseWhatDoesNotFit)
{
  const random_models models{3, 2};
  std::vector<double> out(9);
  EXPECT_REFUSAL(fedmed::pairwise_distances(models.sources(), {out.data(), 3, 2}, nan_policy::refuse, 1),
                 "`distances` has shape (3, 2), expected (3, 3)");
}
