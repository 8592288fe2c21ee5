#pragma once

// Sums of outer products of rows on a device, tile by tile of the upper triangle: what class_gram and
// lifted_class_gram share.

#include <cstddef>
#include <cstdint>

#include "device.cuh"
#include "fedmed/half.hpp"

namespace fedmed::cuda {

/// Consecutive rows of one class that one block sums for each tile.
struct gram_piece {
  static constexpr std::size_t no_partial = ~std::size_t{0};

  std::size_t label;
  std::size_t first;
  std::size_t length;
  // Packed triangle that takes its sums until all pieces of the class are added in order; `no_partial` where
  // the class has no other piece.
  std::size_t partial;
};

/// Where the sums of pieces go.
struct gram_sums {
  std::size_t columns;
  const gram_piece* pieces;
  std::size_t piece_count;
  double* grams;
  double* partial;

  /// Element (i, j), i ≤ j, of a piece's sums.
  __device__ void put(const gram_piece& piece, std::size_t i, std::size_t j, double value) const
  {
    const std::size_t triangle = columns * (columns + 1) / 2;
    const std::size_t place = i * columns - i * (i + 1) / 2 + j;
    if (piece.partial == gram_piece::no_partial) {
      grams[piece.label * triangle + place] += value;
    } else {
      partial[piece.partial * triangle + place] = value;
    }
  }
};

/// Rows of a matrix in the order of `order`.
template <typename SourceT>
struct gathered_rows {
  const SourceT* data;
  const std::uint32_t* order;
  std::size_t columns;

  [[nodiscard]] __device__ const SourceT* row(std::size_t index) const
  {
    return data + order[index] * columns;
  }
};

/// Whether float64 runs at least half as quick as float32 on the current device (A100, H100; 1/32 and less on
/// workstation devices).
[[nodiscard]] inline bool float64_is_fast()
{
  int device = 0;
  int ratio = 0;
  expect_success(cudaGetDevice(&device));
  expect_success(cudaDeviceGetAttribute(&ratio, cudaDevAttrSingleToDoublePrecisionPerfRatio, device));
  return ratio <= 2;
}

inline constexpr unsigned gram_side = 128;  // columns of a tile, in both directions
inline constexpr unsigned gram_threads = 256;

[[nodiscard]] __host__ __device__ constexpr std::size_t gram_tiles(std::size_t columns) noexcept
{
  const std::size_t side = blocks_of(columns, gram_side);
  return side * (side + 1) / 2;
}

/// Row and column of the tile of this block in the upper triangle, in tiles, and its piece.
struct gram_place {
  std::size_t row = 0;
  std::size_t column;
  std::size_t piece;

  __device__ explicit gram_place(std::size_t columns)
    : column{blockIdx.x % gram_tiles(columns)}, piece{blockIdx.x / gram_tiles(columns)}
  {
    // Row r of the triangle has `side - r` tiles.
    for (std::size_t left = blocks_of(columns, gram_side); column >= left; --left) {
      column -= left;
      ++row;
    }
    column += row;
  }
};

// --- float64 -----------------------------------------------------------------------------------------------

/// One warp: sums += left · right, four rows of both at once, in fragments of 8 × 4 and 4 × 8.
///
/// Lane l holds row l / 4 and step l % 4 of every left fragment, step l % 4 and column l / 4 of every right
/// one, and columns 2 (l % 4) and the next of row l / 4 of the sums.
/// Source: PTX ISA, "Matrix Fragments for mma.m8n8k4 with .f64 floating point type".
template <unsigned Rows, unsigned Columns>
__device__ __forceinline__ void multiply(const double (&left)[Rows],
                                         const double (&right)[Columns],
                                         double (&sums)[Rows][Columns][2])
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#pragma unroll
  for (unsigned i = 0; i < Rows; ++i) {
#pragma unroll
    for (unsigned j = 0; j < Columns; ++j) {
      asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
          : "+d"(sums[i][j][0]), "+d"(sums[i][j][1])
          : "d"(left[i]), "d"(right[j]));
    }
  }
