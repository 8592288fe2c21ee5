#include "fedmed/weighted_mean.hpp"

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

std::vector<std::int64_t> weights_of(std::size_t count)
{
  std::vector<std::int64_t> weights;
  for (std::size_t k = 0; k < count; ++k) {
    weights.push_back(static_cast<std::int64_t>(10 + 37 * k % 91));
  }
  return weights;
}

std::vector<float> mean(const random_models& models,
                        const std::vector<std::int64_t>& weights,
                        std::size_t threads = 2,
                        instruction_set set = fedmed::chosen_instruction_set(),
                        nan_policy nan = nan_policy::refuse)
{
  std::vector<float> out(models.values.front().size(), -1.0F);
  fedmed::weighted_mean(models.sources(), weights, into(out), nan, threads, set);
  return out;
}

struct clipped {
  std::vector<float> mean;
  std::vector<double> norms;
  bool operator==(const clipped&) const = default;
};

clipped clip(const random_models& models, double max_norm, std::size_t threads, instruction_set set)
{
  const random_models reference{1, models.values.front().size()};
  clipped got{std::vector<float>(models.values.front().size()), std::vector<double>(models.values.size())};
  fedmed::clip_norm(models.sources(),
                    weights_of(models.values.size()),
                    reference.sources(),
                    max_norm,
                    got.norms,
                    into(got.mean),
                    threads,
                    set);
  return got;
}

}  // namespace

TEST(WeightedMean, AgreesWithTheDefinition)
{
  for (const std::size_t count : {1UL, 2UL, 10UL, 16UL, 17UL, 70UL}) {
    for (const std::size_t length : {1UL, 15UL, 16UL, 100UL, 5000UL}) {
      const random_models models{count, length};
      const std::vector<std::int64_t> weights = weights_of(count);
      const std::vector<float> got = mean(models, weights);
      for (std::size_t i = 0; i < length; ++i) {
        long double sum = 0.0L;
        long double total = 0.0L;
        for (std::size_t k = 0; k < count; ++k) {
          sum += static_cast<long double>(weights[k]) * static_cast<long double>(models.values[k][i]);
          total += static_cast<long double>(weights[k]);
        }
        EXPECT_EQ(got[i], static_cast<float>(sum / total));
      }
    }
  }
}

TEST(WeightedMean, GivesTheSameBitsOnAnyNumberOfThreadsAndAnyInstructionSet)
{
  for (const std::size_t count : {7UL, 40UL}) {
    const random_models models{count, 70001};
    EXPECT_TRUE(same_everywhere([&](std::size_t threads, instruction_set set) {
      return mean(models, weights_of(count), threads, set);
    }));
  }
}

TEST(WeightedMean, GivesTheSameBitsInAnyOrder)
{
  random_models models{9, 3000};
  for (std::size_t i = 0; i < 3000; ++i) {
    models.values[i % 9][i] *= std::ldexp(1.0F, static_cast<int>(i % 80) - 40);
  }
  std::vector<std::int64_t> weights = weights_of(9);
  const std::vector<float> wanted = mean(models, weights);
  for (int turn = 0; turn < 9; ++turn) {
    std::rotate(models.values.begin(), models.values.begin() + 2, models.values.end());
    std::rotate(weights.begin(), weights.begin() + 2, weights.end());
    EXPECT_EQ(mean(models, weights), wanted);
  }
}

TEST(WeightedMean, TakesTheLargestAndTheSmallestNumbers)
{
  random_models models{3, 16};
  for (std::size_t k = 0; k < 3; ++k) {
    models.values[k][0] = std::numeric_limits<float>::max();
    models.values[k][1] = std::numeric_limits<float>::denorm_min();
    models.values[k][2] = -0.0F;
  }
  const std::vector<float> got = mean(models, {1, (1 << 29) - 1, 5});
  EXPECT_EQ(got[0], std::numeric_limits<float>::max());
  EXPECT_EQ(got[1], std::numeric_limits<float>::denorm_min());
  EXPECT_EQ(got[2], 0.0F);
}

