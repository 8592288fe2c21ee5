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

/// Exact; a NaN stays one. No branch, so that loops become vectors; no subnormal float32 on the way, so that
/// a caller who flushes them gets the same.
[[nodiscard]] constexpr float to_float(float16 value) noexcept
{
  const std::uint32_t magnitude = static_cast<std::uint32_t>(value.bits & 0x7fffU) << 13;
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000U) << 16;
  const std::uint32_t exponent = value.bits & 0x7c00U;
  const std::uint32_t special = exponent == 0x7c00U ? 0x7f800000U : magnitude + 0x38000000U;
  // Below the smallest normal: 2⁻¹⁴ + value, less 2⁻¹⁴.
  const float tiny = std::bit_cast<float>(magnitude + 0x38800000U) - 0x1p-14F;
  const std::uint32_t normal = special | (magnitude & 0x7fffffU);
  return std::bit_cast<float>((exponent == 0 ? std::bit_cast<std::uint32_t>(tiny) : normal) | sign);
}

[[nodiscard]] constexpr float to_float(bfloat16 value) noexcept
{
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

}  // namespace fedmed
