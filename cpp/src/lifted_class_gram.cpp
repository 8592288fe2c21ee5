#include "fedmed/lifted_class_gram.hpp"

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "class_gram_sum.hpp"
#include "fedmed/fork_join.hpp"
#include "lift_taps.hpp"
#include "lifted_class_gram_tile.hpp"

namespace fedmed {
namespace {

using lifted_class_gram_tile::loops;

// Rows made before they are summed, to whole lines. Part of the definition, as the blocks of class_gram are.
// More of them need more memory, fewer read and write the Grams more often.
constexpr std::size_t chunk_rows = 384;
constexpr std::align_val_t alignment{64};

struct aligned_delete {
  void operator()(float* memory) const noexcept { ::operator delete(memory, alignment); }
};

/// Zeros on a cache line's edge.
class buffer {
 public:
  explicit buffer(std::size_t count)
    : memory_{static_cast<float*>(::operator new(std::max<std::size_t>(count, 1) * sizeof(float), alignment))}
  {
    std::fill_n(memory_.get(), count, 0.0F);
  }
  [[nodiscard]] float* data() const noexcept { return memory_.get(); }

 private:
  std::unique_ptr<float[], aligned_delete> memory_;
};

std::size_t round_up(std::size_t value, std::size_t step) noexcept
{
  return (value + step - 1) / step * step;
}

float between(float below, float above, float share) noexcept
{
  return below + share * (above - below);
}

/// One scale, and where its channels begin among all.
struct scale {
  grid_view<const float> map;
  std::size_t channel;
  std::vector<tap> planes;
  std::vector<tap> lines;
  std::vector<tap> columns;
};

/// Scales that go through the weights at the same places of a line, coarse ones at their own cells.
struct level {
  std::size_t places;
  bool coarse;
  std::vector<tap> taps;  // from places to the line's rows
  std::vector<scale> scales;
  std::size_t channels = 0;
  buffer panels{0};
};

/// What a thread needs to make a line.
struct scratch {
  buffer line;      // one line of one channel of a map
  buffer features;  // (channels, places) of a level
  buffer products;  // (places, columns) of a level
};

/// Makes rows, a line of the grid at a time.
class lift {
 public:
  lift(std::span<const grid_view<const float>> maps,
       const lift_weights& weights,
       const strided_grid& grid,
       const loops& tile)
    : weights_{weights},
      grid_{grid},
      tile_{tile},
      width_{weights.lift.columns + weights.projection.columns},
      padded_width_{round_up(width_, tile.columns)}
  {
    std::size_t channel = 0;
    for (const grid_view<const float>& map : maps) {
      level& own = level_of(map.size[2]);
      own.scales.push_back({map,
                            channel,
                            taps_of(grid, 0, map.size[0]),
                            taps_of(grid, 1, map.size[1]),
                            taps_of(grid, 2, map.size[2])});
      own.channels += map.channels;
      longest_line_ = std::max(longest_line_, map.size[2]);
      channel += map.channels;
    }
    for (level& own : levels_) {
      pack_weights(own);
    }
  }

  [[nodiscard]] scratch make_scratch() const
  {
    std::size_t features = 0;
    std::size_t products = 0;
    for (const level& own : levels_) {
      features = std::max(features, own.channels * padded(own.places));
      products = std::max(products, padded(own.places) * padded_width_);
    }
    return {buffer{longest_line_}, buffer{features}, buffer{products}};
  }

  /// All rows (n, D) of a line of the grid.
  void make_line(std::size_t line, const scratch& own, float* rows) const noexcept
  {
    const std::size_t count = grid_.count(2);
    const std::size_t lifted = weights_.lift.columns;
    const std::size_t columns = weights_.row_columns();
    for (std::size_t x = 0; x < count; ++x) {
      float* row = rows + x * columns;
      std::copy(weights_.bias.begin(), weights_.bias.end(), row);
      std::fill(row + lifted, row + columns - 1, 0.0F);
      row[columns - 1] = 1.0F;
    }
    for (const level& part : levels_) {
      for (std::size_t channel = 0; const scale& one : part.scales) {
        sample(part, one, line, own, own.features.data() + channel * padded(part.places));
        if (weights_.projection.columns == 0) {
          copy_features(part, one, own.features.data() + channel * padded(part.places), rows);
        }
        channel += one.map.channels;
      }
      multiply(part, own);
      for (std::size_t x = 0; width_ > 0 && x < count; ++x) {
        const tap& where = part.taps[x];
        const float* products = own.products.data();
        tile_.interpolate(products + where.below * padded_width_,
                          products + where.above * padded_width_,
                          where.share,
                          width_,
                          rows + x * columns);
      }
    }
    for (std::size_t x = 0; x < count; ++x) {
      tile_.rectify(lifted, rows + x * columns);
    }
  }

