#include "fedmed/cuda/amplitude_moments.hpp"

#include <cmath>
#include <numbers>
#include <vector>

#include "device.cuh"

namespace fedmed::cuda {
namespace {

constexpr unsigned threads = 256;
// Frequencies along the rows that one thread sums while it reads a column once.
constexpr std::size_t group = 4;

/// Cosine, then sine, of 2π n / length for every n: the angle of u · n is that of u · n mod length.
std::vector<double> angles_of(std::size_t length)
{
  std::vector<double> table(2 * length);
  for (std::size_t n = 0; n < length; ++n) {
    const double angle = 2.0 * std::numbers::pi * static_cast<double>(n) / static_cast<double>(length);
    table[n] = std::cos(angle);
    table[length + n] = std::sin(angle);
  }
  return table;
}

/// What the three steps share. `halfway` is (C, half_rows + 1, 2, columns, slices); `logs` (C, U, V, slices).
struct transform {
  const float* pixels;
  std::size_t channels, rows, columns, slices;
  std::size_t half_rows, half_columns;  // of the block
  double floor;
  const double* row_angles;
  const double* column_angles;
  double* halfway;
  double* logs;
};

__device__ std::size_t next_angle(std::size_t angle, std::size_t step, std::size_t length)
{
  const std::size_t sum = angle + step;
  return sum < length ? sum : sum - length;
}

/// One thread: one line of pixels along the rows, for a group of frequencies.
__global__ void transform_rows(transform t)
{
  const std::size_t lines = t.columns * t.slices;
  const std::size_t groups = blocks_of(t.half_rows + 1, group);
  for (std::size_t task = first_step(); task < t.channels * groups * lines; task += step_length()) {
    const std::size_t line = task % lines;
    const std::size_t first = task / lines % groups * group;
    const std::size_t channel = task / lines / groups;
    const float* source = t.pixels + channel * t.rows * lines + line;
    double cosine[group] = {};
    double sine[group] = {};
    std::size_t angle[group] = {};
    std::size_t step[group];
    for (std::size_t u = 0; u < group; ++u) {
      step[u] = (first + u) % t.rows;
    }
    for (std::size_t n = 0; n < t.rows; ++n) {
      const auto value = static_cast<double>(source[n * lines]);
#pragma unroll
      for (std::size_t u = 0; u < group; ++u) {
        cosine[u] = fma(value, t.row_angles[angle[u]], cosine[u]);
        sine[u] = fma(value, t.row_angles[t.rows + angle[u]], sine[u]);
        angle[u] = next_angle(angle[u], step[u], t.rows);
      }
    }
    for (std::size_t u = 0; u < group && first + u <= t.half_rows; ++u) {
      double* out = t.halfway + (channel * (t.half_rows + 1) + first + u) * 2 * lines + line;
      out[0] = cosine[u];
      out[lines] = sine[u];
    }
  }
}

/// One thread: the frequencies (u, v) and (u, -v) of one slice, and by symmetry (-u, -v) and (-u, v).
__global__ void transform_columns(transform t)
{
  const std::size_t lines = t.columns * t.slices;
  const std::size_t u_count = t.half_rows + 1;
  const std::size_t v_count = t.half_columns + 1;
  const double scale = 1.0 / (static_cast<double>(t.rows) * static_cast<double>(t.columns));
  for (std::size_t task = first_step(); task < t.channels * u_count * v_count * t.slices;
       task += step_length()) {
    const std::size_t slice = task % t.slices;
    const std::size_t v = task / t.slices % v_count;
    const std::size_t u = task / t.slices / v_count % u_count;
    const std::size_t channel = task / t.slices / v_count / u_count;
    const double* source = t.halfway + (channel * u_count + u) * 2 * lines + slice;
    double cos_cos = 0.0, cos_sin = 0.0, sin_cos = 0.0, sin_sin = 0.0;
    std::size_t angle = 0;
    for (std::size_t n = 0; n < t.columns; ++n) {
      const double cosine = t.column_angles[angle];
      const double sine = t.column_angles[t.columns + angle];
      cos_cos = fma(source[n * t.slices], cosine, cos_cos);
      cos_sin = fma(source[n * t.slices], sine, cos_sin);
      sin_cos = fma(source[lines + n * t.slices], cosine, sin_cos);
      sin_sin = fma(source[lines + n * t.slices], sine, sin_sin);
      angle = next_angle(angle, v, t.columns);
    }
    const auto put = [&](std::size_t row, std::size_t column, double real, double imaginary) {
      const double value = log(sqrt(real * real + imaginary * imaginary) * scale + t.floor);
      const std::size_t row_side = 2 * t.half_rows + 1;
      const std::size_t column_side = 2 * t.half_columns + 1;
      double* out = t.logs + channel * row_side * column_side * t.slices + slice;
      out[(row * column_side + column) * t.slices] = value;
      out[((2 * t.half_rows - row) * column_side + 2 * t.half_columns - column) * t.slices] = value;
    };
    put(t.half_rows + u, t.half_columns + v, cos_cos - sin_sin, cos_sin + sin_cos);
    put(t.half_rows + u, t.half_columns - v, cos_cos + sin_sin, cos_sin - sin_cos);
  }
}

/// One thread: all slices of one frequency.
__global__ void sum_slices(
  const double* logs, std::size_t count, std::size_t slices, double* sums, double* squares)
{
  for (std::size_t place = first_step(); place < count; place += step_length()) {
    double sum = 0.0;
    double square = 0.0;
    for (std::size_t slice = 0; slice < slices; ++slice) {
      const double value = logs[place * slices + slice];
      sum += value;
      square += value * value;
    }
    sums[place] = sum;
    squares[place] = square;
  }
}

}  // namespace

void amplitude_moments(const plane_view& pixels,
                       const block_size& block,
                       double floor,
                       std::span<double> sums,
                       std::span<double> squares,
                       cudaStream_t stream)
{
  check_amplitude_moments(pixels, block, floor, sums, squares);
  const std::vector<double> row_table = angles_of(pixels.rows);
  const std::vector<double> column_table = angles_of(pixels.columns);
  const device_memory<double> row_angles{row_table.data(), row_table.size(), stream};
  const device_memory<double> column_angles{column_table.data(), column_table.size(), stream};
  const std::size_t lines = pixels.columns * pixels.slices;
  const std::size_t u_count = block[0] / 2 + 1;
  const std::size_t v_count = block[1] / 2 + 1;
  const device_memory<double> halfway{pixels.channels * u_count * 2 * lines, stream};
  const device_memory<double> logs{sums.size() * pixels.slices, stream};
  const transform steps{pixels.data,
                        pixels.channels,
                        pixels.rows,
                        pixels.columns,
                        pixels.slices,
                        block[0] / 2,
                        block[1] / 2,
                        floor,
                        row_angles.data(),
                        column_angles.data(),
                        halfway.data(),
                        logs.data()};
  const std::size_t row_tasks = pixels.channels * blocks_of(u_count, group) * lines;
  launch(transform_rows, stepping_grid(row_tasks, threads), dim3(threads), stream, steps);
  const std::size_t column_tasks = pixels.channels * u_count * v_count * pixels.slices;
  launch(transform_columns, stepping_grid(column_tasks, threads), dim3(threads), stream, steps);
  launch(sum_slices,
         stepping_grid(sums.size(), threads),
         dim3(threads),
         stream,
         static_cast<const double*>(logs.data()),
         sums.size(),
         pixels.slices,
         sums.data(),
         squares.data());
}

}  // namespace fedmed::cuda
