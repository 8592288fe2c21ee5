#include "fedmed/weighted_mean.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "blocks.hpp"
#include "fedmed/pairwise_distances.hpp"
#include "weighted_mean_tile.hpp"

namespace fedmed {
namespace {

weighted_mean_tile::run run_of([[maybe_unused]] instruction_set set) noexcept
{
#if defined(__x86_64__)
  switch (set) {
    case instruction_set::avx512: return weighted_mean_tile::avx512();
    case instruction_set::avx2: return weighted_mean_tile::avx2();
    case instruction_set::baseline: break;
  }
#endif
  return weighted_mean_tile::baseline();
}

// Elements of the reference that are read at once.
constexpr std::size_t base_length = 2048;

}  // namespace

void weighted_mean(const sources& models,
                   std::span<const std::int64_t> weights,
                   const model_output& out,
                   nan_policy nan,
                   std::size_t threads,
                   instruction_set set)
{
  check_weighted_mean(models, weights);
  std::uint64_t sum = 0;
  for (const std::int64_t weight : weights) {
    sum += static_cast<std::uint64_t>(weight);
  }
  const std::vector<double> factors(weights.begin(), weights.end());
  const auto total = static_cast<double>(sum);
  const auto magnitude = static_cast<int>(std::bit_width(sum));
  const weighted_mean_tile::run run = run_of(set);
  const block_kernel kernel{
    .name = "weighted_mean",
    .block =
      [&](block_rows& rows, const stretch&, std::size_t padded, float* made) {
        return run(rows.rows(), nullptr, factors.data(), factors.size(), magnitude, total, padded, made);
      },
    .element =
      [&](std::vector<float>& values) {
        double whole = 0.0;
        for (std::size_t k = 0; k < values.size(); ++k) {
          whole += factors[k] * static_cast<double>(values[k]);
        }
        return static_cast<float>(whole / total);
      },
  };
  for_each_block(models, kernel, out, nan, threads);
}

void clip_norm(const sources& models,
               std::span<const std::int64_t> weights,
               const sources& reference,
               double max_norm,
               std::span<double> norms,
               const model_output& out,
               std::size_t threads,
               instruction_set set)
{
  check_clip_norm(models, weights, reference, max_norm, norms);
  distances_to(models, reference, norms, threads, set);
  std::vector<double> factors;
  std::uint64_t sum = 0;
  for (std::size_t k = 0; k < weights.size(); ++k) {
    sum += static_cast<std::uint64_t>(weights[k]);
    factors.push_back(static_cast<double>(weights[k]) * std::min(1.0, max_norm / norms[k]));
  }
  const weighted_mean_tile::run run = run_of(set);
  const block_kernel kernel{
    .name = "clip_norm",
    .block =
      [&](block_rows& rows, const stretch& block, std::size_t padded, float* made) {
        std::array<const void*, sources_cap> ahead;
        std::copy(rows.rows(), rows.rows() + models.count(), ahead.begin());
        bool finite = true;
        for (std::size_t at = 0; at < padded; at += base_length) {
          std::array<float, base_length> base{};
          reference.read_floats(
            block.part, 0, block.first + at, std::min(base_length, block.count - at), base.data());
          finite &= run(ahead.data(),
                        base.data(),
                        factors.data(),
                        factors.size(),
                        static_cast<int>(std::bit_width(models.count())),
                        static_cast<double>(sum),
                        std::min(base_length, padded - at),
                        made + at);
          for (std::size_t k = 0; k < models.count(); ++k) {
            ahead[k] = static_cast<const std::byte*>(ahead[k]) + base_length * sizeof(float);
          }
        }
        return finite;
      },
    // Not called: the norms have refused what is not finite.
    .element = [](std::vector<float>&) { return 0.0F; },
  };
  for_each_block(models, kernel, out, nan_policy::refuse, threads);
  reference.check_read();
}

}  // namespace fedmed
