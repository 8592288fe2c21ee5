#include "fedmed/running_mean.hpp"
#include "kernels.hpp"
#include "models.hpp"

namespace fedmed::bindings {
namespace {

void add(py::array& sums, const py::array& values, std::int64_t weight, double bound, std::size_t threads)
{
  const std::string where = "running_mean: `values`";
  check_axes(sums, 1, "running_mean: `sums`");
  const std::span sum_view{output<std::int64_t>(sums, "running_mean: `sums`"), side(sums, 0)};
  const element_type type = type_of(values, where);
  check_model(values, type, sums.shape(0), where);
  const sources from{{static_cast<const std::byte*>(values.data())}, type, side(values, 0)};
  const instruction_set set = chosen_instruction_set();
  run_released([&] { running_mean_add(sum_view, from, weight, bound, threads, set); });
}

void finish(const py::array& sums, double bound, std::int64_t total, py::array& out, std::size_t threads)
{
  check_axes(sums, 1, "running_mean: `sums`");
  check_axes(out, 1, "running_mean: `out`");
  const std::span sum_view{input<std::int64_t>(sums, "running_mean: `sums`"), side(sums, 0)};
  const std::span out_view{output<float>(out, "running_mean: `out`"), side(out, 0)};
  run_released([&] { running_mean_finish(sum_view, bound, total, out_view, threads); });
}

}  // namespace

void bind_running_mean(py::module_& module)
{
  module.def("running_mean_add",
             add,
             py::arg("sums"),
             py::arg("values"),
             py::arg("weight"),
             py::arg("bound"),
             py::arg("threads"));
  module.def("running_mean_finish",
             finish,
             py::arg("sums"),
             py::arg("bound"),
             py::arg("total"),
             py::arg("out"),
             py::arg("threads"));
}

}  // namespace fedmed::bindings
