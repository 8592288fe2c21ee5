#include "blocks.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>

#include "elements.hpp"
#include "fedmed/fork_join.hpp"

namespace fedmed {
namespace {

// Streams that the processor's prefetchers follow; beyond it rows are copied one after the other.
constexpr std::size_t streams = 16;
// Bytes that threads may take together for what they read and make.
constexpr std::size_t memory_budget = std::size_t{72} << 20;
// Bytes of a thread's own memory for its tasks.
constexpr std::size_t workspace_bytes = std::size_t{1} << 20;
// Bytes that are read of a file at once, and of all files.
constexpr std::size_t largest_window = std::size_t{128} << 10;
constexpr std::size_t windows_budget = std::size_t{8} << 20;
// Elements of a model that a task takes: whole windows, of whatever type.
constexpr std::size_t task_length = std::size_t{1} << 16;
// Bytes of copied rows: they stay in the second-level cache.
constexpr std::size_t buffer_bytes = std::size_t{256} << 10;
// Rows that begin a power of two apart would fall on the same few cache lines.
constexpr std::size_t row_gap = 64;
constexpr std::size_t largest_block = 2048;
constexpr std::size_t smallest_block = 128;
// Values below which a second thread costs more than it brings.
constexpr std::size_t work_for_threads = std::size_t{1} << 18;

std::size_t window_of(const sources& models) noexcept
{
  return std::bit_floor(std::min(largest_window, windows_budget / models.count()));
}

std::vector<stretch> tasks_of(const sources& models)
{
  std::vector<stretch> tasks;
  for (std::size_t part = 0; part < models.parts().size(); ++part) {
    const std::size_t elements = models.parts()[part].tensor.length;
    for (std::size_t first = 0; first < elements; first += task_length) {
      tasks.push_back({part, first, std::min(task_length, elements - first)});
    }
  }
  return tasks;
}

/// What went wrong in a call; of several the first by place, whichever thread saw it first.
class faults {
 public:
  void not_finite(const std::array<std::size_t, 3>& place, float value)
  {
    const std::scoped_lock lock{mutex_};
    if (!first_ || place < *first_) {
      first_ = place;
      value_ = value;
    }
  }

  void not_written(int error) noexcept { error_ = error; }

  void rethrow(const sources& models, const std::string& kernel, nan_policy nan) const
  {
    if (error_ != 0) {
      throw std::system_error(error_, std::generic_category());
    }
    FEDMED_EXPECTS(!first_ || nan == nan_policy::propagate,
                   kernel + ": " + models.describe((*first_)[2], (*first_)[0], (*first_)[1]) + " has " +
                     (std::isnan(value_) ? "nan" : "inf") + ", expected finite values");
  }

 private:
  std::mutex mutex_;
  std::optional<std::array<std::size_t, 3>> first_;
  float value_ = 0.0F;
  std::atomic<int> error_ = 0;
};

/// One thread's memory for its tasks.
struct workspace {
  block_rows rows;
  std::vector<float> made;
  std::vector<std::byte> written;
  std::vector<float> values;
};

/// Workspaces for as many tasks as run at once.
class workspaces {
 public:
  workspaces(const sources& models, const block_kernel& kernel, std::size_t threads)
  {
    const std::size_t fitting = buffer_bytes / (models.count() * sizeof(float));
    const std::size_t block = std::bit_floor(std::clamp(fitting, smallest_block, largest_block));
    for (std::size_t i = 0; i < threads; ++i) {
      free_.push_back(
        std::make_unique<workspace>(workspace{block_rows{models, block, kernel.in_place},
                                              std::vector<float>(task_length),
                                              std::vector<std::byte>(task_length * sizeof(std::int64_t)),
                                              std::vector<float>(models.count())}));
    }
  }

  std::unique_ptr<workspace> take()
  {
    const std::scoped_lock lock{mutex_};
    std::unique_ptr<workspace> one = std::move(free_.back());
    free_.pop_back();
    return one;
  }

