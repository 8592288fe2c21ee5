#include "argmax_slab_tile.hpp"

namespace fedmed::argmax_slab_tile {
namespace {

// Cells whose best value and channel stay in the first-level cache while all channels pass.
constexpr size_t block = 1024;
constexpr size_t ahead = 256;

/// Plain loops that the compiler turns into vectors: `above` selects value and channel alike.
void compare(const float* values, float channel, size_t length, float* best, float* label) noexcept
{
  for (size_t n = 0; n < length; ++n) {
    const bool above = values[n] > best[n];
    best[n] = above ? values[n] : best[n];
    label[n] = above ? channel : label[n];
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
