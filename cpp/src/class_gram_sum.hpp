#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "class_gram_tile.hpp"
#include "fedmed/class_gram.hpp"

namespace fedmed {

/// What class_gram does with arguments that were checked; keeps its memory from call to call.
class gram_sum {
 public:
  /// @param columns D
  /// @param most_rows rows of the longest call
  gram_sum(
    std::size_t columns, std::size_t most_rows, std::size_t threads, instruction_set set, gram_mode mode);

  void add(const row_view& rows, std::span<const std::int32_t> classes, matrix_view<double> grams);

 private:
  template <typename PackedT>
  void add_packed(const row_view& rows, std::span<const std::int32_t> classes, matrix_view<double> grams);

  static constexpr std::align_val_t alignment{64};
  struct aligned_delete {
    void operator()(std::byte* memory) const noexcept { ::operator delete(memory, alignment); }
  };

  const class_gram_tile::tiles& tiles_;
  std::size_t threads_;
  gram_mode mode_;
  std::unique_ptr<std::byte[], aligned_delete> packed_;
  // `fast` alone: what was taken off every column of every class, and the sums of what was left.
  std::vector<float> shifts_;
  std::vector<double> rests_;
};

}  // namespace fedmed
