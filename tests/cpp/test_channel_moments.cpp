#include "fedmed/channel_moments.hpp"

#include <cmath>
#include <vector>

#include "refusal.hpp"

namespace {

using fedmed::instruction_set;
using fedmed::map_view;

struct result {
  std::vector<double> sums;
  std::vector<double> squares;
  bool operator==(const result&) const = default;
};

result moments(const map_view& maps,
               std::size_t threads,
               instruction_set set = fedmed::chosen_instruction_set())
{
  result got{std::vector<double>(maps.channels, -1.0), std::vector<double>(maps.channels, -1.0)};
  fedmed::channel_moments(maps, got.sums, got.squares, threads, set);
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

std::vector<float> waves(std::size_t length)
{
  std::vector<float> values = ramp(length);
  for (float& value : values) {
    value = std::sin(value);
  }
  return values;
}

/// Whole numbers: any order gives the same sums.
result plain(const std::vector<float>& values, const map_view& maps)
{
  result wanted{std::vector<double>(maps.channels), std::vector<double>(maps.channels)};
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t channel = i / maps.values % maps.channels;
    const auto value = static_cast<double>(values[i]);
    wanted.sums[channel] += value;
    wanted.squares[channel] += value * value;
  }
  return wanted;
}

// Images, channels, values: around the lanes, the chunks and the vectors of every instruction set.
const std::vector<map_view> shapes{
  {nullptr, 1, 3, 1},
  {nullptr, 1, 3, 15},
  {nullptr, 2, 3, 16},
  {nullptr, 5, 40, 49},
  {nullptr, 1, 3, 65535},
  {nullptr, 1, 3, 65537},
  {nullptr, 2, 1, 200000},
  {nullptr, 1000, 1, 1},
  {nullptr, 1001, 3, 1},
  {nullptr, 77, 63, 1},
  {nullptr, 77, 65, 1},
  {nullptr, 9000, 64, 1},
};

constexpr instruction_set every_set[]{
  instruction_set::baseline, instruction_set::avx2, instruction_set::avx512};

}  // namespace

TEST(ChannelMoments, IsExactOnWholeNumbers)
{
  for (map_view maps : shapes) {
    const std::vector<float> values = ramp(maps.images * maps.channels * maps.values);
    maps.data = values.data();
    EXPECT_EQ(moments(maps, 2), plain(values, maps));
  }
}

TEST(ChannelMoments, GivesTheSameBitsOnAnyNumberOfThreads)
{
  const std::vector<float> values = waves(1200000);
  for (const map_view& maps : {map_view{values.data(), 1, 2, 600000},
                               {values.data(), 4, 100, 3000},
                               {values.data(), 12000, 100, 1}}) {
    const result wanted = moments(maps, 1);
    for (const std::size_t threads : {2UL, 3UL, 16UL}) {
      EXPECT_EQ(moments(maps, threads), wanted);
    }
  }
}

TEST(ChannelMoments, GivesTheSameBitsOnAnyInstructionSet)
{
  for (map_view maps : shapes) {
    const std::vector<float> values = waves(maps.images * maps.channels * maps.values);
    maps.data = values.data();
    const result wanted = moments(maps, 1, instruction_set::baseline);
    for (const instruction_set set : every_set) {
      EXPECT_TRUE(!fedmed::is_supported(set) || moments(maps, 1, set) == wanted);
    }
  }
}

TEST(ChannelMoments, GivesZeroForNoValues)
{
  for (const map_view& maps : {map_view{nullptr, 1, 2, 0}, {nullptr, 0, 2, 5}, {nullptr, 0, 2, 1}}) {
    EXPECT_TRUE((moments(maps, 2) == result{{0.0, 0.0}, {0.0, 0.0}}));
  }
  EXPECT_TRUE(moments({nullptr, 1, 0, 5}, 2).sums.empty());
}

TEST(ChannelMoments, RefusesWhatDoesNotFit)
{
  const std::vector<float> values(6);
  std::vector<double> two(2);
  std::vector<double> three(3);
  EXPECT_REFUSAL(fedmed::channel_moments({values.data(), 1, 2, 3}, two, three, 1),
                 "have 2 and 3 elements, expected 2");
}