#else
  const unsigned lane = threadIdx.x % 32;
  for (unsigned step = 0; step < 4; ++step) {
    double first[Columns];
    double second[Columns];
#pragma unroll
    for (unsigned j = 0; j < Columns; ++j) {
      first[j] = __shfl_sync(0xffffffffU, right[j], static_cast<int>(lane % 4 * 8 + step));
      second[j] = __shfl_sync(0xffffffffU, right[j], static_cast<int>(lane % 4 * 8 + 4 + step));
    }
#pragma unroll
    for (unsigned i = 0; i < Rows; ++i) {
      const double own = __shfl_sync(0xffffffffU, left[i], static_cast<int>(lane / 4 * 4 + step));
#pragma unroll
      for (unsigned j = 0; j < Columns; ++j) {
        sums[i][j][0] = fma(own, first[j], sums[i][j][0]);
        sums[i][j][1] = fma(own, second[j], sums[i][j][1]);
      }
    }
  }
#endif
}

/// One block: a tile of one piece's sums. Eight warps in two rows of four, each 64 × 32 of the tile.
template <typename RowsT>
__global__ void __launch_bounds__(gram_threads) exact_tile(RowsT rows, gram_sums sums)
{
  constexpr unsigned depth = 8;               // rows in shared memory at once, one a warp to load
  constexpr unsigned stride = gram_side + 4;  // without bank conflicts: 4 lanes' steps lie 4 banks apart
  constexpr unsigned loads = gram_side / 32;  // columns of a row that a lane loads
  constexpr unsigned fragment_rows = 8, fragment_columns = 4;
  __shared__ double left[2][depth][stride];
  __shared__ double right[2][depth][stride];

  const gram_place place{sums.columns};
  const gram_piece piece = sums.pieces[place.piece];
  const std::size_t top = place.row * gram_side;
  const std::size_t start = place.column * gram_side;
  const unsigned lane = threadIdx.x % 32;
  const unsigned warp = threadIdx.x / 32;
  const unsigned warp_row = warp / 4 * 64;
  const unsigned warp_column = warp % 4 * 32;

  double next_left[loads];
  double next_right[loads];
  const auto load = [&](std::size_t first) {
    const bool inside = first + warp < piece.length;
    const auto* source = inside ? rows.row(piece.first + first + warp) : nullptr;
#pragma unroll
    for (unsigned n = 0; n < loads; ++n) {
      const std::size_t i = top + n * 32 + lane;
      const std::size_t j = start + n * 32 + lane;
      next_left[n] = inside && i < sums.columns ? static_cast<double>(to_float(source[i])) : 0.0;
      next_right[n] = inside && j < sums.columns ? static_cast<double>(to_float(source[j])) : 0.0;
    }
  };
  const auto keep = [&](unsigned half) {
#pragma unroll
    for (unsigned n = 0; n < loads; ++n) {
      left[half][warp][n * 32 + lane] = next_left[n];
      right[half][warp][n * 32 + lane] = next_right[n];
    }
  };

  double total[fragment_rows][fragment_columns][2] = {};
  load(0);
  keep(0);
  __syncthreads();
  unsigned half = 0;
  for (std::size_t first = 0; first < piece.length; first += depth, half ^= 1U) {
    load(first + depth);  // beyond the end: zeros
#pragma unroll
    for (unsigned step = 0; step < depth; step += 4) {
      double a[fragment_rows];
      double b[fragment_columns];
#pragma unroll
      for (unsigned i = 0; i < fragment_rows; ++i) {
        a[i] = left[half][step + lane % 4][warp_row + i * 8 + lane / 4];
      }
#pragma unroll
      for (unsigned j = 0; j < fragment_columns; ++j) {
        b[j] = right[half][step + lane % 4][warp_column + j * 8 + lane / 4];
      }
      multiply(a, b, total);
    }
    keep(half ^ 1U);
    __syncthreads();
  }

#pragma unroll
  for (unsigned i = 0; i < fragment_rows; ++i) {
#pragma unroll
    for (unsigned j = 0; j < fragment_columns; ++j) {
#pragma unroll
      for (unsigned n = 0; n < 2; ++n) {
        const std::size_t row = top + warp_row + i * 8 + lane / 4;
        const std::size_t column = start + warp_column + j * 8 + lane % 4 * 2 + n;
        if (row <= column && column < sums.columns) {
          sums.put(piece, row, column, total[i][j][n]);
        }
      }
    }
  }
}

