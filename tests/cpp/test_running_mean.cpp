#include "fedmed/running_mean.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "models.hpp"
#include "refusal.hpp"

namespace {

using fedmed::instruction_set;

void add(std::vector<std::int64_t>& sums,
         const std::vector<float>& values,
         std::int64_t weight,
         std::size_t threads = 2,
         instruction_set set = fedmed::chosen_instruction_set())
{
  const fedmed::sources model{
    {reinterpret_cast<const std::byte*>(values.data())}, fedmed::element_type::float32, values.size()};
  fedmed::running_mean_add(sums, model, weight, 8.0, threads, set);
}

}  // namespace

TEST(RunningMean, AgreesWithTheDefinition)
{
  const random_models models{6, 5001};
  std::vector<std::int64_t> sums(5001, 0);
  double total = 0.0;
  std::vector<double> wanted(5001, 0.0);
  for (std::size_t k = 0; k < 6; ++k) {
    add(sums, models.values[k], static_cast<std::int64_t>(100 + k));
    total += static_cast<double>(100 + k);
    for (std::size_t i = 0; i < 5001; ++i) {
      wanted[i] += static_cast<double>(100 + k) * static_cast<double>(models.values[k][i]);
    }
  }
  std::vector<float> out(5001);
  fedmed::running_mean_finish(sums, 8.0, static_cast<std::int64_t>(total), out, 2);
  for (std::size_t i = 0; i < 5001; ++i) {
    EXPECT_NEAR(out[i], wanted[i] / total, 1e-6);
  }
}

TEST(RunningMean, ForgetsWhatIsTakenAwayInAnyOrder)
{
  const random_models models{5, 3001};
  std::vector<std::int64_t> without(3001, 0);
  std::vector<std::int64_t> with(3001, 0);
  for (const std::size_t k : {0UL, 1UL, 2UL, 4UL}) {
    add(without, models.values[k], static_cast<std::int64_t>(k + 1));
  }
  for (const std::size_t k : {4UL, 3UL, 1UL, 2UL, 0UL}) {
    add(with, models.values[k], static_cast<std::int64_t>(k + 1));
  }
  EXPECT_NE(with, without);
  add(with, models.values[3], -4);
  EXPECT_EQ(with, without);
}

TEST(RunningMean, GivesTheSameBitsOnAnyNumberOfThreadsAndAnyInstructionSet)
{
  const random_models models{1, 300001};
  EXPECT_TRUE(same_everywhere([&](std::size_t threads, instruction_set set) {
    std::vector<std::int64_t> sums(300001, 0);
    add(sums, models.values[0], 123457, threads, set);
    return sums;
  }));
}

TEST(RunningMean, RefusesAndThenIsAsItWas)
{
  std::vector<float> values(300000, 1.0F);
  values[200000] = -8.5F;
  values[299999] = std::numeric_limits<float>::quiet_NaN();
  std::vector<std::int64_t> sums(300000, 3);
  EXPECT_REFUSAL(add(sums, values, 1), "`values` has one beyond 8.000000 at index 200000, expected");
  values[200000] = 1.0F;
  EXPECT_REFUSAL(add(sums, values, 1), "at index 299999, expected a number within it");
  values[299999] = 1.0F;
  EXPECT_REFUSAL(add(sums, values, 1 << 29), "`weight` has 536870912, expected less than 536870912");
  EXPECT_EQ(sums, std::vector<std::int64_t>(300000, 3));
  std::vector<std::int64_t> short_sums(3, 0);
  EXPECT_REFUSAL(add(short_sums, values, 1), "`values` has 300000 elements, expected 3");
  std::vector<float> out(3);
  EXPECT_REFUSAL(fedmed::running_mean_finish(short_sums, 8.0, 0, out, 1),
                 "has weight 0, expected at least 1");
}
