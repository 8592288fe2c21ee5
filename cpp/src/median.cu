#include "fedmed/cuda/median.hpp"

#include <limits>

#include "models.cuh"

namespace fedmed::cuda {
namespace {

/// Ranks of the sorted values whose mean is the result.
struct ranks {
  unsigned first;
  unsigned last;
  bool halved;  // as a median takes the mean of two: in float32
};

/// The result from the sum of the wanted ranks, smallest first. Plus zero: whether a zero among equals is
/// negative depends on the order of the models.
__device__ float result_of(const ranks& wanted, float lower, float upper, double sum)
{
  if (wanted.halved) {
    return (wanted.first == wanted.last ? upper : (lower + upper) * 0.5F) + 0.0F;
  }
  return static_cast<float>(sum / static_cast<double>(wanted.last - wanted.first + 1) + 0.0);
}

template <typename SourceT>
__device__ void put(SourceT* out, std::size_t n, float result, std::uint32_t worst, unsigned long long* fault)
{
  if (worst >= infinite_magnitude) {
    atomicMin(fault, static_cast<unsigned long long>(n));
  }
  const bool nan = worst > infinite_magnitude || result != result;
  out[n] = narrow_to(SourceT{}, nan ? std::bit_cast<float>(0x7FC00000U) : result);
}

/// Batcher's merge exchange. Source: Knuth, TAOCP 3, 5.2.2, algorithm M.
template <unsigned Rows>
__device__ __forceinline__ void sort(float (&values)[Rows])
{
  constexpr unsigned top = Rows <= 4 ? 2 : Rows <= 8 ? 4 : Rows <= 16 ? 8 : 16;
#pragma unroll
  for (unsigned p = top; p > 0; p /= 2) {
#pragma unroll
    for (unsigned q = top; q >= p; q /= 2) {
      const unsigned d = q == top ? p : 2 * q - p;
      const unsigned r = q == top ? 0 : p;
#pragma unroll
      for (unsigned i = 0; i < Rows; ++i) {
        if (i + d < Rows && (i & p) == r) {
          const float low = values[i];
          const float high = values[i + d];
          values[i] = fminf(low, high);
          values[i + d] = fmaxf(low, high);
        }
      }
    }
  }
}

/// One thread an element, sorted in registers. Rows beyond `count` are infinite and end behind all others.
template <unsigned Rows, typename SourceT>
__global__ void sort_in_registers(const SourceT* const* rows,
                                  unsigned count,
                                  ranks wanted,
                                  std::size_t length,
                                  SourceT* out,
                                  unsigned long long* fault)
{
  for (std::size_t n = first_step(); n < length; n += step_length()) {
    float values[Rows];
    std::uint32_t worst = 0;
#pragma unroll
    for (unsigned k = 0; k < Rows; ++k) {
      values[k] = std::bit_cast<float>(infinite_magnitude);
      if (k < count) {
        values[k] = to_float(rows[k][n]);
        worst = magnitude_of(values[k]) > worst ? magnitude_of(values[k]) : worst;
      }
    }
    sort(values);
    float lower = 0.0F;
    float upper = 0.0F;
    double sum = 0.0;
#pragma unroll
    for (unsigned k = 0; k < Rows; ++k) {
      lower = k == wanted.first ? values[k] : lower;
      upper = k == wanted.last ? values[k] : upper;
      if (!wanted.halved && k >= wanted.first && k <= wanted.last) {
        sum += static_cast<double>(values[k]);
      }
    }
    put(out, n, result_of(wanted, lower, upper, sum), worst, fault);
  }
}

constexpr unsigned shared_values = 4096;

/// One block: some elements of more models than registers can hold. Every value counts those before it.
template <typename SourceT>
__global__ void sort_by_counting(const SourceT* const* rows,
                                 unsigned count,
                                 ranks wanted,
                                 std::size_t length,
                                 SourceT* out,
                                 unsigned long long* fault)
{
  __shared__ float values[shared_values];
  __shared__ float sorted[shared_values];
  const unsigned elements = shared_values / count;
  const std::size_t first = std::size_t{blockIdx.x} * elements;
  for (unsigned place = threadIdx.x; place < elements * count; place += blockDim.x) {
    const std::size_t n = first + place % elements;
    values[place] = n < length ? to_float(rows[place / elements][n]) : 0.0F;
  }
  __syncthreads();
  for (unsigned place = threadIdx.x; place < elements * count; place += blockDim.x) {
    const unsigned element = place % elements;
    const unsigned own = place / elements;
    unsigned rank = 0;
    for (unsigned other = 0; other < count; ++other) {
      const float value = values[other * elements + element];
      rank += value < values[place] || (value == values[place] && other < own) ? 1U : 0U;
    }
    sorted[rank * elements + element] = values[place];
  }
  __syncthreads();
  for (unsigned element = threadIdx.x; element < elements && first + element < length;
       element += blockDim.x) {
    std::uint32_t worst = 0;
    for (unsigned k = 0; k < count; ++k) {
      const std::uint32_t magnitude = magnitude_of(values[k * elements + element]);
      worst = magnitude > worst ? magnitude : worst;
    }
    double sum = 0.0;
    for (unsigned k = wanted.first; !wanted.halved && k <= wanted.last; ++k) {
      sum += static_cast<double>(sorted[k * elements + element]);
    }
    const float lower = sorted[wanted.first * elements + element];
    const float upper = sorted[wanted.last * elements + element];
    put(out, first + element, result_of(wanted, lower, upper, sum), worst, fault);
  }
}

template <typename SourceT>
void run(const sources& models,
         const ranks& wanted,
         SourceT* out,
         nan_policy nan,
         const char* name,
         cudaStream_t stream)
{
  const device_models<SourceT> device{models, stream};
  const auto count = static_cast<unsigned>(device.count());
  const fault found{stream};
  const auto sort_with = [&](auto kernel, dim3 grid) {
    launch(kernel,
           grid,
           dim3(model_threads),
           stream,
           device.rows(),
           count,
           wanted,
           device.length(),
           out,
           found.data());
  };
  const dim3 grid = stepping_grid(device.length(), model_threads);
  if (count <= 4) {
    sort_with(sort_in_registers<4, SourceT>, grid);
  } else if (count <= 8) {
    sort_with(sort_in_registers<8, SourceT>, grid);
  } else if (count <= 12) {
    sort_with(sort_in_registers<12, SourceT>, grid);
  } else if (count <= 16) {
    sort_with(sort_in_registers<16, SourceT>, grid);
  } else if (count <= 32) {
    sort_with(sort_in_registers<32, SourceT>, grid);
  } else if (device.length() > 0) {
    sort_with(sort_by_counting<SourceT>,
              dim3(static_cast<unsigned>(blocks_of(device.length(), shared_values / count))));
  }
  if (nan == nan_policy::refuse) {
    found.refuse<SourceT>(models, name);
  }
}

}  // namespace

void median(const sources& models, std::byte* out, nan_policy nan, cudaStream_t stream)
{
  const auto count = static_cast<unsigned>(models.count());
  with_element(models, "median", [&](auto kind) {
    using SourceT = decltype(kind);
    run(models,
        ranks{(count - 1) / 2, count / 2, true},
        reinterpret_cast<SourceT*>(out),
        nan,
        "median",
        stream);
  });
}

void trimmed_mean(const sources& models, std::size_t cut, std::byte* out, nan_policy nan, cudaStream_t stream)
{
  check_trimmed_mean(models, cut);
  const auto count = static_cast<unsigned>(models.count());
  const auto without = static_cast<unsigned>(cut);
  with_element(models, "trimmed_mean", [&](auto kind) {
    using SourceT = decltype(kind);
    const ranks wanted{without, count - 1 - without, false};
    run(models, wanted, reinterpret_cast<SourceT*>(out), nan, "trimmed_mean", stream);
  });
}

}  // namespace fedmed::cuda