 private:
  [[nodiscard]] std::size_t padded(std::size_t places) const noexcept { return round_up(places, tile_.rows); }

  /// Maps as fine as the rows are cheaper to sample before the product than after it, coarser ones after.
  level& level_of(std::size_t side)
  {
    const bool coarse = side < grid_.count(2);
    const std::size_t places = coarse ? side : grid_.count(2);
    for (level& own : levels_) {
      if (own.coarse == coarse && own.places == places) {
        return own;
      }
    }
    level made{places, coarse, {}, {}};
    made.taps = coarse ? taps_of(grid_, 2, side) : std::vector<tap>{};
    for (std::uint32_t x = 0; !coarse && x < places; ++x) {
      made.taps.push_back({x, x, 0.0F});
    }
    levels_.push_back(std::move(made));
    return levels_.back();
  }

  /// The rows of [lift, projection] that belong to a level, in panels of the tile's width.
  void pack_weights(level& own) const
  {
    own.panels = buffer{own.channels * padded_width_};
    for (std::size_t c = 0; const scale& one : own.scales) {
      for (std::size_t channel = 0; channel < one.map.channels; ++channel, ++c) {
        for (std::size_t column = 0; column < width_; ++column) {
          const std::size_t lifted = weights_.lift.columns;
          const std::size_t row = one.channel + channel;
          const float weight =
            column < lifted ? weights_.lift.row(row)[column] : weights_.projection.row(row)[column - lifted];
          const std::size_t panel = column / tile_.columns;
          own.panels.data()[(panel * own.channels + c) * tile_.columns + column % tile_.columns] = weight;
        }
      }
    }
  }

  /// Standardised features (c_k, places) of a scale on a line.
  void sample(
    const level& part, const scale& one, std::size_t line, const scratch& own, float* features) const noexcept
  {
    const tap plane = one.planes[line / grid_.count(1)];
    const tap row = one.lines[line % grid_.count(1)];
    const std::size_t height = one.map.size[1];
    const std::size_t width = one.map.size[2];
    float* values = own.line.data();
    for (std::size_t channel = 0; channel < one.map.channels; ++channel) {
      const auto source = [&](std::size_t z, std::size_t y) {
        return one.map.channel(channel) + (z * height + y) * width;
      };
      sample_line(source(plane.below, row.below), source(plane.above, row.below), plane.share, width, values);
      if (row.share > 0.0F) {
        const float* low = source(plane.below, row.above);
        const float* high = source(plane.above, row.above);
        for (std::size_t x = 0; x < width; ++x) {
          values[x] = between(values[x], between(low[x], high[x], plane.share), row.share);
        }
      }
      standardise(part, one, channel, values, features + channel * padded(part.places));
    }
  }

  static void sample_line(
    const float* below, const float* above, float share, std::size_t length, float* values) noexcept
  {
    if (share > 0.0F) {
      std::transform(below, below + length, above, values, [=](float low, float high) {
        return between(low, high, share);
      });
    } else {
      std::copy(below, below + length, values);
    }
  }

  void standardise(const level& part,
                   const scale& one,
                   std::size_t channel,
                   const float* values,
                   float* features) const noexcept
  {
    const float mean = weights_.mean[one.channel + channel];
    const float gain = weights_.gain[one.channel + channel];
    if (part.coarse) {
      for (std::size_t x = 0; x < part.places; ++x) {
        features[x] = (values[x] - mean) * gain;
      }
      return;
    }
    for (std::size_t x = 0; x < part.places; ++x) {
      const tap& where = one.columns[x];
      features[x] = (between(values[where.below], values[where.above], where.share) - mean) * gain;
    }
  }

