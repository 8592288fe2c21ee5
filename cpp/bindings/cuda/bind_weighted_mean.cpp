#include <pybind11/stl.h>

#include "fedmed/cuda/weighted_mean.hpp"
#include "models.hpp"

namespace fedmed::bindings::cuda {
namespace {

using objects = std::vector<py::object>;

void call_weighted_mean(const objects& models,
                        const std::vector<std::int64_t>& weights,
                        const py::object& out,
                        const std::string& nan)
{
  device_call call{"weighted_mean"};
  const fedmed::sources from = models_of(call, models, "weighted_mean");
  std::byte* to = result_of(call, out, from);
  const nan_policy policy = nan_of(nan, "weighted_mean");
  call.run([&](cudaStream_t stream) { fedmed::cuda::weighted_mean(from, weights, to, policy, stream); });
}

std::vector<double> call_clip_norm(const objects& models,
                                   const std::vector<std::int64_t>& weights,
                                   const py::object& reference,
                                   double max_norm,
                                   const py::object& out)
{
  device_call call{"clip_norm"};
  const fedmed::sources from = models_of(call, models, "clip_norm");
  const fedmed::sources centre = model_of(call, reference, "reference");
  std::byte* to = result_of(call, out, from);
  std::vector<double> norms(from.count());
  call.run([&](cudaStream_t stream) {
    fedmed::cuda::clip_norm(from, weights, centre, max_norm, norms, to, stream);
  });
  return norms;
}

}  // namespace

void bind_weighted_mean(py::module_& module)
{
  module.def("weighted_mean",
             call_weighted_mean,
             py::arg("sources"),
             py::arg("weights"),
             py::arg("out"),
             py::arg("nan"));
  module.def("clip_norm",
             call_clip_norm,
             py::arg("sources"),
             py::arg("weights"),
             py::arg("reference"),
             py::arg("max_norm"),
             py::arg("out"));
}

}  // namespace fedmed::bindings::cuda
