#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "fedmed/aggregation.hpp"

namespace fedmed {

/// Elements that tiles take at a time; rows of a block are padded with zeros to a multiple of it.
inline constexpr std::size_t block_lanes = 16;

/// Some elements of one part.
struct stretch {
  std::size_t part;
  std::size_t first;
  std::size_t count;
};

/// Elements of every source as float32: arrays in place where they stand so, else in a buffer; files in
/// windows, of which one of each is read at a time.
class block_rows {
 public:
  /// @param largest most elements of a block
  /// @param copied always into the buffer, where the caller may write
  block_rows(const sources& models, std::size_t largest, bool copied);

  /// Elements to read at once of those that are left of a task: many where they stand as float32 already.
  [[nodiscard]] std::size_t length_of_block(const stretch& left) const noexcept;

  /// Read a block; into the buffer wherever `copied`.
  /// @return its length, padded
  std::size_t read(const stretch& block, bool copied = false) noexcept;

  /// A block of one source as it stands in memory or in its file.
  [[nodiscard]] const std::byte* bytes(std::size_t source, const stretch& block) noexcept;

  [[nodiscard]] const void* const* rows() const noexcept { return rows_.data(); }
  [[nodiscard]] float* buffer() noexcept { return buffer_.data()->values; }
  /// Elements from one row of the buffer to the next.
  [[nodiscard]] std::size_t stride() const noexcept { return stride_; }
  /// Most elements of a row of the buffer: a power of two, and blocks begin at multiples of it.
  [[nodiscard]] std::size_t largest() const noexcept { return largest_; }

 private:
  struct alignas(block_lanes * sizeof(float)) cache_line {
    float values[block_lanes];
  };

  [[nodiscard]] bool stands_so(std::size_t part) const noexcept;

  const sources& models_;
  bool copied_;
  std::size_t largest_;
  std::size_t stride_;
  std::vector<cache_line> buffer_;
  std::vector<const void*> rows_;
  // Of files: what was read of each, one after the other, and where that begins and ends.
  std::size_t window_bytes_;
  std::vector<cache_line> windows_;
  stretch window_{};
};

/// How a kernel makes a block of the result.
struct block_kernel {
  std::string name;
  /// Rows are written to, so they must be copies.
  bool in_place = false;
  /// Results of a padded block; false where a value was not finite.
  std::function<bool(block_rows& rows, const stretch& block, std::size_t padded, float* out)> block;
  /// A result from values among which there are infinities and no NaN; it may reorder them.
  std::function<float(std::vector<float>& values)> element;
};

/// Make a model of K: `kernel` for floating parts, the maximum for counters.
/// @throws std::invalid_argument a value is not finite and `nan` is refuse; std::system_error the file could
/// not be written.
void for_each_block(const sources& models,
                    const block_kernel& kernel,
                    const model_output& out,
                    nan_policy nan,
                    std::size_t threads);

/// Threads for `models` so that what their tasks read stays within the memory that a call may take.
[[nodiscard]] std::size_t threads_within_memory(const sources& models, std::size_t threads) noexcept;

}  // namespace fedmed
