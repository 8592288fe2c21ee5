#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "class_order.hpp"
#include "fedmed/class_gram.hpp"
#include "gram_tile.cuh"

namespace fedmed::cuda {

// Blocks of a launch that a device should at least have. Part of the definition: it sets where sums are cut.
inline constexpr std::size_t gram_wanted_blocks = 512;
inline constexpr std::size_t gram_fewest_rows = 256;

/// Row numbers class by class, each class in row order, and the pieces that they are cut into.
struct gram_plan {
  std::vector<std::uint32_t> order;
  std::vector<gram_piece> pieces;
  std::size_t partial_sums = 0;
};

inline gram_plan plan_pieces(std::span<const std::int32_t> classes,
                             std::size_t class_count,
                             std::size_t tiles)
{
  const class_order ordered = order_by_class(classes, class_count);
  const std::vector<std::size_t>& begin = ordered.begin;
  gram_plan result;
  result.order.assign(ordered.rows.begin(), ordered.rows.end());
  const std::size_t most_rows =
    std::max(gram_fewest_rows, blocks_of(result.order.size() * tiles, gram_wanted_blocks));
  for (std::size_t label = 0; label < class_count; ++label) {
    const bool alone = begin[label + 1] - begin[label] <= most_rows;
    for (std::size_t first = begin[label]; first < begin[label + 1]; first += most_rows) {
      const std::size_t length = std::min(most_rows, begin[label + 1] - first);
      result.pieces.push_back({label, first, length, alone ? gram_piece::no_partial : result.partial_sums++});
    }
  }
  return result;
}

/// Add rows on the device to the Grams of their classes.
template <typename SourceT>
void add_rows(const SourceT* rows,
              std::size_t columns,
              const gram_plan& cut,
              matrix_view<double> grams,
              bool in_float64,
              cudaStream_t stream)
{
  const device_memory<std::uint32_t> order{cut.order.data(), cut.order.size(), stream};
  const device_memory<gram_piece> pieces{cut.pieces.data(), cut.pieces.size(), stream};
  const device_memory<double> partial{cut.partial_sums * packed_size(columns), stream};
  const gram_sums sums{columns, pieces.data(), cut.pieces.size(), grams.data, partial.data()};
  if (in_float64) {
    launch_exact_tiles(gathered_rows<SourceT>{rows, order.data(), columns}, sums, stream);
  } else {
    launch_fast_tiles(gathered_rows<SourceT>{rows, order.data(), columns}, sums, stream);
  }
  launch_collect(sums, cut.partial_sums, stream);
}

}  // namespace fedmed::cuda
