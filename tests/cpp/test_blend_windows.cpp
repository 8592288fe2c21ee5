#include "fedmed/blend_windows.hpp"

#include <cmath>
#include <vector>

#include "refusal.hpp"

namespace {

using fedmed::grid_size;

struct canvas {
  std::size_t channels;
  grid_size size;
  std::vector<float> total;
  std::vector<float> weight;

  canvas(std::size_t channel_count, const grid_size& sides)
    : channels{channel_count},
      size{sides},
      total(channel_count * fedmed::cells(sides)),
      weight(fedmed::cells(sides))
  {
  }

  void blend(const std::vector<float>& window,
             const std::vector<float>& importance,
             const grid_size& sides,
             const grid_size& start,
             std::size_t threads = 2)
  {
    fedmed::blend_windows({total.data(), channels, size},
                          {weight.data(), 1, size},
                          {window.data(), channels, sides},
                          {importance.data(), 1, sides},
                          start,
                          threads);
  }
};

std::vector<float> waves(std::size_t length, float phase)
{
  std::vector<float> values(length);
  for (std::size_t i = 0; i < length; ++i) {
    values[i] = std::sin(static_cast<float>(i) + phase);
  }
  return values;
}

}  // namespace

TEST(BlendWindows, AddsAWindowWhereItStands)
{
  canvas one{1, {1, 2, 3}};
  one.blend({1, 2, 3, 4}, {1, 1, 2, 2}, {1, 2, 2}, {0, 0, 1});
  EXPECT_EQ(one.total, (std::vector<float>{0, 1, 2, 0, 6, 8}));
  EXPECT_EQ(one.weight, (std::vector<float>{0, 1, 1, 0, 2, 2}));
}

TEST(BlendWindows, LeavesOutWhatHangsOverTheEnd)
{
  canvas one{2, {2, 2, 2}};
  one.blend(std::vector<float>(2 * 27, 2.0F), std::vector<float>(27, 0.5F), {3, 3, 3}, {1, 0, 1});
  EXPECT_EQ(one.weight, (std::vector<float>{0, 0, 0, 0, 0, 0.5F, 0, 0.5F}));
  EXPECT_EQ(one.total, (std::vector<float>{0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1}));
}

TEST(BlendWindows, GivesTheSameBitsOnAnyNumberOfThreads)
{
  const grid_size sides{20, 60, 60};
  const std::vector<float> window = waves(4 * fedmed::cells(sides), 0.0F);
  const std::vector<float> importance = waves(fedmed::cells(sides), 1.0F);
  canvas one{4, {30, 64, 70}};
  canvas many = one;
  for (const grid_size& start : {grid_size{0, 0, 0}, grid_size{5, 4, 10}, grid_size{25, 30, 30}}) {
    one.blend(window, importance, sides, start, 1);
    many.blend(window, importance, sides, start, 3);
  }
  EXPECT_EQ(one.total, many.total);
  EXPECT_EQ(one.weight, many.weight);
}

TEST(BlendWindows, RefusesWhatDoesNotFit)
{
  std::vector<float> memory(64);
  const fedmed::grid_view<float> total{memory.data(), 2, {1, 2, 3}};
  const fedmed::grid_view<float> weight{memory.data(), 1, {1, 2, 3}};
  const fedmed::grid_view<const float> window{memory.data(), 2, {1, 2, 2}};
  const fedmed::grid_view<const float> importance{memory.data(), 1, {1, 2, 2}};
  EXPECT_REFUSAL(
    fedmed::blend_windows(total, {memory.data(), 1, {1, 3, 2}}, window, importance, {0, 0, 0}, 1),
    "`weight` has sides (1, 3, 2), expected (1, 2, 3)");
  EXPECT_REFUSAL(fedmed::blend_windows(total, weight, window, {memory.data(), 1, {1, 2, 1}}, {0, 0, 0}, 1),
                 "`importance` has sides (1, 2, 1), expected (1, 2, 2)");
  EXPECT_REFUSAL(
    fedmed::blend_windows(total, weight, {memory.data(), 1, {1, 2, 2}}, importance, {0, 0, 0}, 1),
    "`window` has 1 channels, expected 2");
  EXPECT_REFUSAL(fedmed::blend_windows(total, weight, window, importance, {0, 2, 0}, 1),
                 "`start` has (0, 2, 0), expected a cell of a grid of (1, 2, 3)");
}
