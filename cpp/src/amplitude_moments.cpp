#include "fedmed/amplitude_moments.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <type_traits>
#include <vector>

#include "amplitude_moments_tile.hpp"
#include "fedmed/fork_join.hpp"

namespace fedmed {
namespace {

using amplitude_moments_tile::lanes;
using amplitude_moments_tile::loops;

// Pixels below which a second thread costs more than it brings.
constexpr std::size_t work_for_threads = std::size_t{1} << 18;

const loops& loops_of([[maybe_unused]] instruction_set set) noexcept
{
#if defined(__x86_64__)
  switch (set) {
    case instruction_set::avx512: return amplitude_moments_tile::avx512();
    case instruction_set::avx2: return amplitude_moments_tile::avx2();
    case instruction_set::baseline: break;
  }
#endif
  return amplitude_moments_tile::baseline();
}

/// The transform along one axis, for the frequencies 0 to `half_block`: Σ_n x[n] cos(2π u n / length), and
/// the same with sin. Cosine and sine of a frequency follow on each other in what it writes.
class partial_transform {
 public:
  partial_transform(std::size_t length, std::size_t half_block)
    : length_{length},
      depth_{length / 2 + 1},
      frequencies_{half_block + 1},
      cosines_(frequencies_ * depth_),
      sines_(frequencies_ * depth_)
  {
    // The angle of n is that of u · n mod length: no error grows with the frequency.
    std::vector<double> cosine(length);
    std::vector<double> sine(length);
    for (std::size_t n = 0; n < depth_; ++n) {
      const double angle = 2.0 * std::numbers::pi * static_cast<double>(n) / static_cast<double>(length);
      cosine[n] = cosine[(length - n) % length] = std::cos(angle);
      sine[n] = std::sin(angle);
      sine[(length - n) % length] = -sine[n];
    }
    for (std::size_t u = 0; u < frequencies_; ++u) {
      for (std::size_t n = 0; n < depth_; ++n) {
        cosines_[u * depth_ + n] = cosine[u * n % length];
        sines_[u * depth_ + n] = sine[u * n % length];
      }
    }
  }

  [[nodiscard]] std::size_t length() const noexcept { return length_; }
  [[nodiscard]] std::size_t outputs() const noexcept { return 2 * frequencies_; }
  [[nodiscard]] std::size_t scratch_size() const noexcept { return 2 * depth_ * lanes; }

  /// Transform `count` ≤ lanes columns; output row o is written at out + o · stride_out, `lanes` wide.
  template <typename Value>
  void operator()(const loops& tile,
                  const Value* values,
                  std::size_t stride,
                  std::size_t count,
                  double* scratch,
                  double* out,
                  std::size_t stride_out) const noexcept
  {
    double* sums = scratch;
    double* differences = scratch + depth_ * lanes;
    if constexpr (std::is_same_v<Value, float>) {
      tile.fold_floats(values, stride, count, length_, sums, differences);
    } else {
      tile.fold_doubles(values, stride, count, length_, sums, differences);
    }
    tile.multiply(cosines_.data(), frequencies_, sums, depth_, out, 2 * stride_out);
    tile.multiply(sines_.data(), frequencies_, differences, depth_, out + stride_out, 2 * stride_out);
  }

 private:
  std::size_t length_;
  std::size_t depth_;
  std::size_t frequencies_;
  std::vector<double> cosines_;
  std::vector<double> sines_;
};

/// One worker's memory, and what it does with a group of at most `lanes` slices of one channel.
class worker {
 public:
  worker(const plane_view& pixels,
         const partial_transform& rows,
         const partial_transform& columns,
         const loops& tile)
    : pixels_{pixels},
      rows_{rows},
      columns_{columns},
      tile_{tile},
      side_by_side_{pixels.slices > 1 ? lanes : 1},
      width_{(rows.outputs() * side_by_side_ + lanes - 1) / lanes * lanes},
      scratch_(std::max(rows.scratch_size(), columns.scratch_size())),
      strip_(rows.outputs() * lanes),
      halfway_(pixels.columns * width_),
      spectrum_(columns.outputs() * width_)
  {
  }

  /// Adds the log-amplitudes of slices `first` to `first + count`, and their squares.
  void add(std::size_t channel,
           std::size_t first,
           std::size_t count,
           double floor,
           double* sums,
           double* squares) noexcept
  {
    transform_rows(pixels_.data + channel * pixels_.rows * pixels_.columns * pixels_.slices + first, count);
    for (std::size_t begin = 0; begin < width_; begin += lanes) {
      columns_(
        tile_, halfway_.data() + begin, width_, lanes, scratch_.data(), spectrum_.data() + begin, width_);
    }
    const double scale = 1.0 / (static_cast<double>(pixels_.rows) * static_cast<double>(pixels_.columns));
    for (std::size_t slice = 0; slice < count; ++slice) {
      add_slice(slice, scale, floor, sums, squares);
    }
  }