TEST(WeightedMean, PropagatesWhatIsNotFiniteAndLeavesTheRestAlone)
{
  random_models models{5, 40000};
  const std::vector<float> clean = mean(models, weights_of(5));
  models.values[3][100] = std::numeric_limits<float>::quiet_NaN();
  models.values[1][101] = infinity;
  models.values[2][39999] = infinity;
  models.values[4][39999] = -infinity;
  const std::vector<float> got =
    mean(models, weights_of(5), 2, fedmed::chosen_instruction_set(), nan_policy::propagate);
  EXPECT_TRUE(std::isnan(got[100]));
  EXPECT_EQ(got[101], infinity);
  EXPECT_TRUE(std::isnan(got[39999]));
  for (std::size_t i = 0; i < 39999; ++i) {
    EXPECT_TRUE(got[i] == clean[i] || i == 100 || i == 101);
  }
  EXPECT_REFUSAL(mean(models, weights_of(5)), "`sources[3]` at index 100 has nan, expected finite values");
}

TEST(WeightedMean, RefusesWhatDoesNotFit)
{
  const random_models models{2, 4};
  EXPECT_REFUSAL(mean(models, {1}), "`weights` has 1 elements, expected 2");
  EXPECT_REFUSAL(mean(models, {1, -1}), "`weights` has -1, expected 0 to 536870911");
  EXPECT_REFUSAL(mean(models, {1, 1 << 29}), "`weights` has 536870912, expected 0 to 536870911");
  EXPECT_REFUSAL(mean(models, {0, 0}), "`weights` has sum 0, expected at least 1");
}

TEST(ClipNorm, AgreesWithTheDefinition)
{
  for (const std::size_t count : {1UL, 6UL, 30UL}) {
    const random_models models{count, 5003};
    const random_models reference{1, 5003};
    const std::vector<std::int64_t> weights = weights_of(count);
    const clipped got = clip(models, 90.0, 2, fedmed::chosen_instruction_set());
    std::vector<double> wanted(5003, 0.0);
    double total = 0.0;
    for (std::size_t k = 0; k < count; ++k) {
      double square = 0.0;
      const auto difference = [&](std::size_t i) {
        return static_cast<double>(models.values[k][i]) - static_cast<double>(reference.values[0][i]);
      };
      for (std::size_t i = 0; i < 5003; ++i) {
        square += difference(i) * difference(i);
      }
      EXPECT_NEAR(got.norms[k], std::sqrt(square), 1e-6 * std::sqrt(square));
      const auto weight = static_cast<double>(weights[k]);
      for (std::size_t i = 0; i < 5003; ++i) {
        wanted[i] += weight * std::min(1.0, 90.0 / std::sqrt(square)) * difference(i);
      }
      total += weight;
    }
    for (std::size_t i = 0; i < 5003; ++i) {
      EXPECT_NEAR(got.mean[i], static_cast<double>(reference.values[0][i]) + wanted[i] / total, 2e-6);
    }
  }
}

TEST(ClipNorm, GivesTheSameBitsOnAnyNumberOfThreadsAndAnyInstructionSet)
{
  const random_models models{7, 70001};
  EXPECT_TRUE(same_everywhere(
    [&](std::size_t threads, instruction_set set) { return clip(models, 100.0, threads, set); }));
}

TEST(ClipNorm, KeepsTheOthersWhereOneIsFarAway)
{
  random_models models{3, 64};
  const random_models reference{1, 64};
  models.values[0].assign(64, 1e30F);
  models.values[1] = models.values[2] = reference.values[0];
  models.values[1][5] += 1.0F;
  const clipped got = clip(models, 2.0, 1, fedmed::chosen_instruction_set());
  const std::vector<std::int64_t> weights = weights_of(3);
  const float share =
    static_cast<float>(weights[1]) / static_cast<float>(weights[0] + weights[1] + weights[2]);
  EXPECT_NEAR(got.mean[5] - reference.values[0][5], share, 1e-5);
}

TEST(ClipNorm, RefusesWhatDoesNotFit)
{
  random_models models{2, 4};
  EXPECT_REFUSAL(clip(models, 0.0, 1, instruction_set::baseline), "`max_norm` has 0.000000, expected");
  EXPECT_REFUSAL(clip(models, infinity, 1, instruction_set::baseline), "`max_norm` has inf, expected");
  models.values[1][2] = infinity;
  EXPECT_REFUSAL(clip(models, 1.0, 1, instruction_set::baseline),
                 "`sources[1]` at index 2 has inf, expected");
}
