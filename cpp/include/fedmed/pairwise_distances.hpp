#pragma once

#include <cstddef>
#include <span>

#include "fedmed/aggregation.hpp"
#include "fedmed/instruction_set.hpp"
#include "fedmed/views.hpp"

namespace fedmed {

/// Refuse what pairwise_distances cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_pairwise_distances(const sources& models, matrix_view<double> distances)
{
  FEDMED_EXPECTS(distances.rows == models.count() && distances.columns == models.count(),
                 "pairwise_distances: `distances` has shape (" + std::to_string(distances.rows) + ", " +
                   std::to_string(distances.columns) + "), expected (" + std::to_string(models.count()) +
                   ", " + std::to_string(models.count()) + ")");
}

/// Euclidean distances between K models, over all their floating elements.
///
/// From the differences, never from norms and products, which cancel: two models that differ in the last
/// digits keep their distance to a relative error of 1e-6. Squares are float32: a difference beyond 1.8e19
/// counts as infinite, one below 1e-23 as zero.
///
/// @param distances (K, K), overwritten; NaN where a model holds one
/// @throws std::invalid_argument the arguments do not fit together, or a value is not finite and `nan` is
/// refuse; std::bad_alloc
void pairwise_distances(const sources& models,
                        matrix_view<double> distances,
                        nan_policy nan,
                        std::size_t threads,
                        instruction_set set = chosen_instruction_set());

/// Euclidean distances of K models to one, in the same way.
///
/// @param distances (K,), overwritten
/// @throws as pairwise_distances
void distances_to(const sources& models,
                  const sources& reference,
                  std::span<double> distances,
                  std::size_t threads,
                  instruction_set set = chosen_instruction_set());

}  // namespace fedmed
