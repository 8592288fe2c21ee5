#include "fedmed/running_mean.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>

#include "elements.hpp"
#include "fedmed/fork_join.hpp"
#include "running_mean_tile.hpp"

namespace fedmed {
namespace {

constexpr std::size_t block_length = 2048;
constexpr std::size_t task_length = std::size_t{1} << 16;
// Values below which a second thread costs more than it brings.
constexpr std::size_t work_for_threads = std::size_t{1} << 18;

running_mean_tile::add add_of([[maybe_unused]] instruction_set set) noexcept
{
#if defined(__x86_64__)
  switch (set) {
    case instruction_set::avx512: return running_mean_tile::avx512();
    case instruction_set::avx2: return running_mean_tile::avx2();
    case instruction_set::baseline: break;
  }
#endif
  return running_mean_tile::baseline();
}

/// Calls `each(first, values, count)` for blocks of an array, on several threads.
template <typename EachT>
void for_each_values(const source_part& part, std::size_t threads, const EachT& each)
{
  const std::size_t length = part.tensor.length;
  fork_join(
    length < work_for_threads ? 1 : threads, (length + task_length - 1) / task_length, [&](std::size_t task) {
      std::array<float, block_length> values;
      for (std::size_t first = task * task_length; first < std::min(length, (task + 1) * task_length);
           first += block_length) {
        const std::size_t count = std::min(block_length, length - first);
        widen(
          part.tensor.type, part.values.front() + first * size_of(part.tensor.type), count, values.data());
        each(first, values.data(), count);
      }
    });
}

}  // namespace

void running_mean_add(std::span<std::int64_t> sums,
                      const sources& model,
                      std::int64_t weight,
                      double bound,
                      std::size_t threads,
                      instruction_set set)
{
  check_running_mean(sums, model, weight, bound);
  const source_part& part = model.parts().front();
  std::atomic<std::size_t> wrong = sums.size();
  for_each_values(part, threads, [&](std::size_t first, const float* values, std::size_t count) {
    bool good = true;
    for (std::size_t i = 0; i < count; ++i) {
      good &= std::abs(static_cast<double>(values[i])) <= bound;
    }
    for (std::size_t i = 0; !good && i < count; ++i) {
      if (!(std::abs(static_cast<double>(values[i])) <= bound)) {
        std::size_t before = wrong;
        while (first + i < before && !wrong.compare_exchange_weak(before, first + i)) {
        }
        break;
      }
    }
  });
  FEDMED_EXPECTS(wrong == sums.size(),
                 "running_mean: `values` has one beyond " + std::to_string(bound) + " at index " +
                   std::to_string(wrong) + ", expected a number within it");
  const running_mean_tile::add add = add_of(set);
  const double factor = static_cast<double>(weight) / quantum_of(bound);
  for_each_values(part, threads, [&](std::size_t first, const float* values, std::size_t count) {
    add(values, factor, count, sums.data() + first);
  });
}

void running_mean_finish(std::span<const std::int64_t> sums,
                         double bound,
                         std::int64_t total,
                         std::span<float> out,
                         std::size_t threads)
{
  FEDMED_EXPECTS(out.size() == sums.size(),
                 "running_mean: `out` has " + std::to_string(out.size()) + " elements, expected " +
                   std::to_string(sums.size()));
  FEDMED_EXPECTS(total > 0, "running_mean: has weight " + std::to_string(total) + ", expected at least 1");
  const double quantum = quantum_of(bound);
  const std::size_t used = sums.size() < work_for_threads ? 1 : threads;
  fork_join(used, (sums.size() + task_length - 1) / task_length, [&](std::size_t task) {
    for (std::size_t i = task * task_length; i < std::min(sums.size(), (task + 1) * task_length); ++i) {
      out[i] = static_cast<float>(static_cast<double>(sums[i]) * quantum / static_cast<double>(total));
    }
  });
}

}  // namespace fedmed
