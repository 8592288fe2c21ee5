#include "fedmed/class_gram.hpp"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "class_gram_sum.hpp"
#include "class_order.hpp"
#include "fedmed/fork_join.hpp"

namespace fedmed {
namespace {

// Rows of one class that are summed in registers before they are added to the Gram. Part of the definition:
// another length gives other last bits.
constexpr std::size_t block_rows = 192;
// Rows packed at once: bounds the memory to this many rows of doubles (8 MiB at 1,024 columns).
constexpr std::size_t batch_rows = 1024;
// Multiply-adds below which a second thread costs more than it brings.
constexpr std::size_t work_for_threads = std::size_t{1} << 19;
constexpr std::size_t largest_tile_rows = 8;
constexpr std::size_t largest_tile_columns = 48;

/// Consecutive rows of one class, at most block_rows of them.
struct block {
  std::size_t label;
  std::size_t first;  // in `order`
  std::size_t length;
  std::size_t packed;  // first row among the packed ones
};

/// Row numbers class by class, each class in row order, cut into blocks.
struct plan {
  std::vector<std::size_t> order;
  std::vector<block> blocks;
};

plan plan_blocks(std::span<const std::int32_t> classes, std::size_t class_count)
{
  class_order ordered = order_by_class(classes, class_count);
  const std::vector<std::size_t>& begin = ordered.begin;
  plan result{std::move(ordered.rows), {}};
  std::size_t packed = 0;
  for (std::size_t label = 0; label < class_count; ++label) {
    for (std::size_t first = begin[label]; first < begin[label + 1]; first += block_rows) {
      const std::size_t length = std::min(block_rows, begin[label + 1] - first);
      packed = packed + length > batch_rows ? 0 : packed;
      result.blocks.push_back({label, first, length, packed});
      packed += length;
    }
  }
  return result;
}

/// Blocks of one class in a batch, and where its shifts and rests begin.
struct part {
  std::span<const block> blocks;
  float* shifts;
  double* rests;

  [[nodiscard]] std::size_t length() const noexcept
  {
    return blocks.back().first + blocks.back().length - blocks.front().first;
  }
};

template <typename PackedT>
const class_gram_tile::tile<PackedT>& tile_of(const class_gram_tile::tiles& tiles) noexcept
{
  if constexpr (std::is_same_v<PackedT, float>) {
    return tiles.fast;
  } else {
    return tiles.exact;
  }
}

/// One call's work on a batch of blocks.
template <typename PackedT, typename SourceT>
class batch {
 public:
  batch(matrix_view<const SourceT> rows,
        const std::vector<std::size_t>& order,
        matrix_view<double> grams,
        const class_gram_tile::tiles& tiles,
        PackedT* packed) noexcept
    : rows_{rows}, order_{order}, grams_{grams}, tiles_{tiles}, packed_{packed}
  {
  }

  /// Columns of a panel from every row of a class, padded with zeros to the panel's width.
  void pack(std::size_t panel, const part& own) const noexcept
  {
    const std::size_t column = panel * tile_.columns;
    const std::size_t width = std::min(tile_.columns, rows_.columns - column);
    for (const block& rows : own.blocks) {
      PackedT* target = panel_of(rows, panel);
      for (std::size_t n = 0; n < rows.length; ++n, target += tile_.columns) {
        const SourceT* source = rows_.row(order_[rows.first + n]) + column;
        std::transform(source, source + width, target, [](SourceT value) { return to_float(value); });
        std::fill(target + width, target + tile_.columns, PackedT{0});
      }
    }
    if constexpr (shifted) {
      take_off_mean(panel, own);
    }
  }

  /// All of the upper triangle that stands in the columns of a panel, for every block of one class.
  void multiply(std::size_t panel, const part& own) const noexcept
  {
    const std::size_t column = panel * tile_.columns;
    const std::size_t rows_end = std::min(column + tile_.columns, rows_.columns);
    // Block after block into the same elements: they come from memory once for all of them.
    for (std::size_t row = 0; row < rows_end; row += tile_.rows) {
      for (const block& rows : own.blocks) {
        multiply_tile(rows, row, column);
      }
    }
    if constexpr (shifted) {
      put_back(own, column, rows_end);
    }
  }

 private:
  static constexpr bool shifted = std::is_same_v<PackedT, float>;

