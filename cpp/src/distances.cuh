#pragma once

// Sums of squared differences on a device: what pairwise_distances and clip_norm share. Differences and
// squares are float32, 32 of them are added so, then in float64.

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "models.cuh"

namespace fedmed::cuda {

// Part of the definition: other numbers give other last bits.
inline constexpr std::size_t distance_chunk = std::size_t{1}
                                              << 13;  // elements of a model that a block goes over
inline constexpr unsigned float_additions = 32;

/// One block: Σ (row - base)² over a chunk of one model.
template <typename SourceT>
__global__ void squares_to(
  const SourceT* const* rows, std::size_t count, const SourceT* base, std::size_t length, double* partial)
{
  __shared__ double shared[model_threads];
  const SourceT* row = rows[blockIdx.x % count];
  const std::size_t first = blockIdx.x / count * distance_chunk;
  float sum = 0.0F;
#pragma unroll 8
  for (unsigned step = 0; step < distance_chunk / model_threads; ++step) {
    const std::size_t n = first + step * model_threads + threadIdx.x;
    const float difference = n < length ? to_float(row[n]) - to_float(base[n]) : 0.0F;
    sum = fmaf(difference, difference, sum);
  }
  static_assert(distance_chunk / model_threads == float_additions);
  shared[threadIdx.x] = static_cast<double>(sum);
  for (unsigned half = model_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      shared[threadIdx.x] += shared[threadIdx.x + half];
    }
  }
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = shared[0];
  }
}

/// total[i] += partial[chunk][i], all chunks in their order.
static __global__ void add_chunks(const double* partial,
                                  std::size_t chunks,
                                  std::size_t columns,
                                  double* total)
{
  for (std::size_t i = first_step(); i < columns; i += step_length()) {
    double sum = total[i];
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
      sum += partial[chunk * columns + i];
    }
    total[i] = sum;
  }
}

/// The first element of all models with a value that is not finite.
template <typename SourceT>
__global__ void find_not_finite(const SourceT* const* rows,
                                std::size_t count,
                                std::size_t length,
                                unsigned long long* first)
{
  for (std::size_t n = first_step(); n < length; n += step_length()) {
    for (std::size_t k = 0; k < count; ++k) {
      if (magnitude_of(to_float(rows[k][n])) >= infinite_magnitude) {
        atomicMin(first, static_cast<unsigned long long>(n));
      }
    }
  }
}

template <typename SourceT>
void refuse_not_finite(const sources& models, const std::string& kernel, cudaStream_t stream)
{
  const device_models<SourceT> device{models, stream};
  const fault found{stream};
  launch(find_not_finite<SourceT>,
         stepping_grid(device.length(), model_threads),
         dim3(model_threads),
         stream,
         device.rows(),
         device.count(),
         device.length(),
         found.data());
  found.refuse<SourceT>(models, kernel);
}

/// Bring sums to the host.
inline void fetch(const device_memory<double>& sums, std::span<double> to, cudaStream_t stream)
{
  expect_success(cudaMemcpyAsync(to.data(), sums.data(), to.size_bytes(), cudaMemcpyDeviceToHost, stream));
  expect_success(cudaStreamSynchronize(stream));
}

[[nodiscard]] inline bool all_finite(std::span<const double> values)
{
  bool finite = true;
  for (const double value : values) {
    finite = finite && std::isfinite(value);
  }
  return finite;
}

/// Euclidean distances of all models to a reference; refuses what is not finite.
template <typename SourceT>
void distances_to(const sources& models,
                  const sources& reference,
                  std::span<double> distances,
                  cudaStream_t stream)
{
  const device_models<SourceT> device{models, stream};
  const auto* base = reinterpret_cast<const SourceT*>(reference.parts().front().values.front());
  const std::size_t chunks = blocks_of(device.length(), distance_chunk);
  const device_memory<double> partial{chunks * device.count(), stream};
  const device_memory<double> total{std::vector<double>(device.count(), 0.0), stream};
  if (chunks > 0) {
    launch(squares_to<SourceT>,
           dim3(static_cast<unsigned>(chunks * device.count())),
           dim3(model_threads),
           stream,
           device.rows(),
           device.count(),
           base,
           device.length(),
           partial.data());
  }
  launch(add_chunks,
         stepping_grid(device.count(), model_threads),
         dim3(model_threads),
         stream,
         static_cast<const double*>(partial.data()),
         chunks,
         device.count(),
         total.data());
  fetch(total, distances, stream);
  if (!all_finite(distances)) {
    refuse_not_finite<SourceT>(reference, "clip_norm", stream);
    refuse_not_finite<SourceT>(models, "clip_norm", stream);
  }
  for (double& distance : distances) {
    distance = std::sqrt(distance);
  }
}

}  // namespace fedmed::cuda
