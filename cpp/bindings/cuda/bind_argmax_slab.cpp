#include <pybind11/stl.h>

#include "fedmed/cuda/argmax_slab.hpp"
#include "grids.hpp"

namespace fedmed::bindings::cuda {
namespace {

void call(const py::object& total, const std::vector<py::ssize_t>& start, const py::object& out)
{
  device_call call{"argmax_slab"};
  const device_array& total_array = call.array(total, "total");
  check_grid_axes(total_array, 1);
  device_array& out_array = call.array(out, "out", total_array.axes() - 1);
  const grid_view<const float> total_view{
    total_array.input<float>(), total_array.side(0), grid_of(total_array, 1)};
  const grid_view<std::uint8_t> out_view{out_array.output<std::uint8_t>(), 1, grid_of(out_array, 0)};
  const grid_size cell = cell_of(start, out_array.axes(), "argmax_slab: `start`");
  call.run([&](cudaStream_t stream) { fedmed::cuda::argmax_slab(total_view, cell, out_view, stream); });
}

}  // namespace

void bind_argmax_slab(py::module_& module)
{
  module.def("argmax_slab", call, py::arg("total"), py::arg("start"), py::arg("out"));
}

}  // namespace fedmed::bindings::cuda