  /// Means of a panel's columns over all rows of a class in the batch: with them, what is left is never
  /// larger than the rows themselves, wherever those lie. Nearly the mean is enough, so float32 sums are.
  void take_off_mean(std::size_t panel, const part& own) const noexcept
  {
    std::array<float, largest_tile_columns> shifts{};
    std::array<double, largest_tile_columns> rests{};
    for (const block& rows : own.blocks) {
      tiles_.sum_columns(panel_of(rows, panel), rows.length, shifts.data());
    }
    const float share = 1.0F / static_cast<float>(own.length());
    std::transform(shifts.begin(), shifts.end(), shifts.begin(), [&](float sum) { return sum * share; });
    for (const block& rows : own.blocks) {
      tiles_.shift_columns(panel_of(rows, panel), rows.length, shifts.data(), rests.data());
    }
    const std::size_t column = panel * tile_.columns;
    const std::size_t width = std::min(tile_.columns, rows_.columns - column);
    std::copy_n(shifts.begin(), width, own.shifts + column);
    std::copy_n(rests.begin(), width, own.rests + column);
  }

  /// Σ (s + d)ᵢ (s + d)ⱼ = Σ dᵢdⱼ + sᵢ (n sⱼ + Σ dⱼ) + Σ dᵢ sⱼ.
  void put_back(const part& own, std::size_t column, std::size_t rows_end) const noexcept
  {
    const std::size_t side = rows_.columns;
    const auto count = static_cast<double>(own.length());
    double* gram = grams_.row(own.blocks.front().label);
    std::array<double, largest_tile_columns> shifts{};
    std::array<double, largest_tile_columns> sums{};
    for (std::size_t j = column; j < rows_end; ++j) {
      shifts[j - column] = static_cast<double>(own.shifts[j]);
      sums[j - column] = count * shifts[j - column] + own.rests[j];
    }
    for (std::size_t i = 0; i < rows_end; ++i) {
      const std::size_t first = std::max(i, column);
      double* out = gram + packed_diagonal(side, i) + (first - i);
      const auto shift = static_cast<double>(own.shifts[i]);
      const double rest = own.rests[i];
      for (std::size_t j = first; j < rows_end; ++j) {
        out[j - first] += shift * sums[j - column] + rest * shifts[j - column];
      }
    }
  }

  [[nodiscard]] PackedT* panel_of(const block& rows, std::size_t panel) const noexcept
  {
    const std::size_t width = tile_.columns;
    const std::size_t panels = (rows_.columns + width - 1) / width;
    return packed_ + rows.packed * panels * width + panel * width * rows.length;
  }

  void multiply_tile(const block& rows, std::size_t row, std::size_t column) const noexcept
  {
    const std::size_t side = rows_.columns;
    const PackedT* left = panel_of(rows, row / tile_.columns) + row % tile_.columns;
    const PackedT* right = panel_of(rows, column / tile_.columns);
    double* gram = grams_.row(rows.label);
    std::array<double*, largest_tile_rows> out{};
    if (row + tile_.rows <= column + 1 && column + tile_.columns <= side) {
      for (std::size_t i = 0; i < tile_.rows; ++i) {
        out[i] = gram + packed_diagonal(side, row + i) + (column - row - i);
      }
      tile_.multiply(left, right, rows.length, out.data());
      return;
    }
    // On the diagonal or over the edge: the whole tile aside, then what belongs to the triangle.
    std::array<double, largest_tile_rows * largest_tile_columns> aside{};
    for (std::size_t i = 0; i < tile_.rows; ++i) {
      out[i] = aside.data() + i * tile_.columns;
    }
    tile_.multiply(left, right, rows.length, out.data());
    for (std::size_t i = row; i < std::min(row + tile_.rows, side); ++i) {
      double* diagonal = gram + packed_diagonal(side, i);
      for (std::size_t j = std::max(column, i); j < std::min(column + tile_.columns, side); ++j) {
        diagonal[j - i] += out[i - row][j - column];
      }
    }
  }

