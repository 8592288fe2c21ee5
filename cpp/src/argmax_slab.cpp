#include "fedmed/argmax_slab.hpp"

#include "argmax_slab_tile.hpp"
#include "fedmed/fork_join.hpp"

namespace fedmed {
namespace {

// Values below which a second thread costs more than it brings.
constexpr std::size_t work_for_threads = std::size_t{1} << 18;

argmax_slab_tile::run run_of([[maybe_unused]] instruction_set set) noexcept
{
#if defined(__x86_64__)
  switch (set) {
    case instruction_set::avx512: return argmax_slab_tile::avx512();
    case instruction_set::avx2: return argmax_slab_tile::avx2();
    case instruction_set::baseline: break;
  }
#endif
  return argmax_slab_tile::baseline();
}

}  // namespace

void argmax_slab(grid_view<const float> total,
                 const grid_size& start,
                 grid_view<std::uint8_t> out,
                 std::size_t threads,
                 instruction_set set)
{
  check_argmax_slab(total, start, {out.data, out.channels, out.size});
  if (cells(out.size) == 0) {
    return;
  }
  const argmax_slab_tile::run find = run_of(set);
  // Whole rows follow on each other, in both arrays.
  const bool whole_rows = out.size[2] == total.size[2];
  const std::size_t lines = whole_rows ? 1 : out.size[1];
  const std::size_t length = cells(out.size) / out.size[0] / lines;
  const std::size_t used = cells(out.size) * total.channels < work_for_threads ? 1 : threads;
  fork_join(used, out.size[0], [&](std::size_t plane) {
    for (std::size_t line = 0; line < lines; ++line) {
      const std::size_t row = (start[0] + plane) * total.size[1] + start[1] + line;
      find(total.data + row * total.size[2] + start[2],
           total.channels,
           cells(total.size),
           length,
           out.data + (plane * lines + line) * length);
    }
  });
}

}  // namespace fedmed
