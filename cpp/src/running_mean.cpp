#include "fedmed/running_mean.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

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
  const element_type type = part.tensor.type;
  const std::byte* const data = part.values.front();
  const bool in_place =
    type == element_type::float32 && reinterpret_cast<std::uintptr_t>(data) % alignof(float) == 0;
  const std::size_t length = part.tensor.length;
  fork_join(
    length < work_for_threads ? 1 : threads, (length + task_length - 1) / task_length, [&](std::size_t task) {
      std::array<float, block_length> room;
      for (std::size_t first = task * task_length; first < std::min(length, (task + 1) * task_length);
           first += block_length) {
        const std::size_t count = std::min(block_length, length - first);
        const std::byte* const from = data + first * size_of(type);
        if (!in_place) {
          widen(type, from, count, room.data());
        }
        each(first, in_place ? reinterpret_cast<const float*>(from) : room.data(), count);
      }
    });
}

/// Whether every |value| is at most `bound`; NaN is not. As whole numbers magnitudes are in the same order.
bool within(const float* values, std::size_t count, double bound) noexcept
{
  std::uint32_t most = 0;
  for (std::size_t i = 0; i < count; ++i) {
    most = std::max(most, std::bit_cast<std::uint32_t>(values[i]) & 0x7FFFFFFF);
  }
  return static_cast<double>(std::bit_cast<float>(most)) <= bound;
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
  const running_mean_tile::add add = add_of(set);
  const double factor = static_cast<double>(weight) / quantum_of(bound);
  std::atomic<std::size_t> wrong = sums.size();
  for_each_values(part, threads, [&](std::size_t first, const float* values, std::size_t count) {
    if (within(values, count, bound)) {
      add(values, factor, count, sums.data() + first);
      return;
    }
    const std::size_t place =
      first +
      static_cast<std::size_t>(
        std::find_if(values, values + count, [&](const float& value) { return !within(&value, 1, bound); }) -
        values);
    std::size_t before = wrong;
    while (place < before && !wrong.compare_exchange_weak(before, place)) {
    }
  });
  if (wrong == sums.size()) {
    return;
  }
  // What was added is taken away again, and leaves no trace.
  for_each_values(part, threads, [&](std::size_t first, const float* values, std::size_t count) {
    if (within(values, count, bound)) {
      add(values, -factor, count, sums.data() + first);
    }
  });
  FEDMED_EXPECTS(false,
                 "running_mean: `values` has one beyond " + std::to_string(bound) + " at index " +
                   std::to_string(wrong) + ", expected a number within it");
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
