#include "fedmed/argmax_slab.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "refusal.hpp"

namespace {

using fedmed::grid_size;
using fedmed::instruction_set;

std::vector<std::uint8_t> labels(const std::vector<float>& total,
                                 std::size_t channels,
                                 const grid_size& size,
                                 const grid_size& start,
                                 const grid_size& part,
                                 std::size_t threads = 2,
                                 instruction_set set = fedmed::chosen_instruction_set())
{
  std::vector<std::uint8_t> out(fedmed::cells(part), 77);
  fedmed::argmax_slab({total.data(), channels, size}, start, {out.data(), 1, part}, threads, set);
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

constexpr instruction_set every_set[]{
  instruction_set::baseline, instruction_set::avx2, instruction_set::avx512};

}  // namespace

TEST(ArgmaxSlab, TakesTheFirstOfTheLargest)
{
  EXPECT_TRUE(
    (labels({1, 5, 2, 3, 5, 2}, 2, {1, 1, 3}, {0, 0, 0}, {1, 1, 3}) == std::vector<std::uint8_t>{1, 0, 0}));
}

TEST(ArgmaxSlab, TakesNoNan)
{
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float low = -std::numeric_limits<float>::infinity();
  EXPECT_TRUE((labels({nan, nan, low, 1, nan, low}, 2, {1, 1, 3}, {0, 0, 0}, {1, 1, 3}) ==
               std::vector<std::uint8_t>{1, 0, 0}));
}

TEST(ArgmaxSlab, LabelsAPartOfTheGrid)
{
  const grid_size size{4, 9, 33};
  const std::vector<float> total = waves(3 * fedmed::cells(size));
  const std::vector<std::uint8_t> whole = labels(total, 3, size, {0, 0, 0}, size);
  for (const grid_size& part : {grid_size{2, 3, 20}, grid_size{2, 3, 33}, grid_size{1, 0, 5}}) {
    const grid_size start{1, 2, 33 - part[2]};
    const std::vector<std::uint8_t> got = labels(total, 3, size, start, part);
    for (std::size_t i = 0; i < got.size(); ++i) {
      const std::size_t plane = start[0] + i / (part[1] * part[2]);
      const std::size_t row = start[1] + i / part[2] % part[1];
      EXPECT_TRUE(got[i] == whole[(plane * size[1] + row) * size[2] + start[2] + i % part[2]]);
    }
  }
}

TEST(ArgmaxSlab, GivesTheSameLabelsOnAnyThreadsAndInstructionSet)
{
  const grid_size size{7, 101, 103};
  const std::vector<float> total = waves(5 * fedmed::cells(size));
  const std::vector<std::uint8_t> wanted =
    labels(total, 5, size, {0, 0, 0}, size, 1, instruction_set::baseline);
  for (const instruction_set set : every_set) {
    EXPECT_TRUE(!fedmed::is_supported(set) || labels(total, 5, size, {0, 0, 0}, size, 3, set) == wanted);
  }
}

TEST(ArgmaxSlab, RefusesWhatDoesNotFit)
{
  const std::vector<float> total(6);
  EXPECT_REFUSAL(labels(total, 0, {1, 2, 3}, {0, 0, 0}, {1, 2, 3}),
                 "`total` has 0 channels, expected 1 to 256");
  EXPECT_REFUSAL(labels(total, 1, {1, 2, 3}, {0, 1, 0}, {1, 2, 3}),
                 "`out` has sides (1, 2, 3) from (0, 1, 0), expected a part of a grid of (1, 2, 3)");
  EXPECT_REFUSAL(labels(total, 1, {1, 2, 3}, {0, 0, 4}, {1, 2, 0}),
                 "`out` has sides (1, 2, 0) from (0, 0, 4), expected a part of a grid of (1, 2, 3)");
}
