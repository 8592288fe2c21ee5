#pragma once

// What every twin needs of CUDA. Without a compiler for it the twins are compiled as C++ over
// tests/cpp/cuda/emulation.hpp, which runs them on the processor, so that their logic has tests everywhere.
#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "emulation.hpp"
#endif

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace fedmed::cuda {

/// @throws std::runtime_error the device refused
inline void expect_success(cudaError_t status)
{
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string{"cuda: the device answers `"} + cudaGetErrorString(status) + "`");
  }
}

/// Memory of the device, for one call. Given back in stream order: after the kernels that use it.
template <typename ElementT>
class device_memory {
 public:
  device_memory(std::size_t count, cudaStream_t stream) : stream_{stream}
  {
    // Zero bytes would give no pointer.
    const std::size_t bytes = (count == 0 ? 1 : count) * sizeof(ElementT);
    expect_success(cudaMallocAsync(reinterpret_cast<void**>(&data_), bytes, stream));
  }
  device_memory(const ElementT* host, std::size_t count, cudaStream_t stream) : device_memory{count, stream}
  {
    // From pageable memory: returns once `host` has been read.
    expect_success(cudaMemcpyAsync(data_, host, count * sizeof(ElementT), cudaMemcpyHostToDevice, stream));
  }
  device_memory(const std::vector<ElementT>& host, cudaStream_t stream)
    : device_memory{host.data(), host.size(), stream}
  {
  }
  ~device_memory() { cudaFreeAsync(data_, stream_); }
  device_memory(const device_memory&) = delete;
  device_memory& operator=(const device_memory&) = delete;

  [[nodiscard]] ElementT* data() const noexcept { return data_; }

 private:
  ElementT* data_ = nullptr;
  cudaStream_t stream_;
};

/// Run `kernel` on `grid` blocks of `block` threads.
template <typename... ParameterT, typename... ArgumentT>
void launch(void (*kernel)(ParameterT...),
            dim3 grid,
            dim3 block,
            [[maybe_unused]] cudaStream_t stream,
            ArgumentT... arguments)
{
#ifdef __CUDACC__
  kernel<<<grid, block, 0, stream>>>(arguments...);
  expect_success(cudaGetLastError());
#else
  emulation::run(grid, block, [=] { kernel(arguments...); });
#endif
}

/// How many blocks of `size` cover `count`.
[[nodiscard]] __host__ __device__ constexpr std::size_t blocks_of(std::size_t count,
                                                                  std::size_t size) noexcept
{
  return (count + size - 1) / size;
}

/// Blocks of a grid whose threads step on until all is done: enough to fill any device. Nothing may depend on
/// it.
[[nodiscard]] inline dim3 stepping_grid(std::size_t count, std::size_t block) noexcept
{
  const std::size_t blocks = blocks_of(count, block);
  return dim3(static_cast<unsigned>(blocks < 1 ? 1 : blocks > 65536 ? 65536 : blocks));
}

/// First element of a thread in a stepping grid, and how far it steps.
[[nodiscard]] __device__ inline std::size_t first_step() noexcept
{
  return std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
}
[[nodiscard]] __device__ inline std::size_t step_length() noexcept
{
  return std::size_t{gridDim.x} * blockDim.x;
}

}  // namespace fedmed::cuda
