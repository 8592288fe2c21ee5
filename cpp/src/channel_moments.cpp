#include "fedmed/channel_moments.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "fedmed/fork_join.hpp"

namespace fedmed {
namespace {

// Both are part of the definition: other numbers give other last bits.
constexpr std::size_t chunk_length = std::size_t{1} << 16;
constexpr std::size_t lanes = 16;
// Values below which a second thread costs more than it brings.
constexpr std::size_t work_for_threads = std::size_t{1} << 18;

struct moments {
  double sum = 0.0;
  double square = 0.0;
};

/// Value n goes to lane n mod `lanes`, so that additions need not wait for each other.
moments chunk_moments(const float* values, std::size_t length) noexcept
{
  std::array<double, lanes> sum{};
  std::array<double, lanes> square{};
  const auto add = [&](std::size_t lane, float value) {
    const double exact = static_cast<double>(value);
    sum[lane] += exact;
    square[lane] += exact * exact;
  };
  const std::size_t whole = length - length % lanes;
  for (std::size_t n = 0; n < whole; n += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      add(lane, values[n + lane]);
    }
  }
  for (std::size_t n = whole; n < length; ++n) {
    add(n - whole, values[n]);
  }
  moments total;
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    total.sum += sum[lane];
    total.square += square[lane];
  }
  return total;
}

}  // namespace

void channel_moments(matrix_view<const float> maps,
                     std::span<double> sums,
                     std::span<double> squares,
                     std::size_t threads)
{
  check_channel_moments(maps, sums, squares);
  const std::size_t chunks = (maps.columns + chunk_length - 1) / chunk_length;
  std::vector<moments> parts(maps.rows * chunks);
  const std::size_t used = maps.rows * maps.columns < work_for_threads ? 1 : threads;
  fork_join(used, parts.size(), [&](std::size_t task) {
    const std::size_t first = task % chunks * chunk_length;
    parts[task] =
      chunk_moments(maps.row(task / chunks) + first, std::min(chunk_length, maps.columns - first));
  });
  for (std::size_t channel = 0; channel < maps.rows; ++channel) {
    moments total;
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
      total.sum += parts[channel * chunks + chunk].sum;
      total.square += parts[channel * chunks + chunk].square;
    }
    sums[channel] = total.sum;
    squares[channel] = total.square;
  }
}

}  // namespace fedmed
