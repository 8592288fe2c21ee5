#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fedmed {

enum class element_type : std::uint8_t { float32, float16, bfloat16, int64 };

[[nodiscard]] constexpr std::size_t size_of(element_type type) noexcept
{
  switch (type) {
    case element_type::float32: return 4;
    case element_type::int64: return 8;
    case element_type::float16:
    case element_type::bfloat16: break;
  }
  return 2;
}

/// As safetensors writes it: "F32".
[[nodiscard]] const char* name(element_type type) noexcept;

/// One tensor of a safetensors file.
struct tensor_entry {
  std::string name;  // UTF-8 without control characters
  element_type type;
  std::vector<std::uint64_t> shape;
  std::size_t begin;   // byte in the file
  std::size_t length;  // elements

  [[nodiscard]] bool same_kind(const tensor_entry& other) const noexcept
  {
    return name == other.name && type == other.type && shape == other.shape;
  }
};

/// What a header may hold; a file beyond it is refused.
inline constexpr std::size_t header_bytes_cap = std::size_t{8} << 20;
inline constexpr std::size_t name_bytes_cap = 1024;
inline constexpr std::size_t axes_cap = 16;

/// Bytes before the header, which hold its length.
inline constexpr std::size_t length_bytes = 8;

/// Length of the header of a safetensors file of so many bytes, from its first `length_bytes`.
/// @throws std::invalid_argument it is beyond `header_bytes_cap` or the file's end.
[[nodiscard]] std::size_t header_length(std::span<const std::byte> beginning, std::size_t file_bytes);

/// Tensors of a safetensors file, wide elements first and by name: the order in which the format's own
/// library writes them.
///
/// The header may come from anyone. Refused are JSON that is not of the form that the format describes,
/// dtypes other than F32, F16, BF16 and I64, duplicate names, sizes that overflow or do not fit the shape,
/// and data that overlaps, has holes or does not end with the file.
///
/// Source: https://github.com/huggingface/safetensors#format
/// @throws std::invalid_argument what is wrong; the message does not name the file.
[[nodiscard]] std::vector<tensor_entry> parse_safetensors(std::string_view header, std::size_t file_bytes);

/// Beginning of a safetensors file that holds such tensors one after the other; `begin` of each is set.
[[nodiscard]] std::string safetensors_header(std::vector<tensor_entry>& tensors);

}  // namespace fedmed