  /// Features as they are, into the rows.
  void copy_features(const level& part, const scale& one, const float* features, float* rows) const noexcept
  {
    const std::size_t columns = weights_.row_columns();
    float* first = rows + weights_.lift.columns + one.channel;
    for (std::size_t channel = 0; channel < one.map.channels; ++channel) {
      const float* values = features + channel * padded(part.places);
      for (std::size_t x = 0; x < part.taps.size(); ++x) {
        const tap& where = part.taps[x];
        first[x * columns + channel] = between(values[where.below], values[where.above], where.share);
      }
    }
  }

  void multiply(const level& part, const scratch& own) const noexcept
  {
    for (std::size_t column = 0; column < width_; column += tile_.columns) {
      const float* panel = part.panels.data() + column * part.channels;
      for (std::size_t place = 0; place < part.places; place += tile_.rows) {
        tile_.multiply(own.features.data() + place,
                       padded(part.places),
                       panel,
                       part.channels,
                       own.products.data() + place * padded_width_ + column,
                       padded_width_);
      }
    }
  }

  const lift_weights& weights_;
  const strided_grid& grid_;
  const loops& tile_;
  std::size_t width_;
  std::size_t padded_width_;
  std::size_t longest_line_ = 0;
  std::vector<level> levels_;
};

const loops& loops_of([[maybe_unused]] instruction_set set) noexcept
{
#if defined(__x86_64__)
  switch (set) {
    case instruction_set::avx512: return lifted_class_gram_tile::avx512();
    case instruction_set::avx2: return lifted_class_gram_tile::avx2();
    case instruction_set::baseline: break;
  }
#endif
  return lifted_class_gram_tile::baseline();
}

/// Lines that hold a row of some class or one to be kept.
std::vector<bool> needed_lines(std::span<const std::int32_t> classes,
                               std::span<const std::int64_t> kept,
                               std::size_t count)
{
  std::vector<bool> needed(classes.size() / count, false);
  for (std::size_t row = 0; row < classes.size(); ++row) {
    if (classes[row] >= 0) {
      needed[row / count] = true;
    }
  }
  for (const std::int64_t row : kept) {
    needed[static_cast<std::size_t>(row) / count] = true;
  }
  return needed;
}

}  // namespace

void lifted_class_gram(std::span<const grid_view<const float>> maps,
                       const lift_weights& weights,
                       const strided_grid& grid,
                       std::span<const std::int32_t> classes,
                       matrix_view<double> grams,
                       const kept_rows& kept,
                       std::size_t threads,
                       instruction_set set,
                       gram_mode mode)
{
  check_lifted_class_gram(maps, weights, grid, classes, grams, kept);
  const lift rows_of{maps, weights, grid, loops_of(set)};
  const std::size_t columns = weights.row_columns();
  const std::size_t count = grid.count(2);
  const std::vector<bool> needed = needed_lines(classes, kept.numbers, count);
  const std::size_t chunk_lines = std::clamp<std::size_t>(chunk_rows / count, 1, needed.size());
  const std::size_t workers = std::min(threads, chunk_lines);
  std::vector<scratch> own;
  for (std::size_t worker = 0; worker < workers; ++worker) {
    own.push_back(rows_of.make_scratch());
  }
  const buffer rows{chunk_lines * count * columns};
  gram_sum sum{columns, chunk_lines * count, threads, set, mode};

  for (std::size_t next = 0, begin = 0; begin < needed.size(); begin += chunk_lines) {
    const std::size_t lines = std::min(chunk_lines, needed.size() - begin);
    fork_join(workers, workers, [&](std::size_t worker) {
      for (std::size_t line = worker; line < lines; line += workers) {
        if (needed[begin + line]) {
          rows_of.make_line(begin + line, own[worker], rows.data() + line * count * columns);
        }
      }
    });
    const std::size_t first = begin * count;
    for (; next < kept.numbers.size(); ++next) {
      const std::size_t row = static_cast<std::size_t>(kept.numbers[next]);
      if (row >= first + lines * count) {
        break;
      }
      std::copy_n(rows.data() + (row - first) * columns, columns, kept.rows.row(next));
    }
    sum.add({rows.data(), lines * count, columns}, classes.subspan(first, lines * count), grams);
  }
}

}  // namespace fedmed
