#include "fedmed/median.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "models.hpp"
#include "refusal.hpp"

namespace {

using fedmed::instruction_set;
using fedmed::nan_policy;

constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<float> median(const random_models& models,
                          std::size_t threads = 2,
                          instruction_set set = fedmed::chosen_instruction_set(),
                          nan_policy nan = nan_policy::refuse)
{
  std::vector<float> out(models.values.front().size(), -1.0F);
  fedmed::median(models.sources(), into(out), nan, threads, set);
  return out;
}

std::vector<float> trimmed(const random_models& models,
                           std::size_t cut,
                           std::size_t threads = 2,
                           instruction_set set = fedmed::chosen_instruction_set(),
                           nan_policy nan = nan_policy::refuse)
{
  std::vector<float> out(models.values.front().size(), -1.0F);
  fedmed::trimmed_mean(models.sources(), cut, into(out), nan, threads, set);
  return out;
}

std::vector<float> sorted(const random_models& models, std::size_t index)
{
  std::vector<float> values;
  for (const std::vector<float>& model : models.values) {
    values.push_back(model[index]);
  }
  std::sort(values.begin(), values.end());
  return values;
}

}  // namespace

TEST(Median, IsItsDefinitionForAnyNumber)
{
  for (std::size_t count = 1; count <= 70; ++count) {
    const random_models models{count, 83};
    const std::vector<float> got = median(models);
    for (std::size_t i = 0; i < 83; ++i) {
      const std::vector<float> values = sorted(models, i);
      const float upper = values[count / 2];
      EXPECT_EQ(got[i], count % 2 == 1 ? upper : (values[count / 2 - 1] + upper) / 2.0F);
    }
  }
}

TEST(Median, GivesTheSameBitsOnAnyNumberOfThreadsAndAnyInstructionSet)
{
  for (const std::size_t count : {10UL, 33UL}) {
    const random_models models{count, 70001};
    EXPECT_TRUE(same_everywhere(
      [&](std::size_t threads, instruction_set set) { return median(models, threads, set); }));
  }
}

TEST(Median, TakesAThousandModels)
{
  const random_models models{1024, 130};
  const std::vector<float> got = median(models);
  for (std::size_t i = 0; i < 130; ++i) {
    const std::vector<float> values = sorted(models, i);
    EXPECT_EQ(got[i], (values[511] + values[512]) / 2.0F);
  }
}

TEST(Median, LosesTheSignOfZero)
{
  random_models models{3, 16};
  models.values[0][4] = -0.0F;
  models.values[1][4] = -0.0F;
  models.values[2][4] = -0.0F;
  EXPECT_FALSE(std::signbit(median(models)[4]));
}

TEST(Median, PropagatesNanAndSortsInfinities)
{
  for (const std::size_t count : {5UL, 20UL}) {
    random_models models{count, 3000};
    const std::vector<float> clean = median(models);
    models.values[1][7] = std::numeric_limits<float>::quiet_NaN();
    models.values[2][8] = infinity;
    const std::vector<float> got = median(models, 2, fedmed::chosen_instruction_set(), nan_policy::propagate);
    EXPECT_TRUE(std::isnan(got[7]));
    const std::vector<float> values = sorted(models, 8);
    EXPECT_EQ(got[8],
              count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2.0F);
    EXPECT_EQ(std::vector<float>(got.begin() + 9, got.end()),
              std::vector<float>(clean.begin() + 9, clean.end()));
    EXPECT_REFUSAL(median(models), "median: `sources[1]` at index 7 has nan, expected finite values");
  }
}

TEST(TrimmedMean, IsItsDefinitionForAnyNumber)
{
  for (std::size_t count = 1; count <= 40; ++count) {
    const random_models models{count, 50};
    for (std::size_t cut = 0; 2 * cut < count; ++cut) {
      const std::vector<float> got = trimmed(models, cut);
      for (std::size_t i = 0; i < 50; ++i) {
        const std::vector<float> values = sorted(models, i);
        double sum = 0.0;
        for (std::size_t rank = cut; rank < count - cut; ++rank) {
          sum += static_cast<double>(values[rank]);
        }
        EXPECT_EQ(got[i], static_cast<float>(sum / static_cast<double>(count - 2 * cut)));
      }
    }
  }
}

TEST(TrimmedMean, GivesTheSameBitsOnAnyNumberOfThreadsAndAnyInstructionSet)
{
  for (const std::size_t count : {10UL, 33UL}) {
    const random_models models{count, 70001};
    EXPECT_TRUE(same_everywhere(
      [&](std::size_t threads, instruction_set set) { return trimmed(models, 2, threads, set); }));
  }
}

TEST(TrimmedMean, CutsInfinitiesAway)
{
  random_models models{5, 16};
  models.values[1][7] = infinity;
  models.values[4][7] = -infinity;
  const std::vector<float> got =
    trimmed(models, 1, 2, fedmed::chosen_instruction_set(), nan_policy::propagate);
  const std::vector<float> values = sorted(models, 7);
  EXPECT_FLOAT_EQ(got[7], (values[1] + values[2] + values[3]) / 3.0F);
}

TEST(TrimmedMean, RefusesWhatDoesNotFit)
{
  EXPECT_REFUSAL(trimmed(random_models{4, 2}, 2), "`cut` has 2, expected at most 1 of 4 models");
  EXPECT_REFUSAL(trimmed(random_models{3, 2}, 2), "`cut` has 2, expected at most 1 of 3 models");
}
