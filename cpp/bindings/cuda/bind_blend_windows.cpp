#include <pybind11/stl.h>

#include "fedmed/cuda/blend_windows.hpp"
#include "grids.hpp"

namespace fedmed::bindings::cuda {
namespace {

void call(const py::object& total,
          const py::object& weight,
          const py::object& window,
          const py::object& importance,
          const std::vector<py::ssize_t>& start)
{
  device_call call{"blend_windows"};
  device_array& total_array = call.array(total, "total");
  check_grid_axes(total_array, 1);
  const std::size_t axes = total_array.axes() - 1;
  device_array& weight_array = call.array(weight, "weight", axes);
  const device_array& window_array = call.array(window, "window", axes + 1);
  const device_array& importance_array = call.array(importance, "importance", axes);
  const grid_view<float> total_view{
    total_array.output<float>(), total_array.side(0), grid_of(total_array, 1)};
  const grid_view<float> weight_view{weight_array.output<float>(), 1, grid_of(weight_array, 0)};
  const grid_view<const float> window_view{
    window_array.input<float>(), window_array.side(0), grid_of(window_array, 1)};
  const grid_view<const float> importance_view{
    importance_array.input<float>(), 1, grid_of(importance_array, 0)};
  const grid_size cell = cell_of(start, axes, "blend_windows: `start`");
  call.run([&](cudaStream_t stream) {
    fedmed::cuda::blend_windows(total_view, weight_view, window_view, importance_view, cell, stream);
  });
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
             py::arg("start"));
}

}  // namespace fedmed::bindings::cuda
