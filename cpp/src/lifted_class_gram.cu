#include "fedmed/cuda/lifted_class_gram.hpp"

#include <algorithm>
#include <deque>
#include <vector>

#include "device.cuh"
#include "gram_plan.hpp"
#include "gram_tile.cuh"
#include "lift_taps.hpp"

namespace fedmed::cuda {
namespace {

constexpr unsigned threads = 256;
// Rows that stand in memory at once. Part of the definition, as the pieces of class_gram are.
constexpr std::size_t chunk_rows = std::size_t{1} << 15;

/// Where rows lie in a map.
struct places {
  const tap* planes;
  const tap* lines;
  const tap* columns;
  std::size_t line_count, column_count;  // of the grid
  std::size_t map_lines, map_columns;

  /// The value of a row, from cells that stand `step` numbers apart.
  __device__ float sample(const float* cells, std::size_t step, std::size_t row) const
  {
    const tap column = columns[row % column_count];
    const tap line = lines[row / column_count % line_count];
    const tap plane = planes[row / column_count / line_count];
    const float value = in_plane(cells, step, plane.below, line, column);
    return plane.above == plane.below
             ? value
             : between(value, in_plane(cells, step, plane.above, line, column), plane.share);
  }

 private:
  __device__ static float between(float below, float above, float share)
  {
    return below + share * (above - below);
  }

  __device__ float in_line(const float* cells, std::size_t step, std::size_t line, const tap& column) const
  {
    const float* first = cells + line * map_columns * step;
    return between(first[column.below * step], first[column.above * step], column.share);
  }

  __device__ float in_plane(
    const float* cells, std::size_t step, std::size_t plane, const tap& line, const tap& column) const
  {
    const std::size_t first = plane * map_lines;
    return between(in_line(cells, step, first + line.below, column),
                   in_line(cells, step, first + line.above, column),
                   line.share);
  }
};

/// The weights of one map's channels.
struct channel_weights {
  const float* mean;
  const float* gain;
  const float* lift;
  const float* projection;
  std::size_t channels, lifted, projected;

