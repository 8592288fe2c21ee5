#include "fedmed/fork_join.hpp"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace fedmed {

void fork_join(std::size_t threads, std::size_t count, const std::function<void(std::size_t)>& task)
{
  std::atomic<std::size_t> next{0};
  const auto work = [&]() noexcept {
    for (std::size_t index = next++; index < count; index = next++) {
      task(index);
    }
  };
  std::vector<std::jthread> others;
  const std::size_t wanted = std::min(threads, count);
  try {
    others.reserve(wanted);
    while (others.size() + 1 < wanted) {
      others.emplace_back(work);
    }
  } catch (const std::system_error&) {
    // A process or container at its thread limit still gets its result.
  }
  work();
}

}  // namespace fedmed
