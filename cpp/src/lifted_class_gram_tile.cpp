#include "lifted_class_gram_tile.hpp"

#include "product_tile.hpp"

namespace fedmed::lifted_class_gram_tile {
namespace {

constexpr size_t lanes = vector_bytes / sizeof(float);

typedef float floats_t __attribute__((vector_size(lanes * sizeof(float))));
typedef float loose_t __attribute__((vector_size(lanes * sizeof(float)), aligned(4), may_alias));

void multiply(const float* left,
              size_t left_stride,
              const float* panel,
              size_t depth,
              float* out,
              size_t out_stride) noexcept
{
  tile_sums<floats_t> sums;
  multiply_tile(left, left_stride, panel, depth, sums);
#pragma GCC unroll 8
  for (size_t i = 0; i < tile_rows; ++i) {
#pragma GCC unroll 8
    for (size_t v = 0; v < tile_vectors; ++v) {
      *reinterpret_cast<loose_t*>(out + i * out_stride + v * lanes) = sums[i][v];
    }
  }
}

void interpolate(const float* below, const float* above, float share, size_t length, float* out) noexcept
{
  size_t j = 0;
  for (; j + lanes <= length; j += lanes) {
    const loose_t low = *reinterpret_cast<const loose_t*>(below + j);
    const loose_t high = *reinterpret_cast<const loose_t*>(above + j);
    *reinterpret_cast<loose_t*>(out + j) += low + share * (high - low);
  }
  for (; j < length; ++j) {
    out[j] += below[j] + share * (above[j] - below[j]);
  }
}

void rectify(size_t length, float* out) noexcept
{
  for (size_t j = 0; j < length; ++j) {
    out[j] = out[j] < 0.0F ? 0.0F : out[j];
  }
}

}  // namespace

const loops& FEDMED_ISA() noexcept
{
  static constexpr loops all{tile_rows, tile_columns<float>, multiply, interpolate, rectify};
  return all;
}

}  // namespace fedmed::lifted_class_gram_tile
