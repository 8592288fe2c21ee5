#include "fedmed/median.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "blocks.hpp"
#include "median_tile.hpp"

namespace fedmed {
namespace {

using median_tile::exchange;

const median_tile::loops& loops_of([[maybe_unused]] instruction_set set) noexcept
{
#if defined(__x86_64__)
  switch (set) {
    case instruction_set::avx512: return median_tile::avx512();
    case instruction_set::avx2: return median_tile::avx2();
    case instruction_set::baseline: break;
  }
#endif
  return median_tile::baseline();
}

/// Batcher's merge exchange without what ranks `first` to `last` do not need.
/// Source: Knuth, TAOCP 3, 5.2.2, algorithm M.
std::vector<exchange> network_for(std::size_t rows, std::size_t first, std::size_t last)
{
  std::vector<exchange> order;
  std::size_t top = 1;
  while (top * 2 < rows) {
    top *= 2;
  }
  for (std::size_t p = top; p > 0; p /= 2) {
    std::size_t r = 0;
    for (std::size_t q = top, d = p;; d = q - p, q /= 2, r = p) {
      for (std::size_t i = 0; i + d < rows; ++i) {
        if ((i & p) == r) {
          order.push_back({static_cast<std::uint16_t>(i), static_cast<std::uint16_t>(i + d), true, true});
        }
      }
      if (q == p) {
        break;
      }
    }
  }
  std::vector<bool> needed(rows, false);
  std::fill(needed.begin() + static_cast<std::ptrdiff_t>(first),
            needed.begin() + static_cast<std::ptrdiff_t>(last) + 1,
            true);
  std::vector<exchange> kept;
  for (auto step = order.rbegin(); step != order.rend(); ++step) {
    step->low_kept = needed[step->low];
    step->high_kept = needed[step->high];
    if (step->low_kept || step->high_kept) {
      needed[step->low] = needed[step->high] = true;
      kept.push_back(*step);
    }
  }
  std::reverse(kept.begin(), kept.end());
  return kept;
}

/// Middle of one or two, as NumPy takes it; a zero loses its sign.
float middle(float lower, float upper, bool one) noexcept
{
  return (one ? upper : (lower + upper) * 0.5F) + 0.0F;
}

}  // namespace

void median(
  const sources& models, const model_output& out, nan_policy nan, std::size_t threads, instruction_set set)
{
  const std::size_t count = models.count();
  const std::size_t first = (count - 1) / 2;
  const std::size_t last = count / 2;
  const median_tile::loops& loops = loops_of(set);
  const median_tile::median_run run = count <= median_tile::registers_cap ? loops.median[count] : nullptr;
  const std::vector<exchange> network =
    run == nullptr ? network_for(count, first, last) : std::vector<exchange>{};
  const block_kernel kernel{
    .name = "median",
    .in_place = run == nullptr,
    .block =
      [&](block_rows& rows, const stretch&, std::size_t padded, float* made) {
        if (run != nullptr) {
          return run(rows.rows(), padded, made);
        }
        const bool finite =
          loops.sort(rows.buffer(), rows.stride(), count, network.data(), network.size(), padded);
        loops.mean(rows.buffer(), rows.stride(), first, last, true, padded, made);
        return finite;
      },
    .element =
      [&](std::vector<float>& values) {
        std::sort(values.begin(), values.end());
        return middle(values[first], values[last], first == last);
      },
  };
  for_each_block(models, kernel, out, nan, threads);
}

void trimmed_mean(const sources& models,
                  std::size_t cut,
                  const model_output& out,
                  nan_policy nan,
                  std::size_t threads,
                  instruction_set set)
{
  check_trimmed_mean(models, cut);
  const std::size_t count = models.count();
  const std::size_t last = count - 1 - cut;
  const median_tile::loops& loops = loops_of(set);
  const median_tile::trimmed_run run = count <= median_tile::registers_cap ? loops.trimmed[count] : nullptr;
  const std::vector<exchange> network =
    run == nullptr ? network_for(count, 0, count - 1) : std::vector<exchange>{};
  const block_kernel kernel{
    .name = "trimmed_mean",
    .in_place = run == nullptr,
    .block =
      [&](block_rows& rows, const stretch&, std::size_t padded, float* made) {
        if (run != nullptr) {
          return run(rows.rows(), cut, padded, made);
        }
        const bool finite =
          loops.sort(rows.buffer(), rows.stride(), count, network.data(), network.size(), padded);
        loops.mean(rows.buffer(), rows.stride(), cut, last, false, padded, made);
        return finite;
      },
    .element =
      [&](std::vector<float>& values) {
        std::sort(values.begin(), values.end());
        double sum = 0.0;
        for (std::size_t rank = cut; rank <= last; ++rank) {
          sum += static_cast<double>(values[rank]);
        }
        return static_cast<float>(sum / static_cast<double>(last - cut + 1) + 0.0);
      },
  };
  for_each_block(models, kernel, out, nan, threads);
}

}  // namespace fedmed
