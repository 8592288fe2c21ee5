#include <pybind11/stl.h>

#include "arrays.hpp"
#include "fedmed/blend_windows.hpp"
#include "kernels.hpp"

namespace fedmed::bindings {
namespace {

void call(py::array& total,
          py::array& weight,
          const py::array& window,
          const py::array& importance,
          const std::vector<py::ssize_t>& start,
          std::size_t threads)
{
  check_grid_axes(total, 1, "blend_windows: `total`");
  check_axes(weight, total.ndim() - 1, "blend_windows: `weight`");
  check_axes(window, total.ndim(), "blend_windows: `window`");
  check_axes(importance, total.ndim() - 1, "blend_windows: `importance`");
  const grid_view<float> total_view{
    output<float>(total, "blend_windows: `total`"), side(total, 0), grid_of(total, 1)};
  const grid_view<float> weight_view{output<float>(weight, "blend_windows: `weight`"), 1, grid_of(weight, 0)};
  const grid_view<const float> window_view{
    input<float>(window, "blend_windows: `window`"), side(window, 0), grid_of(window, 1)};
  const grid_view<const float> importance_view{
    input<float>(importance, "blend_windows: `importance`"), 1, grid_of(importance, 0)};
  const grid_size cell = cell_of(start, shape_of(weight).size(), "blend_windows: `start`");
  // From here on no Python object is touched.
  const py::gil_scoped_release release;
  blend_windows(total_view, weight_view, window_view, importance_view, cell, threads);
}

}  // namespace

void bind_blend_windows(py::module_& module)
{
  module.def("blend_windows",
             call,
             py::arg("total"),
             py::arg("weight"),
             py::arg("window"),
             py::arg("importance"),
             py::arg("start"),
             py::arg("threads"));
}

}  // namespace fedmed::bindings
