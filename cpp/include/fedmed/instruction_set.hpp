#pragma once

#include <string_view>

namespace fedmed {

/// The instruction sets that tiled kernels are compiled for: on x86-64 its levels v2, v3 and v4; elsewhere
/// there is the baseline alone.
enum class instruction_set { baseline, avx2, avx512 };

/// Whether this machine (and its operating system) can run `set`.
[[nodiscard]] bool is_supported(instruction_set set) noexcept;

/// The widest supported one, or the one that the environment variable FEDMED_ISA names (for tests).
///
/// Read once a process.
/// @throws std::invalid_argument FEDMED_ISA names none, or one that this machine lacks.
[[nodiscard]] instruction_set chosen_instruction_set();

/// "baseline", "avx2" or "avx512".
[[nodiscard]] std::string_view name(instruction_set set) noexcept;

}  // namespace fedmed