  [[nodiscard]] __host__ __device__ std::size_t columns() const { return lifted + projected; }
};

/// raised[c][n] = channel c at row first + n.
__global__ void raise(const float* map,
                      std::size_t cells,
                      places at,
                      std::size_t first,
                      std::size_t rows,
                      std::size_t channels,
                      float* raised)
{
  for (std::size_t task = first_step(); task < channels * rows; task += step_length()) {
    raised[task] = at.sample(map + task / rows * cells, 1, first + task % rows);
  }
}

/// One block: 64 × 64 of out[n][column] += Σ_c (values[c][n] - mean[c]) gain[c] weights[c][column].
__global__ void __launch_bounds__(threads)
  project(const float* values, std::size_t count, channel_weights weights, float* out, std::size_t stride)
{
  constexpr unsigned side = 64, depth = 16, own = 4;
  __shared__ float left[depth][side];
  __shared__ float right[depth][side];
  const std::size_t tiles = blocks_of(weights.columns(), side);
  const std::size_t top = blockIdx.x / tiles * side;
  const std::size_t start = blockIdx.x % tiles * side;
  const unsigned row = threadIdx.x / (side / own) * own;
  const unsigned column = threadIdx.x % (side / own) * own;
  float sums[own][own] = {};
  for (std::size_t first = 0; first < weights.channels; first += depth) {
    for (unsigned place = threadIdx.x; place < depth * side; place += threads) {
      const std::size_t channel = first + place / side;
      const std::size_t n = top + place % side;
      const std::size_t j = start + place % side;
      const bool inside = channel < weights.channels;
      left[place / side][place % side] =
        inside && n < count ? (values[channel * count + n] - weights.mean[channel]) * weights.gain[channel]
                            : 0.0F;
      float weight = 0.0F;
      if (inside && j < weights.lifted) {
        weight = weights.lift[channel * weights.lifted + j];
      } else if (inside && j < weights.columns()) {
        weight = weights.projection[channel * weights.projected + j - weights.lifted];
      }
      right[place / side][place % side] = weight;
    }
    __syncthreads();
#pragma unroll
    for (unsigned step = 0; step < depth; ++step) {
#pragma unroll
      for (unsigned i = 0; i < own; ++i) {
#pragma unroll
        for (unsigned j = 0; j < own; ++j) {
          sums[i][j] = fmaf(left[step][row + i], right[step][column + j], sums[i][j]);
        }
      }
    }
    __syncthreads();
  }
  for (unsigned i = 0; i < own && top + row + i < count; ++i) {
    for (unsigned j = 0; j < own && start + column + j < weights.columns(); ++j) {
      out[(top + row + i) * stride + start + column + j] += sums[i][j];
    }
  }
}

/// rows[n][column] += what a coarse map's products are at row first + n.
__global__ void add_raised(const float* products,
                           std::size_t columns,
                           places at,
                           std::size_t first,
                           std::size_t rows,
                           float* out,
                           std::size_t stride)
{
  for (std::size_t task = first_step(); task < columns * rows; task += step_length()) {
    const std::size_t row = task / columns;
    const std::size_t column = task % columns;
    out[row * stride + column] += at.sample(products + column, columns, first + row);
  }
}

/// rows[n][c] = the standardised channel c at row first + n, where no projection comes after.
__global__ void put_features(const float* map,
                             std::size_t cells,
                             places at,
                             channel_weights weights,
                             std::size_t first,
                             std::size_t rows,
                             float* out,
                             std::size_t stride)
{
  for (std::size_t task = first_step(); task < weights.channels * rows; task += step_length()) {
    const std::size_t row = task % rows;
    const std::size_t channel = task / rows;
    const float value = at.sample(map + channel * cells, 1, first + row);
    out[row * stride + channel] = (value - weights.mean[channel]) * weights.gain[channel];
  }
}

/// relu(f W + b) in the first columns, 1 in the last.
__global__ void finish(
  const float* bias, std::size_t lifted, std::size_t rows, float* out, std::size_t stride)
{
  for (std::size_t task = first_step(); task < (lifted + 1) * rows; task += step_length()) {
    const std::size_t row = task / (lifted + 1);
    const std::size_t column = task % (lifted + 1);
    float* element = out + row * stride + (column == lifted ? stride - 1 : column);
    const float sum = column == lifted ? 1.0F : *element + bias[column];
    *element = sum > 0.0F || sum != sum ? sum : 0.0F;  // a NaN stays one
  }
}

__global__ void keep(const std::int64_t* numbers,
                     std::size_t count,
                     std::size_t first,
                     const float* rows,
                     std::size_t columns,
                     float* out)
{
  for (std::size_t task = first_step(); task < count * columns; task += step_length()) {
    const std::size_t row = static_cast<std::size_t>(numbers[task / columns]) - first;
    out[task] = rows[row * columns + task % columns];
  }
}

/// One map on its way into rows.
class scale {
 public:
  scale(const grid_view<const float>& map,
        const channel_weights& weights,
        const strided_grid& grid,
        cudaStream_t stream)
    : map_{map},
      weights_{weights},
      coarse_{cells(map.size) < std::min(grid.rows(), chunk_rows)},
      planes_{taps_of(grid, 0, map.size[0]), stream},
      lines_{taps_of(grid, 1, map.size[1]), stream},
      columns_{taps_of(grid, 2, map.size[2]), stream},
      at_{planes_.data(),
          lines_.data(),
          columns_.data(),
          grid.count(1),
          grid.count(2),
          map.size[1],
          map.size[2]},
      products_{coarse_ ? cells(map.size) * weights.columns() : 0, stream}
  {
    if (coarse_ && weights.columns() > 0) {
      const std::size_t bytes = cells(map.size) * weights.columns() * sizeof(float);
      expect_success(cudaMemsetAsync(products_.data(), 0, bytes, stream));
      multiply(map_.data, cells(map.size), products_.data(), weights.columns(), stream);
    }
  }

  /// Adds to `rows` rows from `first` on, `stride` numbers each.
  void add(std::size_t first,
           std::size_t rows,
           float* out,
           std::size_t stride,
           float* raised,
           cudaStream_t stream) const
  {
    const std::size_t size = cells(map_.size);
    const std::size_t columns = weights_.columns();
    if (columns == 0) {
      return;
    }
    if (coarse_) {
      const float* products = products_.data();
      launch(add_raised,
             stepping_grid(columns * rows, threads),
             dim3(threads),
             stream,
             products,
             columns,
             at_,
             first,
             rows,
             out,
             stride);
      return;
    }
    const std::size_t work = map_.channels * rows;
    launch(raise,
           stepping_grid(work, threads),
           dim3(threads),
           stream,
           map_.data,
           size,
           at_,
           first,
           rows,
           map_.channels,
           raised);
    multiply(raised, rows, out, stride, stream);
  }

