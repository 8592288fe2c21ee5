#include "elements.hpp"

#include <bit>
#include <cstdint>
#include <cstring>

#include "fedmed/half.hpp"

namespace fedmed {
namespace {

constexpr std::uint32_t quiet = 0x7FC00000;

std::uint16_t load_half(const std::byte* from) noexcept
{
  std::uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return bits;
}

void store_half(std::byte* to, std::uint32_t bits) noexcept
{
  const auto half = static_cast<std::uint16_t>(bits);
  std::memcpy(to, &half, sizeof half);
}

std::uint32_t narrow_float16(float value) noexcept
{
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000;
  const std::uint32_t magnitude = bits & 0x7FFFFFFF;
  const std::uint32_t rounded = (magnitude + 0xFFF + (magnitude >> 13 & 1) - 0x38000000U) >> 13;
  // Below the smallest normal the sum's last bit is that of the smallest subnormal.
  const float tiny = std::bit_cast<float>(magnitude < 0x38800000 ? magnitude : 0) + 0.5F;
  const std::uint32_t small = std::bit_cast<std::uint32_t>(tiny) - std::bit_cast<std::uint32_t>(0.5F);
  const std::uint32_t large = magnitude > 0x7F800000 ? 0x7E00 : 0x7C00;
  return sign | (magnitude >= 0x47800000 ? large : magnitude < 0x38800000 ? small : rounded);
}

std::uint32_t narrow_bfloat16(float value) noexcept
{
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
  return nan ? quiet >> 16 : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

}  // namespace

void widen(element_type type, const std::byte* from, std::size_t count, float* to) noexcept
{
  if (type == element_type::float32) {
    std::memcpy(to, from, count * sizeof(float));
  } else if (type == element_type::float16) {
    for (std::size_t i = 0; i < count; ++i) {
      to[i] = to_float(float16{load_half(from + 2 * i)});
    }
  } else {
    for (std::size_t i = 0; i < count; ++i) {
      to[i] = to_float(bfloat16{load_half(from + 2 * i)});
    }
  }
}

void narrow(element_type type, const float* from, std::size_t count, std::byte* to) noexcept
{
  if (type == element_type::float32) {
    std::memcpy(to, from, count * sizeof(float));
  } else if (type == element_type::float16) {
    for (std::size_t i = 0; i < count; ++i) {
      store_half(to + 2 * i, narrow_float16(from[i]));
    }
  } else {
    for (std::size_t i = 0; i < count; ++i) {
      store_half(to + 2 * i, narrow_bfloat16(from[i]));
    }
  }
}

}  // namespace fedmed
