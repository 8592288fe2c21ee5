#include "fedmed/amplitude_moments.hpp"

#include <cmath>
#include <complex>
#include <numbers>
#include <vector>

#include "refusal.hpp"

namespace {

using fedmed::block_size;
using fedmed::instruction_set;
using fedmed::plane_view;

constexpr double floor_value = 1e-6;

struct result {
  std::vector<double> sums;
  std::vector<double> squares;
  bool operator==(const result&) const = default;
};

result moments(const plane_view& pixels,
               const block_size& block,
               std::size_t threads = 2,
               instruction_set set = fedmed::chosen_instruction_set())
{
  const std::size_t size = pixels.channels * block[0] * block[1];
  result got{std::vector<double>(size, -1.0), std::vector<double>(size, -1.0)};
  fedmed::amplitude_moments(pixels, block, floor_value, got.sums, got.squares, threads, set);
  return got;
}

/// Log-amplitude of one frequency of one slice, term by term.
double term_by_term(const plane_view& pixels, std::size_t channel, std::size_t slice, double u, double v)
{
  std::complex<double> total{};
  for (std::size_t row = 0; row < pixels.rows; ++row) {
    for (std::size_t column = 0; column < pixels.columns; ++column) {
      const double turns = u * static_cast<double>(row) / static_cast<double>(pixels.rows) +
                           v * static_cast<double>(column) / static_cast<double>(pixels.columns);
      const std::size_t place =
        ((channel * pixels.rows + row) * pixels.columns + column) * pixels.slices + slice;
      total += static_cast<double>(pixels.data[place]) * std::polar(1.0, -2.0 * std::numbers::pi * turns);
    }
  }
  return std::log(std::abs(total) / static_cast<double>(pixels.rows * pixels.columns) + floor_value);
}

std::vector<float> waves(std::size_t length)
{
  std::vector<float> values(length);
  for (std::size_t i = 0; i < length; ++i) {
    values[i] = std::sin(static_cast<float>(i % 1009));
  }
  return values;
}

constexpr instruction_set every_set[]{
  instruction_set::baseline, instruction_set::avx2, instruction_set::avx512};

}  // namespace

TEST(AmplitudeMoments, IsTheTransformTermByTerm)
{
  for (plane_view pixels : {plane_view{nullptr, 2, 12, 9, 1},
                            {nullptr, 1, 1, 5, 1},
                            {nullptr, 1, 7, 20, 3},
                            {nullptr, 2, 8, 6, 18}}) {
    const std::vector<float> values = waves(pixels.channels * pixels.rows * pixels.columns * pixels.slices);
    pixels.data = values.data();
    const block_size block{(pixels.rows - 1) / 2 * 2 + 1, 5};
    const result got = moments(pixels, block);
    for (std::size_t n = 0; n < got.sums.size(); ++n) {
      const auto u = static_cast<double>(n / block[1] % block[0]) - static_cast<double>(block[0] / 2);
      const auto v = static_cast<double>(n % block[1]) - 2.0;
      double sum = 0.0;
      double square = 0.0;
      for (std::size_t slice = 0; slice < pixels.slices; ++slice) {
        const double value = term_by_term(pixels, n / (block[0] * block[1]), slice, u, v);
        sum += value;
        square += value * value;
      }
      EXPECT_TRUE(std::abs(got.sums[n] - sum) < 1e-8);
      EXPECT_TRUE(std::abs(got.squares[n] - square) < 1e-7);
    }
  }
}

TEST(AmplitudeMoments, GivesTheSameBitsOnAnyThreadsAndInstructionSet)
{
  const std::vector<float> values = waves(3 * 40 * 50 * 70);
  for (const plane_view& pixels :
       {plane_view{values.data(), 3, 40, 50, 70}, {values.data(), 3, 280, 500, 1}}) {
    const result wanted = moments(pixels, {5, 7}, 1, instruction_set::baseline);
    for (const instruction_set set : every_set) {
      EXPECT_TRUE(!fedmed::is_supported(set) || moments(pixels, {5, 7}, 3, set) == wanted);
    }
  }
}

TEST(AmplitudeMoments, GivesZeroForNoSlices)
{
  EXPECT_TRUE((moments({nullptr, 1, 4, 4, 0}, {1, 1}) == result{{0.0}, {0.0}}));
}

TEST(AmplitudeMoments, RefusesWhatDoesNotFit)
{
  const std::vector<float> values(20);
  const plane_view pixels{values.data(), 1, 4, 5, 1};
  EXPECT_REFUSAL(moments(pixels, {2, 5}), "`block` has (2, 5), expected odd sides within (4, 5)");
  EXPECT_REFUSAL(moments(pixels, {5, 5}), "`block` has (5, 5), expected odd sides within (4, 5)");
  std::vector<double> three(3);
  std::vector<double> nine(9);
  EXPECT_REFUSAL(fedmed::amplitude_moments(pixels, {3, 3}, 1.0, three, nine, 1),
                 "have 3 and 9 elements, expected 9");
  EXPECT_REFUSAL(fedmed::amplitude_moments(pixels, {3, 3}, 0.0, nine, nine, 1), "expected above 0");
}