  void put(std::size_t first, std::size_t rows, float* out, std::size_t stride, cudaStream_t stream) const
  {
    const std::size_t work = map_.channels * rows;
    launch(put_features,
           stepping_grid(work, threads),
           dim3(threads),
           stream,
           map_.data,
           cells(map_.size),
           at_,
           weights_,
           first,
           rows,
           out,
           stride);
  }

 private:
  void multiply(
    const float* values, std::size_t count, float* out, std::size_t stride, cudaStream_t stream) const
  {
    const std::size_t blocks = blocks_of(count, 64) * blocks_of(weights_.columns(), 64);
    launch(project,
           dim3(static_cast<unsigned>(blocks)),
           dim3(threads),
           stream,
           values,
           count,
           weights_,
           out,
           stride);
  }

  grid_view<const float> map_;
  channel_weights weights_;
  bool coarse_;
  device_memory<tap> planes_, lines_, columns_;
  places at_;
  device_memory<float> products_;
};

/// The Grams of rows that stand in memory.
void add_grams(const float* rows,
               std::size_t columns,
               std::span<const std::int32_t> classes,
               matrix_view<double> grams,
               bool in_float64,
               cudaStream_t stream)
{
  const gram_plan cut = plan_pieces(classes, grams.rows, gram_tiles(columns));
  if (!cut.pieces.empty()) {
    add_rows(rows, columns, cut, grams, in_float64, stream);
  }
}

}  // namespace

void lifted_class_gram(std::span<const grid_view<const float>> maps,
                       const lift_weights& weights,
                       const strided_grid& grid,
                       std::span<const std::int32_t> classes,
                       matrix_view<double> grams,
                       const kept_rows& kept,
                       gram_mode mode,
                       cudaStream_t stream)
{
  check_lifted_class_gram(maps, weights, grid, classes, grams, kept);
  const std::size_t lifted = weights.lift.columns;
  const std::size_t projected = weights.projection.columns;
  const std::size_t width = weights.row_columns();
  std::deque<scale> scales;
  std::size_t channel = 0;
  std::size_t most_channels = 0;
  for (const grid_view<const float>& map : maps) {
    scales.emplace_back(map,
                        channel_weights{weights.mean.data() + channel,
                                        weights.gain.data() + channel,
                                        weights.lift.data + channel * lifted,
                                        weights.projection.data + channel * projected,
                                        map.channels,
                                        lifted,
                                        projected},
                        grid,
                        stream);
    channel += map.channels;
    most_channels = std::max(most_channels, map.channels);
  }
  const std::size_t most_rows = std::min(chunk_rows, grid.rows());
  const device_memory<float> rows{most_rows * width, stream};
  const device_memory<float> raised{most_rows * most_channels, stream};
  const device_memory<std::int64_t> numbers{kept.numbers.data(), kept.numbers.size(), stream};
  const bool in_float64 = mode == gram_mode::exact || float64_is_fast();
  std::size_t handed_out = 0;
  for (std::size_t first = 0; first < grid.rows(); first += chunk_rows) {
    const std::size_t count = std::min(chunk_rows, grid.rows() - first);
    expect_success(cudaMemsetAsync(rows.data(), 0, count * width * sizeof(float), stream));
    std::size_t feature = lifted;
    for (std::size_t number = 0; number < scales.size(); ++number) {
      scales[number].add(first, count, rows.data(), width, raised.data(), stream);
      if (projected == 0) {
        scales[number].put(first, count, rows.data() + feature, width, stream);
        feature += maps[number].channels;
      }
    }
    launch(finish,
           stepping_grid((lifted + 1) * count, threads),
           dim3(threads),
           stream,
           weights.bias.data(),
           lifted,
           count,
           rows.data(),
           width);
    const float* made = rows.data();
    add_grams(made, width, classes.subspan(first, count), grams, in_float64, stream);
    std::size_t end = handed_out;
    while (end < kept.numbers.size() && static_cast<std::size_t>(kept.numbers[end]) < first + count) {
      ++end;
    }
    if (end > handed_out) {
      const std::int64_t* wanted = numbers.data() + handed_out;
      float* out = kept.rows.data + handed_out * width;
      launch(keep,
             stepping_grid((end - handed_out) * width, threads),
             dim3(threads),
             stream,
             wanted,
             end - handed_out,
             first,
             made,
             width,
             out);
      handed_out = end;
    }
  }
}

}  // namespace fedmed::cuda
