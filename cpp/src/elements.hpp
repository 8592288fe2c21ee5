#pragma once

#include <cstddef>

#include "fedmed/safetensors.hpp"

namespace fedmed {

/// Elements of a floating type, at any alignment, as float32: exact.
void widen(element_type type, const std::byte* from, std::size_t count, float* to) noexcept;

/// Float32 as a floating type, to the nearest, ties to even.
void narrow(element_type type, const float* from, std::size_t count, std::byte* to) noexcept;

}  // namespace fedmed
