#pragma once

// K models on a device, for the twins of the aggregation kernels.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "device.cuh"
#include "fedmed/aggregation.hpp"
#include "fedmed/half.hpp"

namespace fedmed::cuda {

inline constexpr unsigned model_threads = 256;

/// As `narrow` of the kernels: to the nearest, ties to even.
[[nodiscard]] __host__ __device__ inline float narrow_to(float, float value) noexcept
{
  return value;
}
[[nodiscard]] __host__ __device__ inline bfloat16 narrow_to(bfloat16, float value) noexcept
{
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const bool nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
  return {static_cast<std::uint16_t>(nan ? 0x7FC0U : (bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16)};
}
[[nodiscard]] __host__ __device__ inline float16 narrow_to(float16, float value) noexcept
{
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  const std::uint32_t rounded = (magnitude + 0xFFFU + (magnitude >> 13 & 1U) - 0x38000000U) >> 13;
  // Below the smallest normal the sum's last bit is that of the smallest subnormal.
  const float tiny = std::bit_cast<float>(magnitude < 0x38800000U ? magnitude : 0U) + 0.5F;
  const std::uint32_t small = std::bit_cast<std::uint32_t>(tiny) - std::bit_cast<std::uint32_t>(0.5F);
  const std::uint32_t large = magnitude > 0x7F800000U ? 0x7E00U : 0x7C00U;
  return {static_cast<std::uint16_t>(sign | (magnitude >= 0x47800000U  ? large
                                             : magnitude < 0x38800000U ? small
                                                                       : rounded))};
}

/// Bits of |value|: all that is not finite comes after all that is.
[[nodiscard]] __device__ inline std::uint32_t magnitude_of(float value) noexcept
{
  return std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFU;
}
inline constexpr std::uint32_t infinite_magnitude = 0x7F800000U;

/// The first element that holds a value that is not finite.
class fault {
 public:
  explicit fault(cudaStream_t stream) : first_{&none, 1, stream}, stream_{stream} {}

  [[nodiscard]] unsigned long long* data() const noexcept { return first_.data(); }

  /// @throws std::invalid_argument there is one, and it names the source
  template <typename SourceT>
  void refuse(const sources& models, const std::string& kernel) const
  {
    unsigned long long index = none;
    expect_success(cudaMemcpyAsync(&index, first_.data(), sizeof index, cudaMemcpyDeviceToHost, stream_));
    expect_success(cudaStreamSynchronize(stream_));
    for (std::size_t source = 0; index != none && source < models.count(); ++source) {
      SourceT stored{};
      const auto* values = reinterpret_cast<const SourceT*>(models.parts().front().values[source]);
      expect_success(
        cudaMemcpyAsync(&stored, values + index, sizeof stored, cudaMemcpyDeviceToHost, stream_));
      expect_success(cudaStreamSynchronize(stream_));
      const float value = to_float(stored);
      FEDMED_EXPECTS(std::isfinite(value),
                     kernel + ": " + models.describe(source, 0, index) + " has " +
                       (std::isnan(value) ? "nan" : "inf") + ", expected finite values");
    }
  }

 private:
  static constexpr unsigned long long none = ~0ULL;

  device_memory<unsigned long long> first_;
  cudaStream_t stream_;
};

/// K rows of numbers of one kind.
template <typename SourceT>
class device_models {
 public:
  device_models(const sources& models, cudaStream_t stream)
    : rows_{pointers(models), stream}, count_{models.count()}, length_{models.parts().front().tensor.length}
  {
  }

  [[nodiscard]] const SourceT* const* rows() const noexcept { return rows_.data(); }
  [[nodiscard]] std::size_t count() const noexcept { return count_; }
  [[nodiscard]] std::size_t length() const noexcept { return length_; }

 private:
  static std::vector<const SourceT*> pointers(const sources& models)
  {
    std::vector<const SourceT*> all;
    for (const std::byte* values : models.parts().front().values) {
      all.push_back(reinterpret_cast<const SourceT*>(values));
    }
    return all;
  }

  device_memory<const SourceT*> rows_;
  std::size_t count_;
  std::size_t length_;
};

/// Call `work(SourceT{})` with the kind of numbers that the models hold.
template <typename WorkT>
void with_element(const sources& models, const std::string& kernel, WorkT work)
{
  switch (models.parts().front().tensor.type) {
    case element_type::float32: return work(float{});
    case element_type::float16: return work(float16{});
    case element_type::bfloat16: return work(bfloat16{});
    case element_type::int64: break;
  }
  FEDMED_EXPECTS(false, kernel + ": `sources` has dtype int64, expected floating numbers on a CUDA device");
}

}  // namespace fedmed::cuda
