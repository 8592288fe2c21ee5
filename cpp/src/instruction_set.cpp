#include "fedmed/instruction_set.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <string_view>

#include "fedmed/error.hpp"

namespace fedmed {
namespace {

constexpr std::array widest_first{instruction_set::avx512, instruction_set::avx2, instruction_set::baseline};

std::string_view without_blanks(std::string_view text) noexcept
{
  constexpr std::string_view blanks = " \t\r\n";
  const std::size_t first = std::min(text.find_first_not_of(blanks), text.size());
  return text.substr(first, text.find_last_not_of(blanks) + 1 - first);
}

instruction_set choose()
{
  const char* setting = std::getenv("FEDMED_ISA");
  const std::string_view forced = without_blanks(setting == nullptr ? "" : setting);
  for (const instruction_set set : widest_first) {
    if (is_supported(set) && (forced.empty() || name(set) == forced)) {
      return set;
    }
  }
  std::string names;
  for (const instruction_set set : widest_first) {
    if (is_supported(set)) {
      names += (names.empty() ? "`" : ", `") + std::string{name(set)} + "`";
    }
  }
  throw setting_error{"FEDMED_ISA: has `" + std::string{forced} + "`, expected one of " + names};
}

}  // namespace

bool is_supported(instruction_set set) noexcept
{
#if defined(__x86_64__)
  // By feature, because older compilers do not know the levels by name. No processor has these and lacks the
  // rest of its level.
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  switch (set) {
    case instruction_set::avx512: return v3 && v4;
    case instruction_set::avx2: return v3;
    case instruction_set::baseline: return true;
  }
#endif
  return set == instruction_set::baseline;
}

instruction_set chosen_instruction_set()
{
  static const instruction_set chosen = choose();
  return chosen;
}

std::string_view name(instruction_set set) noexcept
{
  switch (set) {
    case instruction_set::avx512: return "avx512";
    case instruction_set::avx2: return "avx2";
    case instruction_set::baseline: break;
  }
  return "baseline";
}

}  // namespace fedmed
