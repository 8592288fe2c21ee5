#include <pybind11/stl.h>

#include "arrays.hpp"
#include "fedmed/argmax_slab.hpp"
#include "kernels.hpp"

namespace fedmed::bindings {
namespace {

void call(const py::array& total, const std::vector<py::ssize_t>& start, py::array& out, std::size_t threads)
{
  check_grid_axes(total, 1, "argmax_slab: `total`");
  check_axes(out, total.ndim() - 1, "argmax_slab: `out`");
  const grid_view<const float> total_view{
    input<float>(total, "argmax_slab: `total`"), side(total, 0), grid_of(total, 1)};
  const grid_view<std::uint8_t> out_view{output<std::uint8_t>(out, "argmax_slab: `out`"), 1, grid_of(out, 0)};
  const grid_size cell = cell_of(start, shape_of(out).size(), "argmax_slab: `start`");
  const instruction_set set = chosen_instruction_set();
  // From here on no Python object is touched.
  const py::gil_scoped_release release;
  argmax_slab(total_view, cell, out_view, threads, set);
}

}  // namespace

void bind_argmax_slab(py::module_& module)
{
  module.def("argmax_slab", call, py::arg("total"), py::arg("start"), py::arg("out"), py::arg("threads"));
}

}  // namespace fedmed::bindings
