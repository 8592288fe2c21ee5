#include "fedmed/channel_moments.hpp"

#include <algorithm>
#include <vector>

#include "channel_moments_tile.hpp"
#include "fedmed/fork_join.hpp"

namespace fedmed {
namespace {

using channel_moments_tile::loops;

// These three are part of the definition: other numbers give other last bits.
constexpr std::size_t chunk_length = std::size_t{1} << 16;  // values of one map that are summed at once
// the same where channels are last, of all channels
constexpr std::size_t chunk_values = std::size_t{1} << 18;
constexpr std::size_t wide_enough = 64;  // columns that keep vector registers busy
// Values below which a second thread costs more than it brings.
constexpr std::size_t work_for_threads = std::size_t{1} << 18;
constexpr std::size_t tasks_by_channel = 16;

const loops& loops_of([[maybe_unused]] instruction_set set) noexcept
{
#if defined(__x86_64__)
  switch (set) {
    case instruction_set::avx512: return channel_moments_tile::avx512();
    case instruction_set::avx2: return channel_moments_tile::avx2();
    case instruction_set::baseline: break;
  }
#endif
  return channel_moments_tile::baseline();
}

/// Sums of every column in every chunk.
class partial_sums {
 public:
  partial_sums(std::size_t chunks, std::size_t columns) : columns_{columns}, values_(2 * chunks * columns) {}

  [[nodiscard]] double* sums(std::size_t chunk) noexcept { return values_.data() + 2 * chunk * columns_; }
  [[nodiscard]] double* squares(std::size_t chunk) noexcept { return sums(chunk) + columns_; }

  /// All chunks in their order; column n belongs to channel n mod C.
  void collect(std::span<double> sums_out, std::span<double> squares_out) noexcept
  {
    std::fill(sums_out.begin(), sums_out.end(), 0.0);
    std::fill(squares_out.begin(), squares_out.end(), 0.0);
    const std::size_t channels = sums_out.size();
    const std::size_t chunks = columns_ == 0 ? 0 : values_.size() / (2 * columns_);
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
      for (std::size_t first = 0; first < columns_; first += channels) {
        for (std::size_t channel = 0; channel < channels; ++channel) {
          sums_out[channel] += sums(chunk)[first + channel];
          squares_out[channel] += squares(chunk)[first + channel];
        }
      }
    }
  }

 private:
  std::size_t columns_;
  std::vector<double> values_;
};

/// One task a chunk of some channels, image after image: memory is read in its order.
partial_sums channels_first(const map_view& maps, std::size_t threads, const loops& tile)
{
  const std::size_t chunks = (maps.values + chunk_length - 1) / chunk_length;
  const std::size_t share = (maps.channels + tasks_by_channel - 1) / tasks_by_channel;
  const std::size_t shares = (maps.channels + share - 1) / share;
  partial_sums parts{chunks, maps.channels};
  fork_join(threads, chunks * shares, [&](std::size_t task) {
    const std::size_t chunk = task % chunks;
    const std::size_t first = chunk * chunk_length;
    const std::size_t length = std::min(chunk_length, maps.values - first);
    const std::size_t begin = task / chunks * share;
    const std::size_t end = std::min(begin + share, maps.channels);
    for (std::size_t image = 0; image < maps.images; ++image) {
      tile.along(maps.data + (image * maps.channels + begin) * maps.values + first,
                 end - begin,
                 maps.values,
                 length,
                 parts.sums(chunk) + begin,
                 parts.squares(chunk) + begin);
    }
  });
  return parts;
}

/// A multiple of 8, so that no column is left over from the vectors.
std::size_t pixels_a_row(std::size_t channels) noexcept
{
  return 8 * ((wide_enough + 8 * channels - 1) / (8 * channels));
}

/// One task a chunk of rows. Where channels are few, several pixels make one row.
partial_sums channels_last(const map_view& maps, std::size_t threads, const loops& tile)
{
  const std::size_t pixels = maps.channels < wide_enough ? pixels_a_row(maps.channels) : 1;
  const std::size_t columns = pixels * maps.channels;
  const std::size_t chunk_rows = std::max(std::size_t{1}, chunk_values / columns);
  const std::size_t rows = maps.images / pixels;
  const std::size_t chunks = std::max(std::size_t{1}, (rows + chunk_rows - 1) / chunk_rows);
  partial_sums parts{chunks, columns};
  fork_join(threads, chunks, [&](std::size_t chunk) {
    const std::size_t first = chunk * chunk_rows;
    const std::size_t length = std::min(chunk_rows, rows - first);
    const float* values = maps.data + first * columns;
    tile.across(values, length, columns, parts.sums(chunk), parts.squares(chunk));
    if (first + length == rows) {
      const std::size_t rest = maps.images % pixels * maps.channels;
      tile.across(values + length * columns, 1, rest, parts.sums(chunk), parts.squares(chunk));
    }
  });
  return parts;
}

}  // namespace

void channel_moments(const map_view& maps,
                     std::span<double> sums,
                     std::span<double> squares,
                     std::size_t threads,
                     instruction_set set)
{
  check_channel_moments(maps, sums, squares);
  if (maps.channels == 0) {
    return;
  }
  const std::size_t used = maps.images * maps.channels * maps.values < work_for_threads ? 1 : threads;
  const loops& tile = loops_of(set);
  partial_sums parts = maps.values == 1 ? channels_last(maps, used, tile) : channels_first(maps, used, tile);
  parts.collect(sums, squares);
}

}  // namespace fedmed