  matrix_view<const SourceT> rows_;
  const std::vector<std::size_t>& order_;
  matrix_view<double> grams_;
  const class_gram_tile::tiles& tiles_;
  const class_gram_tile::tile<PackedT>& tile_ = tile_of<PackedT>(tiles_);
  PackedT* packed_;
};

const class_gram_tile::tiles& tiles_of([[maybe_unused]] instruction_set set) noexcept
{
#if defined(__x86_64__)
  switch (set) {
    case instruction_set::avx512: return class_gram_tile::avx512();
    case instruction_set::avx2: return class_gram_tile::avx2();
    case instruction_set::baseline: break;
  }
#endif
  return class_gram_tile::baseline();
}

/// One past the last of the blocks that are packed together with `first`.
std::size_t batch_end(const std::vector<block>& blocks, std::size_t first) noexcept
{
  std::size_t end = first + 1;
  while (end < blocks.size() && blocks[end].packed != 0) {
    ++end;
  }
  return end;
}

/// `blocks` cut where the class changes.
std::vector<part> by_class(std::span<const block> blocks)
{
  std::vector<part> parts;
  for (std::size_t first = 0; first < blocks.size();) {
    std::size_t end = first + 1;
    while (end < blocks.size() && blocks[end].label == blocks[first].label) {
      ++end;
    }
    parts.push_back({blocks.subspan(first, end - first), nullptr, nullptr});
    first = end;
  }
  return parts;
}

/// `job` with the one kind of rows that there is.
template <typename JobT>
void with_rows(const row_view& rows, const JobT& job)
{
  if (rows.half != nullptr) {
    job(matrix_view<const float16>{rows.half, rows.rows, rows.columns});
  } else if (rows.brain != nullptr) {
    job(matrix_view<const bfloat16>{rows.brain, rows.rows, rows.columns});
  } else {
    job(matrix_view<const float>{rows.single, rows.rows, rows.columns});
  }
}

std::size_t panels_of(std::size_t columns, std::size_t width) noexcept
{
  return (columns + width - 1) / width;
}

}  // namespace

gram_sum::gram_sum(
  std::size_t columns, std::size_t most_rows, std::size_t threads, instruction_set set, gram_mode mode)
  : tiles_{tiles_of(set)}, threads_{threads}, mode_{mode}
{
  const bool fast = mode == gram_mode::fast;
  const std::size_t width = fast ? tiles_.fast.columns : tiles_.exact.columns;
  const std::size_t row_bytes = panels_of(columns, width) * width * (fast ? sizeof(float) : sizeof(double));
  packed_.reset(
    static_cast<std::byte*>(::operator new(std::min(batch_rows, most_rows) * row_bytes, alignment)));
}

void gram_sum::add(const row_view& rows, std::span<const std::int32_t> classes, matrix_view<double> grams)
{
  if (mode_ == gram_mode::fast) {
    add_packed<float>(rows, classes, grams);
  } else {
    add_packed<double>(rows, classes, grams);
  }
}

template <typename PackedT>
void gram_sum::add_packed(const row_view& rows,
                          std::span<const std::int32_t> classes,
                          matrix_view<double> grams)
{
  const plan work = plan_blocks(classes, grams.rows);
  const std::size_t panels = panels_of(rows.columns, tile_of<PackedT>(tiles_).columns);
  auto* packed = reinterpret_cast<PackedT*>(packed_.get());
  for (std::size_t first = 0; first < work.blocks.size();) {
    const std::size_t end = batch_end(work.blocks, first);
    const std::span<const block> blocks = std::span{work.blocks}.subspan(first, end - first);
    std::vector<part> parts = by_class(blocks);
    if (mode_ == gram_mode::fast) {
      shifts_.resize(std::max(shifts_.size(), parts.size() * rows.columns));
      rests_.resize(shifts_.size());
      for (std::size_t index = 0; index < parts.size(); ++index) {
        parts[index].shifts = shifts_.data() + index * rows.columns;
        parts[index].rests = rests_.data() + index * rows.columns;
      }
    }
    const std::size_t length = blocks.back().packed + blocks.back().length;
    const std::size_t used = length * packed_size(rows.columns) < work_for_threads ? 1 : threads_;
    with_rows(rows, [&]<typename SourceT>(matrix_view<const SourceT> source) {
      const batch<PackedT, SourceT> job{source, work.order, grams, tiles_, packed};
      fork_join(used, panels * parts.size(), [&](std::size_t task) {
        job.pack(task / parts.size(), parts[task % parts.size()]);
      });
      // Widest panels first, so that the last task to finish is a short one.
      fork_join(used, panels * parts.size(), [&](std::size_t task) {
        job.multiply(panels - 1 - task / parts.size(), parts[task % parts.size()]);
      });
    });
    first = end;
  }
}

void class_gram(const row_view& rows,
                std::span<const std::int32_t> classes,
                matrix_view<double> grams,
                std::size_t threads,
                instruction_set set,
                gram_mode mode)
{
  check_class_gram(rows, classes, grams);
  gram_sum{rows.columns, rows.rows, threads, set, mode}.add(rows, classes, grams);
}

}  // namespace fedmed
