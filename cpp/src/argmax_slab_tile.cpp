#include "argmax_slab_tile.hpp"

namespace fedmed::argmax_slab_tile {
namespace {

// Cells whose best value and channel stay in the first-level cache while all channels pass.
constexpr size_t block = 1024;

#if defined(__AVX512F__)
constexpr size_t width = 16;
#elif defined(__AVX2__)
constexpr size_t width = 8;
#else
constexpr size_t width = 4;
#endif

typedef float vector_t __attribute__((vector_size(width * sizeof(float))));
typedef float loose_t __attribute__((vector_size(width * sizeof(float)), aligned(4), may_alias));

/// Where a value is above the best one it takes its place, and `channel` that of the label.
void compare(const float* values, float channel, size_t length, float* best, float* label) noexcept
{
  const size_t whole = length - length % width;
  for (size_t n = 0; n < whole; n += width) {
    const vector_t value = *reinterpret_cast<const loose_t*>(values + n);
    loose_t& top = *reinterpret_cast<loose_t*>(best + n);
    loose_t& name = *reinterpret_cast<loose_t*>(label + n);
    const auto above = value > top;
    top = above ? value : top;
    name = above ? vector_t{} + channel : name;
  }
  for (size_t n = whole; n < length; ++n) {
    if (values[n] > best[n]) {
      best[n] = values[n];
      label[n] = channel;
    }
  }
}

void find(const float* values, size_t channels, size_t stride, size_t length, uint8_t* out) noexcept
{
  // Channel numbers are kept as floats, so that all vectors have lanes of one width.
  alignas(64) float best[block];
  alignas(64) float label[block];
  for (size_t first = 0; first < length; first += block) {
    const size_t count = length - first < block ? length - first : block;
    for (size_t n = 0; n < count; ++n) {
      best[n] = -__builtin_inff();
      label[n] = 0.0F;
    }
    for (size_t channel = 0; channel < channels; ++channel) {
      compare(values + channel * stride + first, static_cast<float>(channel), count, best, label);
    }
    for (size_t n = 0; n < count; ++n) {
      out[first + n] = static_cast<uint8_t>(static_cast<int32_t>(label[n]));
    }
  }
}

}  // namespace

run FEDMED_ISA() noexcept
{
  return find;
}

}  // namespace fedmed::argmax_slab_tile
