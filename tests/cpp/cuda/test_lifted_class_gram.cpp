#include <gtest/gtest.h>

#include <cmath>

#include "lifted_class_gram.cu"
#include "numbers.hpp"

namespace {

using fedmed::cells;
using fedmed::grid_size;
using fedmed::grid_view;

struct problem {
  grid_size size;
  std::size_t stride;
  std::vector<grid_size> sides;
  std::size_t lifted;
  std::size_t projected;
};

constexpr std::size_t channels_each = 3;
constexpr int class_count = 2;

/// The largest distance to the kernel's sums, in √(gᵢᵢ gⱼⱼ), and to its rows.
std::pair<double, double> distance_to_the_kernel(const problem& given)
{
  const std::size_t channels = channels_each * given.sides.size();
  std::vector<std::vector<float>> values;
  std::vector<grid_view<const float>> maps;
  for (const grid_size& side : given.sides) {
    values.push_back(
      numbers::normal(channels_each * cells(side), 0.5F, static_cast<unsigned>(values.size())));
    maps.push_back({values.back().data(), channels_each, side});
  }
  const std::vector<float> mean = numbers::normal(channels), gain(channels, 0.5F);
  const std::vector<float> lift = numbers::normal(channels * given.lifted, 0.0F, 8);
  const std::vector<float> bias = numbers::normal(given.lifted, 0.0F, 9);
  const std::vector<float> projection = numbers::normal(channels * given.projected, 0.0F, 10);
  const fedmed::lift_weights weights{
    mean,
    gain,
    {lift.data(), channels, given.lifted},
    bias,
    {projection.data(), given.projected > 0 ? channels : 0, given.projected}};
  const fedmed::strided_grid grid{given.size, given.stride};
  const std::vector<std::int32_t> classes = numbers::whole(grid.rows(), -1, class_count - 1);
  const std::size_t width = weights.row_columns();
  const std::size_t triangle = fedmed::packed_size(width);
  const std::vector<std::int64_t> numbers{0, 3, static_cast<std::int64_t>(grid.rows()) - 1};
  std::vector<double> expected(class_count * triangle), got(expected);
  std::vector<float> expected_rows(numbers.size() * width), got_rows(expected_rows);
  fedmed::lifted_class_gram(maps,
                            weights,
                            grid,
                            classes,
                            {expected.data(), class_count, triangle},
                            {numbers, {expected_rows.data(), numbers.size(), width}},
                            1);
  fedmed::cuda::lifted_class_gram(maps,
                                  weights,
                                  grid,
                                  classes,
                                  {got.data(), class_count, triangle},
                                  {numbers, {got_rows.data(), numbers.size(), width}},
                                  fedmed::gram_mode::exact,
                                  nullptr);
  double sums = 0.0;
  for (std::size_t label = 0; label < class_count; ++label) {
    const double* wanted = expected.data() + label * triangle;
    const auto diagonal = [&](std::size_t i) { return wanted[fedmed::packed_diagonal(width, i)]; };
    for (std::size_t i = 0; i < width; ++i) {
      for (std::size_t j = i; j < width; ++j) {
        const std::size_t place = fedmed::packed_diagonal(width, i) + j - i;
        const double scale = std::sqrt(diagonal(i) * diagonal(j)) + 1e-6;
        sums = std::max(sums, std::abs(got[label * triangle + place] - wanted[place]) / scale);
      }
    }
  }
  double rows = 0.0;
  for (std::size_t n = 0; n < got_rows.size(); ++n) {
    rows = std::max(rows, static_cast<double>(std::abs(got_rows[n] - expected_rows[n])));
  }
  return {sums, rows};
}

void expect_near_the_kernel(const problem& given)
{
  const auto [sums, rows] = distance_to_the_kernel(given);
  EXPECT_LT(sums, 2e-5);  // rows are float32
  EXPECT_LT(rows, 1e-5);
}

TEST(LiftedClassGramTwin, Planes)
{
  const std::vector<grid_size> sides{{1, 24, 20}, {1, 12, 10}, {1, 5, 3}, {1, 1, 1}};
  expect_near_the_kernel({{1, 24, 20}, 2, sides, 20, 5});
  expect_near_the_kernel({{1, 24, 20}, 3, sides, 70, 0});
  expect_near_the_kernel({{1, 24, 20}, 1, sides, 0, 0});
}

TEST(LiftedClassGramTwin, Volumes)
{
  const std::vector<grid_size> sides{{6, 8, 10}, {3, 4, 5}, {2, 2, 2}};
  expect_near_the_kernel({{6, 8, 10}, 2, sides, 9, 4});
}

}  // namespace
