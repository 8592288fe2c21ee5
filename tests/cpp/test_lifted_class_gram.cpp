#include "fedmed/lifted_class_gram.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "refusal.hpp"

namespace {

using fedmed::gram_mode;
using fedmed::instruction_set;

constexpr std::size_t lifted = 21;

std::vector<float> numbers(std::size_t count, unsigned seed)
{
  std::mt19937 random{seed};
  std::normal_distribution<float> value;
  std::vector<float> result(count);
  for (float& element : result) {
    element = value(random);
  }
  return result;
}

/// A fine map, a coarse one and one between, of a 3-D image.
struct problem {
  std::vector<float> first = numbers(3 * 9 * 20 * 30, 1);
  std::vector<float> second = numbers(5 * 3 * 7 * 8, 2);
  std::vector<float> third = numbers(4 * 9 * 10 * 15, 3);
  std::vector<fedmed::grid_view<const float>> maps{
    {first.data(), 3, {9, 20, 30}}, {second.data(), 5, {3, 7, 8}}, {third.data(), 4, {9, 10, 15}}};
  std::vector<float> mean = numbers(12, 4);
  std::vector<float> gain = numbers(12, 5);
  std::vector<float> lift = numbers(12 * lifted, 6);
  std::vector<float> bias = numbers(lifted, 7);
  std::vector<float> projection = numbers(12 * 7, 8);
  fedmed::lift_weights weights{mean, gain, {lift.data(), 12, lifted}, bias, {projection.data(), 12, 7}};
  fedmed::strided_grid grid{{9, 20, 30}, 2};
  std::vector<std::int32_t> classes = std::vector<std::int32_t>(grid.rows());
  std::size_t packed = fedmed::packed_size(weights.row_columns());

  problem()
  {
    for (std::size_t row = 0; row < classes.size(); ++row) {
      classes[row] = static_cast<std::int32_t>(row * 7 % 4) - 1;
    }
  }

  [[nodiscard]] std::vector<double> sums(std::size_t threads, instruction_set set, gram_mode mode) const
  {
    std::vector<double> grams(3 * packed);
    fedmed::lifted_class_gram(
      maps, weights, grid, classes, {grams.data(), 3, packed}, {{}, {nullptr, 0, 0}}, threads, set, mode);
    return grams;
  }
};

}  // namespace

TEST(lifted_class_gram, is_class_gram_of_its_rows)
{
  const problem one;
  const std::size_t columns = one.weights.row_columns();
  std::vector<std::int64_t> numbers_of(one.classes.size());
  for (std::size_t row = 0; row < numbers_of.size(); ++row) {
    numbers_of[row] = static_cast<std::int64_t>(row);
  }
  std::vector<float> rows(one.classes.size() * columns);
  std::vector<double> grams(3 * one.packed);
  fedmed::lifted_class_gram(one.maps,
                            one.weights,
                            one.grid,
                            one.classes,
                            {grams.data(), 3, one.packed},
                            {numbers_of, {rows.data(), numbers_of.size(), columns}},
                            1);
  std::vector<double> wanted(3 * one.packed);
  fedmed::class_gram(
    {rows.data(), numbers_of.size(), columns}, one.classes, {wanted.data(), 3, one.packed}, 1);
  for (std::size_t index = 0; index < wanted.size(); ++index) {
    ASSERT_NEAR(grams[index], wanted[index], 1e-9 * (1 + std::abs(wanted[index])));
  }
}

TEST(lifted_class_gram, gives_the_same_bits_on_any_number_of_threads)
{
  const problem one;
  for (const instruction_set set :
       {instruction_set::baseline, instruction_set::avx2, instruction_set::avx512}) {
    for (const gram_mode mode : {gram_mode::exact, gram_mode::fast}) {
      if (fedmed::is_supported(set)) {
        const std::vector<double> wanted = one.sums(1, set, mode);
        EXPECT_EQ(one.sums(2, set, mode), wanted);
        EXPECT_EQ(one.sums(7, set, mode), wanted);
      }
    }
  }
}

TEST(lifted_class_gram, agrees_among_instruction_sets_and_modes)
{
  const problem one;
  const std::vector<double> wanted = one.sums(1, instruction_set::baseline, gram_mode::exact);
  for (const instruction_set set :
       {instruction_set::baseline, instruction_set::avx2, instruction_set::avx512}) {
    for (const gram_mode mode : {gram_mode::exact, gram_mode::fast}) {
      const std::vector<double> got = fedmed::is_supported(set) ? one.sums(2, set, mode) : wanted;
      for (std::size_t index = 0; index < wanted.size(); ++index) {
        ASSERT_NEAR(got[index], wanted[index], 1e-2);
      }
    }
  }
}

TEST(lifted_class_gram, refuses_what_does_not_fit)
{
  const problem one;
  std::vector<double> grams(3 * one.packed);
  const fedmed::matrix_view<double> out{grams.data(), 3, one.packed};
  const fedmed::kept_rows none{{}, {nullptr, 0, 0}};
  const auto with = [&](const fedmed::lift_weights& weights, std::span<const std::int32_t> classes) {
    fedmed::lifted_class_gram(one.maps, weights, one.grid, classes, out, none, 1);
  };
  fedmed::lift_weights narrow = one.weights;
  narrow.mean = narrow.mean.first(11);
  EXPECT_REFUSAL(with(narrow, one.classes), "`mean` has 11, expected 12");
  EXPECT_REFUSAL(with(one.weights, std::span{one.classes}.first(9)), "`classes` has 9, expected 600");
  EXPECT_REFUSAL(fedmed::lifted_class_gram({}, one.weights, one.grid, one.classes, out, none, 1),
                 "`maps` is empty");
  const std::vector<std::int64_t> twice{4, 4};
  std::vector<float> rows(2 * one.weights.row_columns());
  const fedmed::kept_rows kept{twice, {rows.data(), 2, one.weights.row_columns()}};
  EXPECT_REFUSAL(fedmed::lifted_class_gram(one.maps, one.weights, one.grid, one.classes, out, kept, 1),
                 "`picked` has 4, expected ascending rows below 600");
}
