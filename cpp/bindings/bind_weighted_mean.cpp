#include "fedmed/weighted_mean.hpp"
#include "kernels.hpp"
#include "models.hpp"

namespace fedmed::bindings {
namespace {

void call(const py::list& models,
          const std::vector<std::int64_t>& weights,
          py::object out,
          const std::string& nan,
          std::size_t threads)
{
  const sources from = models_of(models, "weighted_mean");
  check_weighted_mean(from, weights);
  const model_output to = output_of(out, from, "weighted_mean");
  const nan_policy policy = nan_of(nan, "weighted_mean");
  const instruction_set set = chosen_instruction_set();
  run_released([&] { weighted_mean(from, weights, to, policy, threads, set); });
}

void call_clip_norm(const py::list& models,
                    const std::vector<std::int64_t>& weights,
                    const py::object& reference,
                    double max_norm,
                    py::array& norms,
                    py::object out,
                    std::size_t threads)
{
  const sources from = models_of(models, "clip_norm");
  const sources centre = model_of(reference, "clip_norm", "reference");
  check_axes(norms, 1, "clip_norm: `norms`");
  const std::span norm_view{output<double>(norms, "clip_norm: `norms`"), side(norms, 0)};
  check_clip_norm(from, weights, centre, max_norm, norm_view);
  const model_output to = output_of(out, from, "clip_norm");
  const instruction_set set = chosen_instruction_set();
  run_released([&] { clip_norm(from, weights, centre, max_norm, norm_view, to, threads, set); });
}

}  // namespace

void bind_weighted_mean(py::module_& module)
{
  module.def("weighted_mean",
             call,
             py::arg("sources"),
             py::arg("weights"),
             py::arg("out"),
             py::arg("nan"),
             py::arg("threads"));
  module.def("clip_norm",
             call_clip_norm,
             py::arg("sources"),
             py::arg("weights"),
             py::arg("reference"),
             py::arg("max_norm"),
             py::arg("norms"),
             py::arg("out"),
             py::arg("threads"));
}

}  // namespace fedmed::bindings
