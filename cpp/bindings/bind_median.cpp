#include "fedmed/median.hpp"
#include "kernels.hpp"
#include "models.hpp"

namespace fedmed::bindings {
namespace {

void call(const py::list& models, py::object out, const std::string& nan, std::size_t threads)
{
  const sources from = models_of(models, "median");
  const model_output to = output_of(out, from, "median");
  const nan_policy policy = nan_of(nan, "median");
  const instruction_set set = chosen_instruction_set();
  run_released([&] { median(from, to, policy, threads, set); });
}

void call_trimmed_mean(
  const py::list& models, std::size_t cut, py::object out, const std::string& nan, std::size_t threads)
{
  const sources from = models_of(models, "trimmed_mean");
  check_trimmed_mean(from, cut);
  const model_output to = output_of(out, from, "trimmed_mean");
  const nan_policy policy = nan_of(nan, "trimmed_mean");
  const instruction_set set = chosen_instruction_set();
  run_released([&] { trimmed_mean(from, cut, to, policy, threads, set); });
}

}  // namespace

void bind_median(py::module_& module)
{
  module.def("median", call, py::arg("sources"), py::arg("out"), py::arg("nan"), py::arg("threads"));
  module.def("trimmed_mean",
             call_trimmed_mean,
             py::arg("sources"),
             py::arg("cut"),
             py::arg("out"),
             py::arg("nan"),
             py::arg("threads"));
}

}  // namespace fedmed::bindings
