#include "fedmed/channel_moments.hpp"

#include <cmath>
#include <vector>

#include "check.hpp"

namespace {

struct result {
  std::vector<double> sums;
  std::vector<double> squares;
  bool operator==(const result&) const = default;
};

result moments(const std::vector<float>& values, std::size_t channels, std::size_t threads)
{
  result got{std::vector<double>(channels, -1.0), std::vector<double>(channels, -1.0)};
  fedmed::channel_moments(
    {values.data(), channels, values.size() / channels}, got.sums, got.squares, threads);
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

}  // namespace

TEST(is_exact_on_whole_numbers)
{
  for (const std::size_t length : {1UL, 15UL, 16UL, 17UL, 65535UL, 65536UL, 65537UL, 200000UL}) {
    const std::vector<float> values = ramp(3 * length);
    const result got = moments(values, 3, 2);
    for (std::size_t channel = 0; channel < 3; ++channel) {
      double sum = 0.0;
      double square = 0.0;
      for (std::size_t i = channel * length; i < (channel + 1) * length; ++i) {
        sum += static_cast<double>(values[i]);
        square += static_cast<double>(values[i]) * static_cast<double>(values[i]);
      }
      CHECK(got.sums[channel] == sum);
      CHECK(got.squares[channel] == square);
    }
  }
}

TEST(gives_the_same_bits_on_any_number_of_threads)
{
  std::vector<float> values = ramp(600000);
  for (float& value : values) {
    value = std::sin(value);
  }
  const result wanted = moments(values, 2, 1);
  for (const std::size_t threads : {2UL, 3UL, 16UL}) {
    CHECK(moments(values, 2, threads) == wanted);
  }
}

TEST(gives_zero_for_no_values)
{
  std::vector<double> sums(2, 5.0);
  std::vector<double> squares(2, 5.0);
  fedmed::channel_moments({nullptr, 2, 0}, sums, squares, 2);
  CHECK(sums == std::vector<double>(2, 0.0));
  CHECK(squares == std::vector<double>(2, 0.0));
}

TEST(refuses_what_does_not_fit)
{
  const std::vector<float> values(6);
  std::vector<double> two(2);
  std::vector<double> three(3);
  CHECK_THROWS(fedmed::channel_moments({values.data(), 2, 3}, two, three, 1),
               "have 2 and 3 elements, expected 2");
}
