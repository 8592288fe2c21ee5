#include "fedmed/cuda/weighted_mean.hpp"

#include <algorithm>
#include <bit>
#include <vector>

#include "distances.cuh"
#include "models.cuh"

namespace fedmed::cuda {
namespace {

/// What the mean of an element takes.
struct averaging {
  const double* weights;
  std::size_t count;
  std::int64_t room;  // of the exponent, for the sum of all terms
  double total;
  unsigned long long* fault;
};

/// Each term is rounded to a multiple of the same power of two, as the kernel does: sums of such are exact,
/// so that the order of the models changes no bit.
template <bool HasBase, typename SourceT>
__global__ void average(
  const SourceT* const* rows, const SourceT* base, averaging by, std::size_t length, SourceT* out)
{
  for (std::size_t n = first_step(); n < length; n += step_length()) {
    const double start = HasBase ? static_cast<double>(to_float(base[n])) : 0.0;
    double largest = 0.0;
    std::uint32_t worst = 0;
#pragma unroll 8
    for (std::size_t k = 0; k < by.count; ++k) {
      const float value = to_float(rows[k][n]);
      const double distance = fabs(static_cast<double>(value) - start);
      largest = distance > largest ? distance : largest;
      worst = magnitude_of(value) > worst ? magnitude_of(value) : worst;
    }
    double sum = 0.0;
    if (worst < infinite_magnitude) {
      const std::int64_t exponent = std::bit_cast<std::int64_t>(largest) & 0x7FF0000000000000;
      const auto rounding = std::bit_cast<double>(exponent + by.room);
#pragma unroll 8
      for (std::size_t k = 0; k < by.count; ++k) {
        const double term = by.weights[k] * (static_cast<double>(to_float(rows[k][n])) - start);
        sum += (rounding + term) - rounding;
      }
    } else {
      atomicMin(by.fault, static_cast<unsigned long long>(n));
      for (std::size_t k = 0; k < by.count; ++k) {
        sum += by.weights[k] * static_cast<double>(to_float(rows[k][n]));
      }
    }
    // One bit pattern for NaN, however it came about.
    const float mean = static_cast<float>(start + sum / by.total);
    out[n] = narrow_to(SourceT{}, mean != mean ? std::bit_cast<float>(0x7FC00000U) : mean);
  }
}

template <typename SourceT>
void run(const sources& models,
         const SourceT* base,
         const std::vector<double>& factors,
         int magnitude,
         double total,
         SourceT* out,
         nan_policy nan,
         const char* kernel,
         cudaStream_t stream)
{
  const device_models<SourceT> device{models, stream};
  const device_memory<double> weights{factors, stream};
  const fault found{stream};
  const std::int64_t room = (static_cast<std::int64_t>(magnitude + 2) << 52) | (std::int64_t{1} << 51);
  const averaging by{weights.data(), factors.size(), room, total, found.data()};
  launch(base == nullptr ? average<false, SourceT> : average<true, SourceT>,
         stepping_grid(device.length(), model_threads),
         dim3(model_threads),
         stream,
         device.rows(),
         base,
         by,
         device.length(),
         out);
  if (nan == nan_policy::refuse) {
    found.refuse<SourceT>(models, kernel);
  }
}

std::uint64_t sum_of(std::span<const std::int64_t> weights)
{
  std::uint64_t sum = 0;
  for (const std::int64_t weight : weights) {
    sum += static_cast<std::uint64_t>(weight);
  }
  return sum;
}

}  // namespace

void weighted_mean(const sources& models,
                   std::span<const std::int64_t> weights,
                   std::byte* out,
                   nan_policy nan,
                   cudaStream_t stream)
{
  check_weighted_mean(models, weights);
  const std::uint64_t sum = sum_of(weights);
  const std::vector<double> factors(weights.begin(), weights.end());
  with_element(models, "weighted_mean", [&](auto kind) {
    using SourceT = decltype(kind);
    run<SourceT>(models,
                 nullptr,
                 factors,
                 static_cast<int>(std::bit_width(sum)),
                 static_cast<double>(sum),
                 reinterpret_cast<SourceT*>(out),
                 nan,
                 "weighted_mean",
                 stream);
  });
}

void clip_norm(const sources& models,
               std::span<const std::int64_t> weights,
               const sources& reference,
               double max_norm,
               std::span<double> norms,
               std::byte* out,
               cudaStream_t stream)
{
  check_clip_norm(models, weights, reference, max_norm, norms);
  with_element(models, "clip_norm", [&](auto kind) {
    using SourceT = decltype(kind);
    const auto* base = reinterpret_cast<const SourceT*>(reference.parts().front().values.front());
    distances_to<SourceT>(models, reference, norms, stream);
    std::vector<double> factors;
    for (std::size_t k = 0; k < weights.size(); ++k) {
      factors.push_back(static_cast<double>(weights[k]) * std::min(1.0, max_norm / norms[k]));
    }
    run<SourceT>(models,
                 base,
                 factors,
                 static_cast<int>(std::bit_width(models.count())),
                 static_cast<double>(sum_of(weights)),
                 reinterpret_cast<SourceT*>(out),
                 nan_policy::refuse,
                 "clip_norm",
                 stream);
  });
}

}  // namespace fedmed::cuda
