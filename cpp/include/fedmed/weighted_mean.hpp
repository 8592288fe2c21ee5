#pragma once

#include <cmath>
#include <cstddef>
#include <span>

#include "fedmed/aggregation.hpp"
#include "fedmed/instruction_set.hpp"

namespace fedmed {

/// Refuse what weighted_mean cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_weighted_mean(const sources& models, std::span<const std::int64_t> weights)
{
  check_weights("weighted_mean", weights, models.count());
}

/// Mean of K models, weighted by example counts.
///
/// Products are exact in float64 and so are their sums, but for a part 2^-51 of the largest that a sum of
/// these weights and values can be: the order of the models changes no bit. The mean is rounded to float32.
///
/// @param weights (K,) from 0 to 2^29 - 1
/// @throws std::invalid_argument the arguments do not fit together, or a value is not finite and `nan` is
/// refuse; std::system_error the file cannot be written; std::bad_alloc
void weighted_mean(const sources& models,
                   std::span<const std::int64_t> weights,
                   const model_output& out,
                   nan_policy nan,
                   std::size_t threads,
                   instruction_set set = chosen_instruction_set());

/// Refuse what clip_norm cannot take.
/// @throws std::invalid_argument with what was found and what is expected.
inline void check_clip_norm(const sources& models,
                            std::span<const std::int64_t> weights,
                            const sources& reference,
                            double max_norm,
                            std::span<const double> norms)
{
  check_weights("clip_norm", weights, models.count());
  FEDMED_EXPECTS(reference.count() == 1, "clip_norm: `reference` has more than one model, expected one");
  FEDMED_EXPECTS(
    std::isfinite(max_norm) && max_norm > 0.0,
    "clip_norm: `max_norm` has " + std::to_string(max_norm) + ", expected a finite number above 0");
  FEDMED_EXPECTS(norms.size() == models.count(),
                 "clip_norm: `norms` has " + std::to_string(norms.size()) + " elements, expected " +
                   std::to_string(models.count()));
  models.check_same_tensors(reference, "clip_norm");
}

/// Weighted mean of K models, each drawn towards a reference until its difference is at most `max_norm` long.
///
/// reference + Σ_k w_k min(1, max_norm / n_k) (x_k - reference) / Σ_k w_k, where n_k is the Euclidean norm
/// of x_k - reference over all floating elements, as pairwise_distances takes it. Two passes over the
/// models; values that are not finite are refused. The order of the models changes no bit.
///
/// @param norms (K,) n_k, overwritten
/// @throws std::invalid_argument the arguments do not fit together, or a value is not finite;
/// std::system_error the file cannot be written; std::bad_alloc
void clip_norm(const sources& models,
               std::span<const std::int64_t> weights,
               const sources& reference,
               double max_norm,
               std::span<double> norms,
               const model_output& out,
               std::size_t threads,
               instruction_set set = chosen_instruction_set());

}  // namespace fedmed