  void give_back(std::unique_ptr<workspace> one)
  {
    const std::scoped_lock lock{mutex_};
    free_.push_back(std::move(one));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<workspace>> free_;
};

/// One thread's way through one task.
class task_run {
 public:
  task_run(const sources& models,
           const block_kernel& kernel,
           const model_output& out,
           nan_policy nan,
           faults& found,
           workspace& memory) noexcept
    : models_{models}, kernel_{kernel}, out_{out}, nan_{nan}, faults_{found}, memory_{memory}
  {
  }

  void run(const stretch& task)
  {
    const element_type type = models_.parts()[task.part].tensor.type;
    std::byte* const target = out_.memory() == nullptr ? nullptr : out_.memory() + task.first * size_of(type);
    const std::byte* made = memory_.written.data();
    if (type == element_type::int64) {
      counters(task, memory_.written.data());
    } else if (type == element_type::float32) {
      floats(task, target == nullptr ? memory_.made.data() : reinterpret_cast<float*>(target));
      made = reinterpret_cast<const std::byte*>(memory_.made.data());
    } else {
      floats(task, memory_.made.data());
      narrow(type, memory_.made.data(), task.count, target == nullptr ? memory_.written.data() : target);
    }
    if (target == nullptr) {
      if (const int error = out_.write(task.part, task.first, {made, task.count * size_of(type)});
          error != 0) {
        faults_.not_written(error);
      }
    }
  }

 private:
  void counters(const stretch& task, std::byte* to) noexcept
  {
    for (std::size_t at = 0; at < task.count; at += memory_.rows.largest()) {
      const stretch block{task.part, task.first + at, std::min(memory_.rows.largest(), task.count - at)};
      std::array<std::int64_t, largest_block> most;
      most.fill(std::numeric_limits<std::int64_t>::min());
      for (std::size_t source = 0; source < models_.count(); ++source) {
        const std::byte* values = memory_.rows.bytes(source, block);
        for (std::size_t i = 0; i < block.count; ++i) {
          std::int64_t value;
          std::memcpy(&value, values + i * sizeof value, sizeof value);
          most[i] = std::max(most[i], value);
        }
      }
      std::memcpy(to + at * sizeof most[0], most.data(), block.count * sizeof most[0]);
    }
  }

  void floats(const stretch& task, float* to)
  {
    for (std::size_t at = 0; at < task.count;) {
      const stretch left{task.part, task.first + at, task.count - at};
      const stretch block{task.part, left.first, memory_.rows.length_of_block(left)};
      const std::size_t padded = memory_.rows.read(block);
      std::array<float, largest_block> end;
      float* made = padded == block.count ? to + at : end.data();
      if (!kernel_.block(memory_.rows, block, padded, made)) {
        repair(block, made);
      }
      if (made == end.data()) {
        std::memcpy(to + at, made, block.count * sizeof(float));
      }
      at += block.count;
    }
  }

  /// Once more, with zeros where a value is not finite; then those elements on their own.
  void repair(const stretch& all, float* made)
  {
    std::vector<float>& values = memory_.values;
    for (std::size_t at = 0; at < all.count; at += memory_.rows.largest()) {
      const stretch block{all.part, all.first + at, std::min(memory_.rows.largest(), all.count - at)};
      const std::size_t padded = memory_.rows.read(block, true);
      std::array<bool, largest_block> finite;
      for (std::size_t i = 0; i < block.count; ++i) {
        float* value = memory_.rows.buffer() + i;
        finite[i] = true;
        for (std::size_t source = 0; source < values.size(); ++source, value += memory_.rows.stride()) {
          if (!std::isfinite(*value)) {
            finite[i] = false;
            faults_.not_finite({block.part, block.first + i, source}, *value);
            *value = 0.0F;
          }
        }
      }
      if (nan_ == nan_policy::refuse) {
        continue;
      }
      std::array<float, largest_block> result;
      kernel_.block(memory_.rows, block, padded, result.data());
      for (std::size_t i = 0; i < block.count; ++i) {
        if (!finite[i]) {
          for (std::size_t source = 0; source < values.size(); ++source) {
            models_.read_floats(block.part, source, block.first + i, 1, &values[source]);
          }
          result[i] = special(values);
        }
      }
      std::memcpy(made + at, result.data(), block.count * sizeof(float));
    }
  }

