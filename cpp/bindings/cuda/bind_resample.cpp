#include <pybind11/stl.h>

#include "fedmed/cuda/resample.hpp"
#include "grids.hpp"

namespace fedmed::bindings::cuda {
namespace {

using matrix_t = std::vector<std::vector<double>>;

/// The map of a 2-D grid leaves the first axis, whose side is 1, where it is.
index_map map_of(const matrix_t& matrix, const std::vector<double>& offset, std::size_t axes)
{
  const std::string wanted = std::to_string(axes);
  index_map map{};
  FEDMED_EXPECTS(matrix.size() == axes,
                 "resample: `matrix` has " + std::to_string(matrix.size()) + " rows, expected " + wanted);
  FEDMED_EXPECTS(
    offset.size() == axes,
    "resample: `offset` has shape (" + std::to_string(offset.size()) + ",), expected (" + wanted + ",)");
  const std::size_t first = 3 - axes;
  for (std::size_t i = 0; i < axes; ++i) {
    FEDMED_EXPECTS(matrix[i].size() == axes,
                   "resample: `matrix` has shape (" + wanted + ", " + std::to_string(matrix[i].size()) +
                     "), expected (" + wanted + ", " + wanted + ")");
    map.offset[first + i] = offset[i];
    for (std::size_t j = 0; j < axes; ++j) {
      map.matrix[first + i][first + j] = matrix[i][j];
    }
  }
  return map;
}

void call(const py::object& pixels,
          const matrix_t& matrix,
          const std::vector<double>& offset,
          const py::object& out,
          const std::string& mode)
{
  device_call call{"resample"};
  const device_array& pixel_array = call.array(pixels, "pixels");
  check_grid_axes(pixel_array, 1);
  device_array& out_array = call.array(out, "out", pixel_array.axes());
  const grid_view<const float> pixel_view{
    pixel_array.input<float>(), pixel_array.side(0), grid_of(pixel_array, 1)};
  const grid_view<float> out_view{out_array.output<float>(), out_array.side(0), grid_of(out_array, 1)};
  const index_map map = map_of(matrix, offset, pixel_array.axes() - 1);
  const interpolation how =
    is_first(mode, "linear", "nearest", "resample: `mode`") ? interpolation::linear : interpolation::nearest;
  call.run([&](cudaStream_t stream) { fedmed::cuda::resample(pixel_view, map, out_view, how, stream); });
}

}  // namespace

void bind_resample(py::module_& module)
{
  module.def("resample",
             call,
             py::arg("pixels"),
             py::arg("matrix"),
             py::arg("offset"),
             py::arg("out"),
             py::arg("mode"));
}

}  // namespace fedmed::bindings::cuda
