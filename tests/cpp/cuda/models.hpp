#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "fedmed/half.hpp"
#include "fedmed/sources.hpp"
#include "numbers.hpp"

/// K models of one kind of numbers.
struct some_models {
  fedmed::element_type type;
  std::size_t length;
  std::vector<std::vector<std::byte>> values;

  some_models(std::size_t count, std::size_t length_, fedmed::element_type type_, float mean = 0.0F)
    : type{type_}, length{length_}
  {
    for (std::size_t k = 0; k < count; ++k) {
      const std::vector<float> made = numbers::normal(length, mean, static_cast<unsigned>(k + 1));
      std::vector<std::byte> stored(length * fedmed::size_of(type));
      for (std::size_t n = 0; n < length; ++n) {
        put(stored, n, made[n]);
      }
      values.push_back(stored);
    }
  }

  /// The upper bits of a float32 serve as bfloat16; as float16 they are just some other numbers.
  void put(std::vector<std::byte>& stored, std::size_t n, float value) const
  {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const auto upper = static_cast<std::uint16_t>((bits >> 16) & 0xBFFFU);
    if (type == fedmed::element_type::float32) {
      std::memcpy(stored.data() + 4 * n, &value, 4);
    } else {
      std::memcpy(stored.data() + 2 * n, &upper, 2);
    }
  }

  [[nodiscard]] fedmed::sources view() const
  {
    std::vector<const std::byte*> rows;
    for (const std::vector<std::byte>& row : values) {
      rows.push_back(row.data());
    }
    return {rows, type, length};
  }

  [[nodiscard]] std::vector<std::byte> result() const
  {
    return std::vector<std::byte>(values.front().size());
  }
};
