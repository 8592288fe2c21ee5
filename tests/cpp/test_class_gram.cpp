#include "fedmed/class_gram.hpp"

#include <cmath>
#include <random>
#include <vector>

#include "refusal.hpp"

namespace {

using fedmed::instruction_set;

struct problem {
  std::size_t columns;
  std::size_t class_count;
  std::vector<float> rows;
  std::vector<std::int32_t> classes;

  problem(std::size_t row_count, std::size_t column_count, std::size_t class_total)
    : columns{column_count}, class_count{class_total}, rows(row_count * column_count), classes(row_count)
  {
    std::mt19937 random{static_cast<unsigned>(row_count * 1000 + column_count)};
    std::normal_distribution<float> value;
    std::uniform_int_distribution<std::int32_t> label{-1, static_cast<std::int32_t>(class_total) - 1};
    for (float& element : rows) {
      element = value(random);
    }
    for (std::int32_t& element : classes) {
      element = label(random);
    }
  }

  [[nodiscard]] std::vector<double> sums(std::size_t threads, instruction_set set) const
  {
    std::vector<double> grams(class_count * fedmed::packed_size(columns), 1.0);
    fedmed::class_gram({rows.data(), classes.size(), columns},
                       classes,
                       {grams.data(), class_count, fedmed::packed_size(columns)},
                       threads,
                       set);
    return grams;
  }

  /// The definition: one row after the other, one product after the other.
  [[nodiscard]] std::vector<double> reference() const
  {
    std::vector<double> grams(class_count * fedmed::packed_size(columns), 1.0);
    for (std::size_t n = 0; n < classes.size(); ++n) {
      if (classes[n] < 0) {
        continue;
      }
      double* out = grams.data() + static_cast<std::size_t>(classes[n]) * fedmed::packed_size(columns);
      for (std::size_t i = 0; i < columns; ++i) {
        for (std::size_t j = i; j < columns; ++j) {
          *out++ += static_cast<double>(rows[n * columns + i]) * static_cast<double>(rows[n * columns + j]);
        }
      }
    }
    return grams;
  }
};

constexpr instruction_set every_set[]{
  instruction_set::baseline, instruction_set::avx2, instruction_set::avx512};

}  // namespace

TEST(ClassGram, AgreesWithTheDefinition)
{
  for (const std::size_t columns : {1UL, 2UL, 7UL, 8UL, 12UL, 23UL, 24UL, 25UL, 48UL, 61UL, 97UL}) {
    for (const std::size_t rows : {1UL, 5UL, 191UL, 192UL, 193UL, 450UL}) {
      const problem one{rows, columns, 2};
      const std::vector<double> wanted = one.reference();
      const std::vector<double> got = one.sums(2, fedmed::chosen_instruction_set());
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        EXPECT_TRUE(std::abs(got[i] - wanted[i]) <= 1e-12 * static_cast<double>(rows) + 1e-12);
      }
    }
  }
}

TEST(ClassGram, GivesTheSameBitsOnAnyNumberOfThreadsAndAnyInstructionSet)
{
  const problem one{2500, 133, 3};
  const std::vector<double> wanted = one.sums(1, instruction_set::baseline);
  for (const instruction_set set : every_set) {
    for (const std::size_t threads : {1UL, 2UL, 3UL, 8UL}) {
      EXPECT_TRUE(!fedmed::is_supported(set) || one.sums(threads, set) == wanted);
    }
  }
}

TEST(ClassGram, IsExactOnWholeNumbers)
{
  problem one{1000, 30, 1};
  for (float& element : one.rows) {
    element = std::round(element * 100.0F);
  }
  for (const instruction_set set : every_set) {
    EXPECT_TRUE(!fedmed::is_supported(set) || one.sums(2, set) == one.reference());
  }
}

TEST(ClassGram, LeavesAClassAloneThatNoRowHas)
{
  problem one{40, 9, 3};
  for (std::int32_t& label : one.classes) {
    label = label == 1 ? 2 : label;
  }
  const std::vector<double> got = one.sums(2, fedmed::chosen_instruction_set());
  for (std::size_t i = 45; i < 90; ++i) {
    EXPECT_EQ(got[i], 1.0);
  }
}

TEST(ClassGram, TakesNoRows)
{
  const problem none{0, 4, 2};
  EXPECT_EQ(none.sums(2, fedmed::chosen_instruction_set()), std::vector<double>(20, 1.0));
}

TEST(ClassGram, RefusesWhatDoesNotFit)
{
  const std::vector<float> rows(6);
  std::vector<double> grams(12);
  const fedmed::matrix_view<const float> two_rows{rows.data(), 2, 3};
  const fedmed::matrix_view<double> two_grams{grams.data(), 2, 6};
  const std::vector<std::int32_t> good{0, 1};
  const std::vector<std::int32_t> high{0, 2};
  const std::vector<std::int32_t> low{-2, 0};
  const std::vector<std::int32_t> three{0, 0, 0};
  EXPECT_REFUSAL(fedmed::class_gram(two_rows, three, two_grams, 1),
                 "has 3 elements, expected one for each of the 2");
  EXPECT_REFUSAL(fedmed::class_gram(two_rows, high, two_grams, 1), "has 2 at index 1, expected -1 to 1");
  EXPECT_REFUSAL(fedmed::class_gram(two_rows, low, two_grams, 1), "has -2 at index 0, expected -1 to 1");
  EXPECT_REFUSAL(fedmed::class_gram(two_rows, good, {grams.data(), 2, 5}, 1), "has 5 columns, expected 6");
  EXPECT_REFUSAL(fedmed::class_gram({rows.data(), 2, 0}, good, two_grams, 1), "has 0 columns");
}
