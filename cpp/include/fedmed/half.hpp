#pragma once

#include <bit>
#include <cstdint>

namespace fedmed {

/// IEEE 754 binary16, by its bits.
struct float16 {
  std::uint16_t bits;
};

/// The upper half of a float32, by its bits.
struct bfloat16 {
  std::uint16_t bits;
};

[[nodiscard]] constexpr float to_float(float value) noexcept
{
  return value;
}

/// Exact; a NaN stays one. No branch, so that loops become vectors.
[[nodiscard]] constexpr float to_float(float16 value) noexcept
{
  const std::uint32_t magnitude = static_cast<std::uint32_t>(value.bits & 0x7fffU) << 13;
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000U) << 16;
  // 2^112 moves the exponent's zero; it makes denormals normal numbers at the same time.
  const auto scaled = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
  const std::uint32_t infinite = (value.bits & 0x7c00U) == 0x7c00U ? 0x7f800000U : 0U;
  return std::bit_cast<float>(scaled | sign | infinite);
}

[[nodiscard]] constexpr float to_float(bfloat16 value) noexcept
{
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

}  // namespace fedmed
