#include <pybind11/stl.h>

#include "fedmed/cuda/median.hpp"
#include "models.hpp"

namespace fedmed::bindings::cuda {
namespace {

using objects = std::vector<py::object>;

void call_median(const objects& models, const py::object& out, const std::string& nan)
{
  device_call call{"median"};
  const fedmed::sources from = models_of(call, models, "median");
  std::byte* to = result_of(call, out, from);
  const nan_policy policy = nan_of(nan, "median");
  call.run([&](cudaStream_t stream) { fedmed::cuda::median(from, to, policy, stream); });
}

void call_trimmed_mean(const objects& models, std::size_t cut, const py::object& out, const std::string& nan)
{
  device_call call{"trimmed_mean"};
  const fedmed::sources from = models_of(call, models, "trimmed_mean");
  std::byte* to = result_of(call, out, from);
  const nan_policy policy = nan_of(nan, "trimmed_mean");
  call.run([&](cudaStream_t stream) { fedmed::cuda::trimmed_mean(from, cut, to, policy, stream); });
}

}  // namespace

void bind_median(py::module_& module)
{
  module.def("median", call_median, py::arg("sources"), py::arg("out"), py::arg("nan"));
  module.def(
    "trimmed_mean", call_trimmed_mean, py::arg("sources"), py::arg("cut"), py::arg("out"), py::arg("nan"));
}

}  // namespace fedmed::bindings::cuda
