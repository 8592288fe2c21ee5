#include "fedmed/cuda/channel_moments.hpp"

#include "device.cuh"

namespace fedmed::cuda {
namespace {

// All are part of the definition: other numbers give other last bits.
constexpr unsigned threads = 256;
constexpr unsigned reducers = 32;  // partial sums a channel that are added side by side
constexpr std::size_t chunk_values = std::size_t{1} << 14;  // values of one channel that a block sums
constexpr std::size_t chunk_pixels = 128;  // the same where channels are last, of each thread
constexpr unsigned unroll = 4;             // sums of a thread, so that loads need not wait

struct moments {
  double sum;
  double square;

  __device__ void add(float value)
  {
    const double exact = static_cast<double>(value);
    sum += exact;
    square = fma(exact, exact, square);  // the product is exact
  }
  __device__ void add(const moments& other)
  {
    sum += other.sum;
    square += other.square;
  }
};

/// Sums of the next `count` values that `next` gives.
template <typename Next>
__device__ moments moments_of(std::size_t count, Next next)
{
  moments parts[unroll] = {};
  std::size_t n = 0;
  for (; n + unroll <= count; n += unroll) {
    float values[unroll];
#pragma unroll
    for (unsigned part = 0; part < unroll; ++part) {
      values[part] = next();
    }
#pragma unroll
    for (unsigned part = 0; part < unroll; ++part) {
      parts[part].add(values[part]);
    }
  }
  for (; n < count; ++n) {
    parts[0].add(next());
  }
  parts[0].add(parts[1]);
  parts[2].add(parts[3]);
  parts[0].add(parts[2]);
  return parts[0];
}

/// How many of `count` values fall to the one of `step` threads that takes the value `first` and every
/// step-th.
__device__ std::size_t share_of(std::size_t count, std::size_t first, std::size_t step)
{
  return first < count ? (count - first - 1) / step + 1 : 0;
}

/// One block: a chunk of one channel's values, which run over images and, within each, over `values`.
__global__ void sum_channels_first(
  const float* maps, std::size_t channels, std::size_t values, std::size_t all_values, moments* partial)
{
  __shared__ moments shared[threads];
  const std::size_t channel = blockIdx.x % channels;
  const std::size_t chunk = blockIdx.x / channels;
  const std::size_t begin = chunk * chunk_values + threadIdx.x;
  const std::size_t end = all_values < (chunk + 1) * chunk_values ? all_values : (chunk + 1) * chunk_values;
  // From one of its values to the next a thread goes on by so many images and so many places.
  const std::size_t image = channels * values;
  const std::size_t next_images = threads / values * image;
  const std::size_t next_places = threads % values;
  const float* source = maps + begin / values * image + channel * values;
  std::size_t place = begin % values;
  shared[threadIdx.x] = moments_of(share_of(end, begin, threads), [&] {
    const float value = source[place];
    source += next_images;
    place += next_places;
    if (place >= values) {
      place -= values;
      source += image;
    }
    return value;
  });
  for (unsigned half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      shared[threadIdx.x].add(shared[threadIdx.x + half]);
    }
  }
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = shared[0];
  }
}

/// One block: a chunk of pixels, at most `threads` channels of them; several pixels at once where channels
/// are few.
__global__ void sum_channels_last(
  const float* maps, std::size_t pixels, std::size_t channels, std::size_t length, moments* partial)
{
  __shared__ moments shared[threads];
  const std::size_t tiles = blocks_of(channels, threads);
  const std::size_t chunk = blockIdx.x / tiles;
  const std::size_t width = channels < threads ? channels : threads;
  const std::size_t side_by_side = threads / width;
  const std::size_t offset = threadIdx.x / width;
  const std::size_t channel = blockIdx.x % tiles * threads + threadIdx.x % width;
  const std::size_t begin = chunk * length + offset;
  const std::size_t end = pixels < (chunk + 1) * length ? pixels : (chunk + 1) * length;
  moments own{};
  if (offset < side_by_side && channel < channels) {
    const float* source = maps + begin * channels + channel;
    own = moments_of(share_of(end, begin, side_by_side), [&] {
      const float value = *source;
      source += side_by_side * channels;
      return value;
    });
  }
  shared[threadIdx.x] = own;
  __syncthreads();
  if (offset == 0 && channel < channels) {
    for (std::size_t other = 1; other < side_by_side; ++other) {
      own.add(shared[other * width + threadIdx.x]);
    }
    partial[chunk * channels + channel] = own;
  }
}

/// One block: all chunks of one channel.
__global__ void sum_chunks(
  const moments* partial, std::size_t channels, std::size_t chunks, double* sums, double* squares)
{
  __shared__ moments shared[reducers];
  moments own{};
  for (std::size_t chunk = threadIdx.x; chunk < chunks; chunk += reducers) {
    own.add(partial[chunk * channels + blockIdx.x]);
  }
  shared[threadIdx.x] = own;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned other = 1; other < reducers; ++other) {
      own.add(shared[other]);
    }
    sums[blockIdx.x] = own.sum;
    squares[blockIdx.x] = own.square;
  }
}

}  // namespace

void channel_moments(const map_view& maps,
                     std::span<double> sums,
                     std::span<double> squares,
                     cudaStream_t stream)
{
  check_channel_moments(maps, sums, squares);
  if (maps.channels == 0) {
    return;
  }
  const bool last = maps.values == 1;
  const std::size_t all_values = maps.images * maps.values;
  const std::size_t width = maps.channels < threads ? maps.channels : threads;
  const std::size_t chunk = last ? chunk_pixels * (threads / width) : chunk_values;
  const std::size_t chunks = blocks_of(all_values, chunk);
  const device_memory<moments> partial{chunks * maps.channels, stream};
  if (chunks > 0 && last) {
    const dim3 grid(static_cast<unsigned>(chunks * blocks_of(maps.channels, threads)));
    launch(sum_channels_last,
           grid,
           dim3(threads),
           stream,
           maps.data,
           maps.images,
           maps.channels,
           chunk,
           partial.data());
  } else if (chunks > 0) {
    const dim3 grid(static_cast<unsigned>(chunks * maps.channels));
    launch(sum_channels_first,
           grid,
           dim3(threads),
           stream,
           maps.data,
           maps.channels,
           maps.values,
           all_values,
           partial.data());
  }
  launch(sum_chunks,
         dim3(static_cast<unsigned>(maps.channels)),
         dim3(reducers),
         stream,
         static_cast<const moments*>(partial.data()),
         maps.channels,
         chunks,
         sums.data(),
         squares.data());
}

}  // namespace fedmed::cuda
