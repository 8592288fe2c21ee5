#include "fedmed/pairwise_distances.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "blocks.hpp"
#include "fedmed/fork_join.hpp"
#include "pairwise_distances_tile.hpp"

namespace fedmed {
namespace {

// Both are part of the definition: other numbers give other last bits.
constexpr std::size_t block_length = 512;
constexpr std::size_t chunk_length = std::size_t{1} << 15;
// Bytes of sums that chunks in work may hold, one set a thread.
constexpr std::size_t memory_budget = std::size_t{32} << 20;

pairwise_distances_tile::run run_of([[maybe_unused]] instruction_set set) noexcept
{
#if defined(__x86_64__)
  switch (set) {
    case instruction_set::avx512: return pairwise_distances_tile::avx512();
    case instruction_set::avx2: return pairwise_distances_tile::avx2();
    case instruction_set::baseline: break;
  }
#endif
  return pairwise_distances_tile::baseline();
}

/// In halves, whatever the instruction set.
double sum_of(const double* lanes) noexcept
{
  std::array<double, pairwise_distances_tile::sum_lanes> sums;
  std::copy(lanes, lanes + sums.size(), sums.begin());
  for (std::size_t half = sums.size() / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) {
      sums[i] += sums[i + half];
    }
  }
  return sums[0];
}

std::vector<stretch> chunks_of(const sources& models)
{
  std::vector<stretch> chunks;
  for (std::size_t part = 0; part < models.parts().size(); ++part) {
    if (models.parts()[part].tensor.type == element_type::int64) {
      continue;
    }
    const std::size_t elements = models.parts()[part].tensor.length;
    for (std::size_t first = 0; first < elements; first += chunk_length) {
      chunks.push_back({part, first, std::min(chunk_length, elements - first)});
    }
  }
  return chunks;
}

/// Σ over all chunks, in their order, of what `add` makes of the blocks of a chunk.
/// @param columns sums that a chunk has
template <typename AddT>
std::vector<double> sum_over_chunks(const sources& models,
                                    std::size_t columns,
                                    std::size_t threads,
                                    const AddT& add)
{
  const std::vector<stretch> chunks = chunks_of(models);
  const std::size_t lanes = columns * pairwise_distances_tile::sum_lanes;
  const std::size_t fitting = std::max<std::size_t>(1, memory_budget / (lanes * sizeof(double) + 1));
  const std::size_t wave = std::min(threads_within_memory(models, threads), fitting);
  std::vector<block_rows> rows;
  rows.reserve(wave);
  for (std::size_t i = 0; i < wave; ++i) {
    rows.emplace_back(models, block_length, false);
  }
  std::vector<double> parts(wave * lanes);
  std::vector<double> total(columns, 0.0);
  for (std::size_t first = 0; first < chunks.size(); first += wave) {
    const std::size_t now = std::min(wave, chunks.size() - first);
    std::fill(parts.begin(), parts.end(), 0.0);
    fork_join(now, now, [&](std::size_t task) {
      const stretch& chunk = chunks[first + task];
      for (std::size_t at = 0; at < chunk.count; at += block_length) {
        const stretch block{chunk.part, chunk.first + at, std::min(block_length, chunk.count - at)};
        const std::size_t padded = rows[task].read(block);
        add(rows[task], block, padded, parts.data() + task * lanes);
      }
    });
    for (std::size_t task = 0; task < now; ++task) {
      for (std::size_t i = 0; i < columns; ++i) {
        total[i] += sum_of(parts.data() + task * lanes + i * pairwise_distances_tile::sum_lanes);
      }
    }
  }
  models.check_read();
  return total;
}

void refuse_not_finite(const sources& models, const std::string& kernel)
{
  std::vector<float> values(chunk_length);
  for (const stretch& chunk : chunks_of(models)) {
    for (std::size_t source = 0; source < models.count(); ++source) {
      models.read_floats(chunk.part, source, chunk.first, chunk.count, values.data());
      models.check_read();
      const auto end = values.begin() + static_cast<std::ptrdiff_t>(chunk.count);
      const auto found =
        std::find_if_not(values.begin(), end, [](float value) { return std::isfinite(value); });
      FEDMED_EXPECTS(found == end,
                     kernel + ": " +
                       models.describe(
                         source, chunk.part, chunk.first + static_cast<std::size_t>(found - values.begin())) +
                       " has " + (std::isnan(*found) ? "nan" : "inf") + ", expected finite values");
    }
  }
}

/// All pairs, the first model's first, two models against the others at a time.
void add_pairs(pairwise_distances_tile::run run,
               const void* const* rows,
               std::size_t count,
               std::size_t length,
               double* sums) noexcept
{
  for (std::size_t i = 0; i + 1 < count; i += 2) {
    const std::size_t later = count - 1 - i;
    const std::size_t left = std::min<std::size_t>(2, later);
    run(rows + i, later + 1, left, length, sums);
    sums += (left == 2 ? 2 * later - 1 : later) * pairwise_distances_tile::sum_lanes;
  }
}

double distance_of(double square) noexcept
{
  return std::isnan(square) ? std::numeric_limits<double>::quiet_NaN() : std::sqrt(square);
}

bool all_finite(std::span<const double> values)
{
  return std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); });
}

}  // namespace

void pairwise_distances(const sources& models,
                        matrix_view<double> distances,
                        nan_policy nan,
                        std::size_t threads,
                        instruction_set set)
{
  check_pairwise_distances(models, distances);
  const pairwise_distances_tile::run run = run_of(set);
  const std::size_t count = models.count();
  const std::vector<double> squares =
    sum_over_chunks(models,
                    count * (count - 1) / 2,
                    threads,
                    [&](block_rows& rows, const stretch&, std::size_t padded, double* sums) {
                      add_pairs(run, rows.rows(), count, padded, sums);
                    });
  if (nan == nan_policy::refuse && (!all_finite(squares) || count == 1)) {
    refuse_not_finite(models, "pairwise_distances");
  }
  auto square = squares.begin();
  for (std::size_t i = 0; i < count; ++i) {
    distances.row(i)[i] = 0.0;
    for (std::size_t j = i + 1; j < count; ++j) {
      distances.row(i)[j] = distances.row(j)[i] = distance_of(*square++);
    }
  }
}

void distances_to(const sources& models,
                  const sources& reference,
                  std::span<double> distances,
                  std::size_t threads,
                  instruction_set set)
{
  const pairwise_distances_tile::run run = run_of(set);
  const std::size_t count = models.count();
  const std::vector<double> squares = sum_over_chunks(
    models, count, threads, [&](block_rows& rows, const stretch& block, std::size_t padded, double* sums) {
      alignas(64) std::array<float, block_length> base{};
      reference.read_floats(block.part, 0, block.first, block.count, base.data());
      std::array<const void*, sources_cap + 1> all{base.data()};
      std::copy(rows.rows(), rows.rows() + count, all.begin() + 1);
      run(all.data(), count + 1, 1, padded, sums);
    });
  reference.check_read();
  if (!all_finite(squares)) {
    refuse_not_finite(reference, "clip_norm");
    refuse_not_finite(models, "clip_norm");
  }
  std::transform(squares.begin(), squares.end(), distances.begin(), distance_of);
}

}  // namespace fedmed
