#include "fedmed/cuda/pairwise_distances.hpp"

#include <algorithm>

#include "distances.cuh"

namespace fedmed::cuda {
namespace {

// Models are taken in groups, a group in tiles: a block has two groups in shared memory, a warp a pair of
// tiles.
constexpr unsigned tile = 4;
constexpr unsigned group = 16;
constexpr unsigned group_tiles = group / tile;
constexpr unsigned stage = 256;  // elements in shared memory at once
constexpr unsigned warps = model_threads / 32;
constexpr unsigned pairs = group_tiles * group_tiles / warps;  // of tiles, that a warp takes
constexpr unsigned stages_in_float = float_additions / (stage / 32);
constexpr std::size_t partial_bytes = std::size_t{64} << 20;

[[nodiscard]] __host__ __device__ constexpr std::size_t group_pairs(std::size_t groups) noexcept
{
  return groups * (groups + 1) / 2;
}

/// One block: Σ (row i - row j)² over one chunk, for all i of one group and j of another, or of the same.
template <typename SourceT>
__global__ void __launch_bounds__(model_threads) squares_between(
  const SourceT* const* rows, std::size_t count, std::size_t length, std::size_t first_chunk, double* partial)
{
  __shared__ float values[2 * group][stage];
  const std::size_t groups = blocks_of(count, group);
  const std::size_t chunk = blockIdx.x / group_pairs(groups);
  std::size_t second = blockIdx.x % group_pairs(groups);
  std::size_t first = 0;
  for (std::size_t left = groups; second >= left; --left) {
    second -= left;
    ++first;
  }
  second += first;
  const unsigned lane = threadIdx.x % 32;
  const unsigned warp = threadIdx.x / 32;
  const std::size_t begin = (first_chunk + chunk) * distance_chunk;

  double total[pairs][tile][tile] = {};
  float sums[pairs][tile][tile] = {};
  for (unsigned number = 0; number < distance_chunk / stage; ++number) {
    const std::size_t n = begin + number * stage + threadIdx.x;
    for (unsigned row = 0; row < 2 * group; ++row) {
      const std::size_t model = (row < group ? first * group : second * group) + row % group;
      values[row][threadIdx.x] = model < count && n < length ? to_float(rows[model][n]) : 0.0F;
    }
    __syncthreads();
#pragma unroll
    for (unsigned pair = 0; pair < pairs; ++pair) {
      const unsigned top = (warp + pair * warps) / group_tiles * tile;
      const unsigned start = group + (warp + pair * warps) % group_tiles * tile;
      for (unsigned place = lane; place < stage; place += 32) {
        float left[tile];
        float right[tile];
#pragma unroll
        for (unsigned i = 0; i < tile; ++i) {
          left[i] = values[top + i][place];
          right[i] = values[start + i][place];
        }
#pragma unroll
        for (unsigned i = 0; i < tile; ++i) {
#pragma unroll
          for (unsigned j = 0; j < tile; ++j) {
            const float difference = left[i] - right[j];
            sums[pair][i][j] = fmaf(difference, difference, sums[pair][i][j]);
          }
        }
      }
    }
    __syncthreads();
    if (number % stages_in_float == stages_in_float - 1) {
#pragma unroll
      for (unsigned pair = 0; pair < pairs; ++pair) {
#pragma unroll
        for (unsigned place = 0; place < tile * tile; ++place) {
          total[pair][place / tile][place % tile] +=
            static_cast<double>(sums[pair][place / tile][place % tile]);
          sums[pair][place / tile][place % tile] = 0.0F;
        }
      }
    }
  }
#pragma unroll
  for (unsigned pair = 0; pair < pairs; ++pair) {
#pragma unroll
    for (unsigned place = 0; place < tile * tile; ++place) {
      double sum = total[pair][place / tile][place % tile];
      for (unsigned other = 16; other > 0; other /= 2) {
        sum += __shfl_sync(0xffffffffU, sum, static_cast<int>(lane ^ other));
      }
      const std::size_t i = first * group + (warp + pair * warps) / group_tiles * tile + place / tile;
      const std::size_t j = second * group + (warp + pair * warps) % group_tiles * tile + place % tile;
      if (lane == 0 && i < j && j < count) {
        partial[(chunk * count + i) * count + j] = sum;
      }
    }
  }
}

template <typename SourceT>
std::vector<double> squares_of(const sources& models, cudaStream_t stream)
{
  const device_models<SourceT> device{models, stream};
  const std::size_t count = device.count();
  const std::size_t columns = count * count;
  const std::size_t chunks = blocks_of(device.length(), distance_chunk);
  const std::size_t wave = std::clamp(partial_bytes / (columns * sizeof(double)), std::size_t{1}, chunks + 1);
  const device_memory<double> partial{std::vector<double>(wave * columns, 0.0), stream};
  const device_memory<double> total{std::vector<double>(columns, 0.0), stream};
  for (std::size_t first = 0; first < chunks; first += wave) {
    const std::size_t now = std::min(wave, chunks - first);
    launch(squares_between<SourceT>,
           dim3(static_cast<unsigned>(now * group_pairs(blocks_of(count, group)))),
           dim3(model_threads),
           stream,
           device.rows(),
           count,
           device.length(),
           first,
           partial.data());
    launch(add_chunks,
           stepping_grid(columns, model_threads),
           dim3(model_threads),
           stream,
           static_cast<const double*>(partial.data()),
           now,
           columns,
           total.data());
  }
  std::vector<double> squares(columns);
  fetch(total, squares, stream);
  return squares;
}

}  // namespace

void pairwise_distances(const sources& models,
                        matrix_view<double> distances,
                        nan_policy nan,
                        cudaStream_t stream)
{
  check_pairwise_distances(models, distances);
  const std::size_t count = models.count();
  with_element(models, "pairwise_distances", [&](auto kind) {
    using SourceT = decltype(kind);
    const std::vector<double> squares = squares_of<SourceT>(models, stream);
    if (nan == nan_policy::refuse && (!all_finite(squares) || count == 1)) {
      refuse_not_finite<SourceT>(models, "pairwise_distances", stream);
    }
    for (std::size_t i = 0; i < count; ++i) {
      distances.row(i)[i] = 0.0;
      for (std::size_t j = i + 1; j < count; ++j) {
        const double square = squares[i * count + j];
        distances.row(i)[j] = distances.row(j)[i] =
          std::isnan(square) ? std::numeric_limits<double>::quiet_NaN() : std::sqrt(square);
      }
    }
  });
}

}  // namespace fedmed::cuda