template <typename RowsT>
void launch_exact_tiles(const RowsT& rows, const gram_sums& sums, cudaStream_t stream)
{
  const dim3 grid(static_cast<unsigned>(sums.piece_count * gram_tiles(sums.columns)));
  launch(exact_tile<RowsT>, grid, dim3(gram_threads), stream, rows, sums);
}

// --- float32 -----------------------------------------------------------------------------------------------

/// One thread a column: its sum over each piece, from which the piece's mean follows.
template <typename RowsT>
__global__ void sum_columns(RowsT rows, gram_sums sums, double* columns)
{
  const std::size_t blocks = blocks_of(sums.columns, blockDim.x);
  const std::size_t column = blockIdx.x % blocks * blockDim.x + threadIdx.x;
  const std::size_t number = blockIdx.x / blocks;
  if (column >= sums.columns) {
    return;
  }
  const gram_piece piece = sums.pieces[number];
  double parts[4] = {};
  std::size_t n = 0;
  for (; n + 4 <= piece.length; n += 4) {
#pragma unroll
    for (unsigned part = 0; part < 4; ++part) {
      parts[part] += static_cast<double>(to_float(rows.row(piece.first + n + part)[column]));
    }
  }
  for (; n < piece.length; ++n) {
    parts[0] += static_cast<double>(to_float(rows.row(piece.first + n)[column]));
  }
  columns[number * sums.columns + column] = (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

/// One block: a tile of one piece's sums, 8 × 8 of it a thread. float32 over `depth` rows, then pairs of
/// float32.
template <typename RowsT>
__global__ void __launch_bounds__(gram_threads)
  fast_tile(RowsT rows, gram_sums sums, const double* column_sums)
{
  constexpr unsigned depth = 12;  // what the bound of the error stands on
  constexpr unsigned half_side = gram_side / 2;
  constexpr unsigned loads = gram_side * depth / gram_threads;
  __shared__ float left[depth][gram_side];
  __shared__ float right[depth][gram_side];

  const gram_place place{sums.columns};
  const gram_piece piece = sums.pieces[place.piece];
  const double* sum = column_sums + place.piece * sums.columns;
  const auto count = static_cast<double>(piece.length);
  const std::size_t top = place.row * gram_side;
  const std::size_t start = place.column * gram_side;
  // The column that a thread loads, of each operand, from every second row.
  const unsigned loaded = threadIdx.x % gram_side;
  const unsigned first_row = threadIdx.x / gram_side;
  const bool has_left = top + loaded < sums.columns;
  const bool has_right = start + loaded < sums.columns;
  const float left_shift = has_left ? static_cast<float>(sum[top + loaded] / count) : 0.0F;
  const float right_shift = has_right ? static_cast<float>(sum[start + loaded] / count) : 0.0F;
  // Where a thread's 8 × 8 lie: 4 in either half, so that a warp reads shared memory without conflicts.
  const unsigned row = threadIdx.x / 16 * 4;
  const unsigned column = threadIdx.x % 16 * 4;

  float high[8][8] = {};
  float low[8][8] = {};
  for (std::size_t first = 0; first < piece.length; first += depth) {
#pragma unroll
    for (unsigned n = 0; n < loads; ++n) {
      const unsigned target = n * (gram_threads / gram_side) + first_row;
      const bool inside = first + target < piece.length;
      const auto* source = inside ? rows.row(piece.first + first + target) : nullptr;
      left[target][loaded] = inside && has_left ? to_float(source[top + loaded]) - left_shift : 0.0F;
      right[target][loaded] = inside && has_right ? to_float(source[start + loaded]) - right_shift : 0.0F;
    }
    __syncthreads();
    float block[8][8] = {};
#pragma unroll
    for (unsigned step = 0; step < depth; ++step) {
      float a[8];
      float b[8];
#pragma unroll
      for (unsigned n = 0; n < 4; ++n) {
        a[n] = left[step][row + n];
        a[n + 4] = left[step][half_side + row + n];
        b[n] = right[step][column + n];
        b[n + 4] = right[step][half_side + column + n];
      }
#pragma unroll
      for (unsigned i = 0; i < 8; ++i) {
#pragma unroll
        for (unsigned j = 0; j < 8; ++j) {
          block[i][j] = fmaf(a[i], b[j], block[i][j]);
        }
      }
    }
#pragma unroll
    for (unsigned i = 0; i < 8; ++i) {
#pragma unroll
      for (unsigned j = 0; j < 8; ++j) {
        // Knuth's sum of two: `high` and what it lost.
        const float sum_of_both = high[i][j] + block[i][j];
        const float part = sum_of_both - high[i][j];
        low[i][j] += (high[i][j] - (sum_of_both - part)) + (block[i][j] - part);
        high[i][j] = sum_of_both;
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (unsigned m = 0; m < 8; ++m) {
#pragma unroll
    for (unsigned n = 0; n < 8; ++n) {
      const std::size_t i = top + m / 4 * half_side + row + m % 4;
      const std::size_t j = start + n / 4 * half_side + column + n % 4;
      if (i <= j && j < sums.columns) {
        // Σ (s + d)ᵢ (s + d)ⱼ = Σ dᵢdⱼ + sᵢ Σ (s + d)ⱼ + Σ dᵢ sⱼ.
        const auto shift_i = static_cast<double>(static_cast<float>(sum[i] / count));
        const auto shift_j = static_cast<double>(static_cast<float>(sum[j] / count));
        const double products = static_cast<double>(high[m][n]) + static_cast<double>(low[m][n]);
        sums.put(piece, i, j, products + (shift_i * sum[j] + (sum[i] - count * shift_i) * shift_j));
      }
    }
  }
}

template <typename RowsT>
void launch_fast_tiles(const RowsT& rows, const gram_sums& sums, cudaStream_t stream)
{
  constexpr unsigned threads = 128;
  const device_memory<double> columns{sums.piece_count * sums.columns, stream};
  const dim3 grid(static_cast<unsigned>(sums.piece_count * blocks_of(sums.columns, threads)));
  launch(sum_columns<RowsT>, grid, dim3(threads), stream, rows, sums, columns.data());
  const dim3 tiles(static_cast<unsigned>(sums.piece_count * gram_tiles(sums.columns)));
  launch(fast_tile<RowsT>,
         tiles,
         dim3(gram_threads),
         stream,
         rows,
         sums,
         static_cast<const double*>(columns.data()));
}

// --- pieces ------------------------------------------------------------------------------------------------

/// Every piece that has a partial triangle, in their order, added to the Gram of its class.
static __global__ void collect(gram_sums sums)
{
  const std::size_t triangle = sums.columns * (sums.columns + 1) / 2;
  for (std::size_t place = first_step(); place < triangle; place += step_length()) {
    for (std::size_t number = 0; number < sums.piece_count; ++number) {
      const gram_piece& piece = sums.pieces[number];
      if (piece.partial != gram_piece::no_partial) {
        sums.grams[piece.label * triangle + place] += sums.partial[piece.partial * triangle + place];
      }
    }
  }
}

inline void launch_collect(const gram_sums& sums, std::size_t partial_sums, cudaStream_t stream)
{
  if (partial_sums > 0) {
    const std::size_t triangle = sums.columns * (sums.columns + 1) / 2;
    launch(collect, stepping_grid(triangle, 256), dim3(256), stream, sums);
  }
}

}  // namespace fedmed::cuda
