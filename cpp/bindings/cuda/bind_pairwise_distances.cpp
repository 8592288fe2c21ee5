#include <pybind11/stl.h>

#include "fedmed/cuda/pairwise_distances.hpp"
#include "models.hpp"

namespace fedmed::bindings::cuda {
namespace {

/// K × K numbers, row after row.
std::vector<double> call(const std::vector<py::object>& models, const std::string& nan)
{
  device_call call{"pairwise_distances"};
  const fedmed::sources from = models_of(call, models, "pairwise_distances");
  const nan_policy policy = nan_of(nan, "pairwise_distances");
  std::vector<double> distances(from.count() * from.count());
  call.run([&](cudaStream_t stream) {
    fedmed::cuda::pairwise_distances(from, {distances.data(), from.count(), from.count()}, policy, stream);
  });
  return distances;
}

}  // namespace

void bind_pairwise_distances(py::module_& module)
{
  module.def("pairwise_distances", call, py::arg("sources"), py::arg("nan"));
}

}  // namespace fedmed::bindings::cuda
