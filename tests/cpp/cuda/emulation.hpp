#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

/// As much of CUDA as the twins use, on one processor: blocks run one after another, the threads of a block
/// as coroutines that take turns at every barrier. It shows that indices, tiles and barriers are right; it
/// shows neither races between barriers nor speed.

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x{x_}, y{y_}, z{z_} {}
};

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Blocks run one after another, so that one copy serves all of them.
#define __shared__ static

namespace emulation {

inline constexpr std::size_t stack_bytes = 128 * 1024;
inline constexpr unsigned warp_lanes = 32;

/// What a block's threads hand to each other.
inline double exchanged[1024];

/// How many times quicker float32 is than float64, which some twins choose their arithmetic by.
inline int float64_ratio = 2;

struct block {
  ucontext_t scheduler{};
  std::vector<ucontext_t> threads;
  std::vector<bool> done;
  std::function<void()> body;
  unsigned running = 0;
};

inline block* current = nullptr;
inline dim3 thread_index, block_index, block_size, grid_size;

/// The others' turn; this thread goes on when each of them has come as far.
inline void barrier()
{
  const unsigned self = current->running;
  const dim3 index = thread_index;
  swapcontext(&current->threads[self], &current->scheduler);
  current->running = self;
  thread_index = index;
}

inline void start()
{
  current->body();
  current->done[current->running] = true;
}

/// Shared by all blocks of a process: making a stack is what would take the time.
inline char* stack_of(unsigned thread)
{
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() <= thread) {
    stacks.emplace_back(new char[stack_bytes]);
  }
  return stacks[thread].get();
}

inline void run_block(const std::function<void()>& body)
{
  const unsigned count = block_size.x * block_size.y * block_size.z;
  block one;
  one.threads.resize(count);
  one.done.assign(count, false);
  one.body = body;
  current = &one;
  for (unsigned thread = 0; thread < count; ++thread) {
    getcontext(&one.threads[thread]);
    one.threads[thread].uc_stack.ss_sp = stack_of(thread);
    one.threads[thread].uc_stack.ss_size = stack_bytes;
    one.threads[thread].uc_link = &one.scheduler;
    makecontext(&one.threads[thread], start, 0);
  }
  for (bool left = true; left;) {
    left = false;
    for (unsigned thread = 0; thread < count; ++thread) {
      if (one.done[thread]) {
        continue;
      }
      one.running = thread;
      thread_index = dim3(
        thread % block_size.x, thread / block_size.x % block_size.y, thread / block_size.x / block_size.y);
      swapcontext(&one.scheduler, &one.threads[thread]);
      left = left || !one.done[thread];
    }
  }
  current = nullptr;
}

inline void run(dim3 grid, dim3 threads, const std::function<void()>& body)
{
  grid_size = grid;
  block_size = threads;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = dim3(x, y, z);
        run_block(body);
      }
    }
  }
}

}  // namespace emulation

#define threadIdx (::emulation::thread_index)
#define blockIdx (::emulation::block_index)
#define blockDim (::emulation::block_size)
#define gridDim (::emulation::grid_size)

inline void __syncthreads()
{
  emulation::barrier();
}

/// The value of another lane of the warp.
inline double __shfl_sync(unsigned, double value, int lane)
{
  const unsigned self = threadIdx.x;
  emulation::exchanged[self] = value;
  emulation::barrier();
  const double other =
    emulation::exchanged[self / emulation::warp_lanes * emulation::warp_lanes + static_cast<unsigned>(lane)];
  emulation::barrier();
  return other;
}

inline unsigned long long atomicMin(unsigned long long* address, unsigned long long value)
{
  const unsigned long long before = *address;
  *address = std::min(before, value);
  return before;
}

// --- the runtime -------------------------------------------------------------------------------------------

struct CUstream_st;
using cudaStream_t = CUstream_st*;
using cudaError_t = int;
inline constexpr cudaError_t cudaSuccess = 0;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };

inline const char* cudaGetErrorString(cudaError_t)
{
  return "out of memory";
}
inline cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t)
{
  *memory = std::malloc(bytes);
  return *memory == nullptr ? 2 : cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* memory, cudaStream_t)
{
  std::free(memory);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(
  void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t)
{
  if (bytes > 0) {
    std::memcpy(to, from, bytes);
  }
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t)
{
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
enum cudaDeviceAttr { cudaDevAttrSingleToDoublePrecisionPerfRatio };
inline cudaError_t cudaGetDevice(int* device)
{
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int)
{
  *value = emulation::float64_ratio;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t)
{
  return cudaSuccess;
}