 private:
  /// halfway_[column][output of the rows' transform][slice], for all columns.
  void transform_rows(const float* plane, std::size_t count) noexcept
  {
    const std::size_t stride = pixels_.columns * pixels_.slices;
    if (side_by_side_ > 1) {
      for (std::size_t column = 0; column < pixels_.columns; ++column) {
        rows_(tile_,
              plane + column * pixels_.slices,
              stride,
              count,
              scratch_.data(),
              halfway_.data() + column * width_,
              lanes);
      }
      return;
    }
    for (std::size_t begin = 0; begin < pixels_.columns; begin += lanes) {
      const std::size_t used = std::min(lanes, pixels_.columns - begin);
      rows_(tile_, plane + begin, stride, used, scratch_.data(), strip_.data(), lanes);
      for (std::size_t lane = 0; lane < used; ++lane) {
        for (std::size_t output = 0; output < rows_.outputs(); ++output) {
          halfway_[(begin + lane) * width_ + output] = strip_[output * lanes + lane];
        }
      }
    }
  }

  /// Of a real plane F(-u, -v) is the conjugate of F(u, v): half of the block tells the other half.
  void add_slice(std::size_t slice, double scale, double floor, double* sums, double* squares) noexcept
  {
    const std::size_t half_rows = rows_.outputs() / 2 - 1;
    const std::size_t half_columns = columns_.outputs() / 2 - 1;
    const std::size_t side = 2 * half_columns + 1;
    const auto put = [&](std::size_t row, std::size_t column, double real, double imaginary) {
      const double value = std::log(std::sqrt(real * real + imaginary * imaginary) * scale + floor);
      const std::size_t mirrored = (2 * half_rows - row) * side + 2 * half_columns - column;
      const std::size_t here = row * side + column;
      sums[here] += value;
      squares[here] += value * value;
      if (mirrored != here) {
        sums[mirrored] += value;
        squares[mirrored] += value * value;
      }
    };
    const auto at = [&](std::size_t column_output, std::size_t row_output) {
      return spectrum_[column_output * width_ + row_output * side_by_side_ + slice];
    };
    for (std::size_t u = 0; u <= half_rows; ++u) {
      for (std::size_t v = 0; v <= half_columns; ++v) {
        const double cos_cos = at(2 * v, 2 * u);
        const double cos_sin = at(2 * v, 2 * u + 1);
        const double sin_cos = at(2 * v + 1, 2 * u);
        const double sin_sin = at(2 * v + 1, 2 * u + 1);
        put(half_rows + u, half_columns + v, cos_cos - sin_sin, cos_sin + sin_cos);
        if (u > 0 && v > 0) {
          put(half_rows + u, half_columns - v, cos_cos + sin_sin, cos_sin - sin_cos);
        }
      }
    }
  }

  const plane_view& pixels_;
  const partial_transform& rows_;
  const partial_transform& columns_;
  const loops& tile_;
  std::size_t side_by_side_;  // slices that lie next to each other in memory
  std::size_t width_;
  std::vector<double> scratch_;
  std::vector<double> strip_;
  std::vector<double> halfway_;
  std::vector<double> spectrum_;
};

}  // namespace

void amplitude_moments(const plane_view& pixels,
                       const block_size& block,
                       double floor,
                       std::span<double> sums,
                       std::span<double> squares,
                       std::size_t threads,
                       instruction_set set)
{
  check_amplitude_moments(pixels, block, floor, sums, squares);
  const std::size_t size = block[0] * block[1];
  const std::size_t groups = (pixels.slices + lanes - 1) / lanes;
  const std::size_t tasks = pixels.channels * groups;
  const std::size_t work = pixels.channels * pixels.rows * pixels.columns * pixels.slices;
  const std::size_t used = std::min(work < work_for_threads ? 1 : threads, tasks);
  const partial_transform rows{pixels.rows, block[0] / 2};
  const partial_transform columns{pixels.columns, block[1] / 2};
  std::vector<worker> workers(used, worker{pixels, rows, columns, loops_of(set)});
  std::vector<double> parts(tasks * 2 * size);
  fork_join(used, used, [&](std::size_t mine) {
    for (std::size_t task = mine; task < tasks; task += used) {
      const std::size_t first = task % groups * lanes;
      double* part = parts.data() + task * 2 * size;
      workers[mine].add(
        task / groups, first, std::min(lanes, pixels.slices - first), floor, part, part + size);
    }
  });
  std::fill(sums.begin(), sums.end(), 0.0);
  std::fill(squares.begin(), squares.end(), 0.0);
  for (std::size_t task = 0; task < tasks; ++task) {
    const double* part = parts.data() + task * 2 * size;
    const std::size_t begin = task / groups * size;
    for (std::size_t n = 0; n < size; ++n) {
      sums[begin + n] += part[n];
      squares[begin + n] += part[size + n];
    }
  }
}

}  // namespace fedmed
