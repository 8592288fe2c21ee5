#include <gtest/gtest.h>

#include <cmath>

#include "class_gram.cu"
#include "numbers.hpp"

namespace {

using fedmed::gram_mode;

struct problem {
  std::size_t rows;
  std::size_t columns;
  int classes;
  float mean;
};

/// The largest distance to the kernel's exact sums, in √(gᵢᵢ gⱼⱼ).
double distance_to_the_kernel(const problem& given, gram_mode mode, int float64_ratio)
{
  emulation::float64_ratio = float64_ratio;
  const std::vector<float> rows = numbers::normal(given.rows * given.columns, given.mean);
  const std::vector<std::int32_t> classes = numbers::whole(given.rows, -1, given.classes - 1);
  const std::size_t triangle = fedmed::packed_size(given.columns);
  const auto class_count = static_cast<std::size_t>(given.classes);
  std::vector<double> got(class_count * triangle, 0.5), expected(class_count * triangle, 0.5);
  const fedmed::matrix_view<const float> view{rows.data(), given.rows, given.columns};
  fedmed::class_gram(view, classes, {expected.data(), class_count, triangle}, 1);
  fedmed::cuda::class_gram(view, classes, {got.data(), class_count, triangle}, mode, nullptr);
  double largest = 0.0;
  for (std::size_t label = 0; label < class_count; ++label) {
    const double* wanted = expected.data() + label * triangle;
    const auto diagonal = [&](std::size_t i) { return wanted[fedmed::packed_diagonal(given.columns, i)]; };
    for (std::size_t i = 0; i < given.columns; ++i) {
      for (std::size_t j = i; j < given.columns; ++j) {
        const std::size_t place = fedmed::packed_diagonal(given.columns, i) + j - i;
        const double scale = std::sqrt(diagonal(i) * diagonal(j));
        largest = std::max(largest, std::abs(got[label * triangle + place] - wanted[place]) / scale);
      }
    }
  }
  return largest;
}

TEST(ClassGramTwin, Exact)
{
  EXPECT_LT(distance_to_the_kernel({40, 3, 2, 1.0F}, gram_mode::exact, 2), 1e-13);
  EXPECT_LT(distance_to_the_kernel({29, 150, 1, 0.0F}, gram_mode::exact, 32), 1e-13);  // three tiles
  EXPECT_LT(distance_to_the_kernel({900, 20, 1, 5.0F}, gram_mode::exact, 2), 1e-13);   // several pieces
}

TEST(ClassGramTwin, FastIsExactWhereFloat64IsFast)
{
  EXPECT_LT(distance_to_the_kernel({40, 30, 2, 1000.0F}, gram_mode::fast, 2), 1e-13);
}

TEST(ClassGramTwin, FastKeepsItsBoundAtAnyMean)
{
  for (const float mean : {0.0F, 10.0F, 1000.0F}) {
    EXPECT_LT(distance_to_the_kernel({900, 40, 2, mean}, gram_mode::fast, 32), 1e-6);
    EXPECT_LT(distance_to_the_kernel({40, 150, 1, mean}, gram_mode::fast, 32), 1e-6);
  }
}

TEST(ClassGramTwin, SixteenBitRows)
{
  const std::vector<std::uint16_t> bits{0x3c00, 0xc000, 0x3800, 0x4200};  // float16: 1, -2, 0.5, 3
  const std::vector<std::int32_t> classes{0, 0};
  std::vector<double> gram(3, 0.0);
  const fedmed::matrix_view<const fedmed::float16> half{
    reinterpret_cast<const fedmed::float16*>(bits.data()), 2, 2};
  fedmed::cuda::class_gram(half, classes, {gram.data(), 1, 3}, gram_mode::exact, nullptr);
  EXPECT_EQ(gram, (std::vector<double>{1.25, -0.5, 13.0}));

  const std::vector<std::uint16_t> brain_bits{0x3f80, 0xc000, 0x3f00, 0x4040};  // bfloat16: the same
  const fedmed::matrix_view<const fedmed::bfloat16> brain{
    reinterpret_cast<const fedmed::bfloat16*>(brain_bits.data()), 2, 2};
  std::vector<double> again(3, 0.0);
  fedmed::cuda::class_gram(brain, classes, {again.data(), 1, 3}, gram_mode::exact, nullptr);
  EXPECT_EQ(again, gram);
}

TEST(ClassGramTwin, RefusesAsTheKernelDoes)
{
  const std::vector<float> rows(4);
  const std::vector<std::int32_t> classes{0, 5};
  std::vector<double> gram(3);
  EXPECT_THROW(
    fedmed::cuda::class_gram(
      fedmed::row_view{rows.data(), 2, 2}, classes, {gram.data(), 1, 3}, gram_mode::exact, nullptr),
    std::invalid_argument);
}

}  // namespace