  float special(std::vector<float>& values) const
  {
    const bool nan = std::any_of(values.begin(), values.end(), [](float value) { return std::isnan(value); });
    const float result = nan ? 0.0F : kernel_.element(values);
    return nan || std::isnan(result) ? std::numeric_limits<float>::quiet_NaN() : result;
  }

  const sources& models_;
  const block_kernel& kernel_;
  const model_output& out_;
  nan_policy nan_;
  faults& faults_;
  workspace& memory_;
};

}  // namespace

block_rows::block_rows(const sources& models, std::size_t largest, bool copied)
  : models_{models},
    copied_{copied},
    largest_{largest},
    stride_{largest_ + row_gap},
    buffer_(stride_ / block_lanes * models.count()),
    rows_(models.count()),
    window_bytes_{window_of(models)}
{
  if (models.in_files()) {
    windows_.resize((window_bytes_ / sizeof(cache_line) + row_gap / block_lanes) * models.count());
  }
}

bool block_rows::stands_so(std::size_t part) const noexcept
{
  return models_.parts()[part].tensor.type == element_type::float32 && models_.count() <= streams && !copied_;
}

std::size_t block_rows::length_of_block(const stretch& left) const noexcept
{
  const std::size_t window = window_bytes_ / size_of(models_.parts()[left.part].tensor.type);
  const std::size_t here = windows_.empty() ? left.count : std::min(left.count, window - left.first % window);
  const std::size_t whole = here / block_lanes * block_lanes;
  return stands_so(left.part) && whole > 0 ? whole : std::min(here, largest_);
}

const std::byte* block_rows::bytes(std::size_t source, const stretch& block) noexcept
{
  const source_part& part = models_.parts()[block.part];
  const std::size_t width = size_of(part.tensor.type);
  if (windows_.empty()) {
    return part.values[source] + block.first * width;
  }
  const std::size_t length = window_bytes_ / width;
  const std::size_t first = block.first / length * length;
  const std::size_t stride = windows_.size() / rows_.size();
  if (window_.count == 0 || window_.part != block.part || window_.first != first) {
    window_ = {block.part, first, std::min(length, part.tensor.length - first)};
    for (std::size_t each = 0; each < rows_.size(); ++each) {
      models_.read(
        block.part, each, first, window_.count, reinterpret_cast<std::byte*>(windows_[each * stride].values));
    }
  }
  return reinterpret_cast<const std::byte*>(windows_[source * stride].values) + (block.first - first) * width;
}

std::size_t block_rows::read(const stretch& block, bool copied) noexcept
{
  const std::size_t padded = (block.count + block_lanes - 1) / block_lanes * block_lanes;
  const bool in_place = padded == block.count && stands_so(block.part) && !copied;
  for (std::size_t source = 0; source < rows_.size(); ++source) {
    const std::byte* values = bytes(source, block);
    if (in_place) {
      rows_[source] = values;
      continue;
    }
    float* row = buffer() + source * stride_;
    widen(models_.parts()[block.part].tensor.type, values, block.count, row);
    std::fill(row + block.count, row + padded, 0.0F);
    rows_[source] = row;
  }
  return padded;
}

std::size_t threads_within_memory(const sources& models, std::size_t threads) noexcept
{
  std::size_t values = 0;
  for (const source_part& part : models.parts()) {
    values += part.tensor.length * models.count();
  }
  const std::size_t fitting =
    std::max<std::size_t>(1, memory_budget / (models.count() * window_of(models) + workspace_bytes));
  return values < work_for_threads ? 1 : models.in_files() ? std::min(threads, fitting) : threads;
}

void for_each_block(const sources& models,
                    const block_kernel& kernel,
                    const model_output& out,
                    nan_policy nan,
                    std::size_t threads)
{
  const std::size_t used = threads_within_memory(models, threads);
  const std::vector<stretch> tasks = tasks_of(models);
  workspaces memory{models, kernel, used};
  faults found;
  fork_join(used, tasks.size(), [&](std::size_t task) {
    std::unique_ptr<workspace> mine = memory.take();
    task_run{models, kernel, out, nan, found, *mine}.run(tasks[task]);
    memory.give_back(std::move(mine));
  });
  models.check_read();
  found.rethrow(models, kernel.name, nan);
}

}  // namespace fedmed
