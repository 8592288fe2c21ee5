#include "fedmed/class_gram.hpp"

#include <algorithm>
#include <array>
#include <memory>
#include <new>
#include <vector>

#include "class_gram_tile.hpp"
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
constexpr std::align_val_t alignment{64};
constexpr std::size_t largest_tile_rows = 8;
constexpr std::size_t largest_tile_columns = 24;

struct aligned_delete {
  void operator()(double* memory) const noexcept { ::operator delete(memory, alignment); }
};
using packed_memory = std::unique_ptr<double[], aligned_delete>;

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
  std::vector<std::size_t> begin(class_count + 1, 0);
  for (const std::int32_t label : classes) {
    if (label >= 0) {
      ++begin[static_cast<std::size_t>(label) + 1];
    }
  }
  for (std::size_t label = 0; label < class_count; ++label) {
    begin[label + 1] += begin[label];
  }
  plan result;
  result.order.resize(begin[class_count]);
  std::vector<std::size_t> next(begin.begin(), begin.end() - 1);
  for (std::size_t row = 0; row < classes.size(); ++row) {
    if (classes[row] >= 0) {
      result.order[next[static_cast<std::size_t>(classes[row])]++] = row;
    }
  }
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

/// One call's work on a batch of blocks.
class batch {
 public:
  batch(matrix_view<const float> rows,
        const std::vector<std::size_t>& order,
        std::span<const block> blocks,
        matrix_view<double> grams,
        const tile::class_gram_tile& tile,
        double* packed) noexcept
    : rows_{rows}, order_{order}, blocks_{blocks}, grams_{grams}, tile_{tile}, packed_{packed}
  {
  }

  /// Columns of a panel from every row of the batch, as doubles, padded with zeros to the panel's width.
  void pack(std::size_t panel) const noexcept
  {
    const std::size_t column = panel * tile_.columns;
    const std::size_t width = std::min(tile_.columns, rows_.columns - column);
    for (const block& part : blocks_) {
      double* target = panel_of(part, panel);
      for (std::size_t n = 0; n < part.length; ++n, target += tile_.columns) {
        const float* source = rows_.row(order_[part.first + n]) + column;
        std::copy(source, source + width, target);
        std::fill(target + width, target + tile_.columns, 0.0);
      }
    }
  }

  /// All of the upper triangle that stands in the columns of a panel, for every block of one class.
  void multiply(std::size_t panel, std::span<const block> same_class) const noexcept
  {
    const std::size_t column = panel * tile_.columns;
    const std::size_t rows_end = std::min(column + tile_.columns, rows_.columns);
    for (const block& part : same_class) {
      for (std::size_t row = 0; row < rows_end; row += tile_.rows) {
        multiply_tile(part, row, column);
      }
    }
  }

 private:
  [[nodiscard]] double* panel_of(const block& part, std::size_t panel) const noexcept
  {
    const std::size_t width = tile_.columns;
    const std::size_t panels = (rows_.columns + width - 1) / width;
    return packed_ + part.packed * panels * width + panel * width * part.length;
  }

  void multiply_tile(const block& part, std::size_t row, std::size_t column) const noexcept
  {
    const std::size_t side = rows_.columns;
    const double* left = panel_of(part, row / tile_.columns) + row % tile_.columns;
    const double* right = panel_of(part, column / tile_.columns);
    double* gram = grams_.row(part.label);
    std::array<double*, largest_tile_rows> out{};
    if (row + tile_.rows <= column + 1 && column + tile_.columns <= side) {
      for (std::size_t i = 0; i < tile_.rows; ++i) {
        out[i] = gram + packed_diagonal(side, row + i) + (column - row - i);
      }
      tile_.multiply(left, right, part.length, out.data());
      return;
    }
    // On the diagonal or over the edge: the whole tile aside, then what belongs to the triangle.
    std::array<double, largest_tile_rows * largest_tile_columns> aside{};
    for (std::size_t i = 0; i < tile_.rows; ++i) {
      out[i] = aside.data() + i * tile_.columns;
    }
    tile_.multiply(left, right, part.length, out.data());
    for (std::size_t i = row; i < std::min(row + tile_.rows, side); ++i) {
      double* diagonal = gram + packed_diagonal(side, i);
      for (std::size_t j = std::max(column, i); j < std::min(column + tile_.columns, side); ++j) {
        diagonal[j - i] += out[i - row][j - column];
      }
    }
  }

  matrix_view<const float> rows_;
  const std::vector<std::size_t>& order_;
  std::span<const block> blocks_;
  matrix_view<double> grams_;
  const tile::class_gram_tile& tile_;
  double* packed_;
};

const tile::class_gram_tile& tile_of([[maybe_unused]] instruction_set set) noexcept
{
#if defined(__x86_64__)
  switch (set) {
    case instruction_set::avx512: return tile::avx512();
    case instruction_set::avx2: return tile::avx2();
    case instruction_set::baseline: break;
  }
#endif
  return tile::baseline();
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
std::vector<std::span<const block>> by_class(std::span<const block> blocks)
{
  std::vector<std::span<const block>> parts;
  for (std::size_t first = 0; first < blocks.size();) {
    std::size_t end = first + 1;
    while (end < blocks.size() && blocks[end].label == blocks[first].label) {
      ++end;
    }
    parts.push_back(blocks.subspan(first, end - first));
    first = end;
  }
  return parts;
}

}  // namespace

void class_gram(matrix_view<const float> rows,
                std::span<const std::int32_t> classes,
                matrix_view<double> grams,
                std::size_t threads,
                instruction_set set)
{
  check_class_gram(rows, classes, grams);
  const plan work = plan_blocks(classes, grams.rows);
  if (work.order.empty()) {
    return;
  }
  const tile::class_gram_tile& tile = tile_of(set);
  const std::size_t panels = (rows.columns + tile.columns - 1) / tile.columns;
  const std::size_t packed_rows = std::min(batch_rows, work.order.size());
  const packed_memory packed{
    static_cast<double*>(::operator new(packed_rows* panels* tile.columns * sizeof(double), alignment))};

  for (std::size_t first = 0; first < work.blocks.size();) {
    const std::size_t end = batch_end(work.blocks, first);
    const std::span<const block> blocks = std::span{work.blocks}.subspan(first, end - first);
    const std::vector<std::span<const block>> parts = by_class(blocks);
    const batch job{rows, work.order, blocks, grams, tile, packed.get()};
    const std::size_t length = blocks.back().packed + blocks.back().length;
    const std::size_t used = length * packed_size(rows.columns) < work_for_threads ? 1 : threads;
    fork_join(used, panels, [&](std::size_t panel) { job.pack(panel); });
    // Widest panels first, so that the last task to finish is a short one.
    fork_join(used, panels * parts.size(), [&](std::size_t task) {
      job.multiply(panels - 1 - task / parts.size(), parts[task % parts.size()]);
    });
    first = end;
  }
}

}  // namespace fedmed
