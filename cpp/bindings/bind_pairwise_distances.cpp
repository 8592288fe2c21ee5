#include "fedmed/pairwise_distances.hpp"
#include "kernels.hpp"
#include "models.hpp"

namespace fedmed::bindings {
namespace {

void call(const py::list& models, py::array& distances, const std::string& nan, std::size_t threads)
{
  const sources from = models_of(models, "pairwise_distances");
  check_axes(distances, 2, "pairwise_distances: `distances`");
  const matrix_view<double> distance_view{
    output<double>(distances, "pairwise_distances: `distances`"), side(distances, 0), side(distances, 1)};
  const nan_policy policy = nan_of(nan, "pairwise_distances");
  const instruction_set set = chosen_instruction_set();
  run_released([&] { pairwise_distances(from, distance_view, policy, threads, set); });
}

}  // namespace

void bind_pairwise_distances(py::module_& module)
{
  module.def(
    "pairwise_distances", call, py::arg("sources"), py::arg("distances"), py::arg("nan"), py::arg("threads"));
}

}  // namespace fedmed::bindings
