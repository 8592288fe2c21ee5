#include "arrays.hpp"
#include "fedmed/resample.hpp"
#include "kernels.hpp"

namespace fedmed::bindings {
namespace {

/// The map of a 2-D grid leaves the first axis, whose side is 1, where it is.
index_map map_of(const py::array& matrix, const py::array& offset, py::ssize_t axes)
{
  check_axes(matrix, 2, "resample: `matrix`");
  check_axes(offset, 1, "resample: `offset`");
  FEDMED_EXPECTS(matrix.shape(0) == axes && matrix.shape(1) == axes,
                 "resample: `matrix` has shape " + shape_text(shape_of(matrix)) + ", expected (" +
                   std::to_string(axes) + ", " + std::to_string(axes) + ")");
  FEDMED_EXPECTS(offset.shape(0) == axes,
                 "resample: `offset` has shape " + shape_text(shape_of(offset)) + ", expected (" +
                   std::to_string(axes) + ",)");
  const double* factors = input<double>(matrix, "resample: `matrix`");
  const double* shifts = input<double>(offset, "resample: `offset`");
  const auto count = static_cast<std::size_t>(axes);
  const std::size_t first = 3 - count;
  index_map map{};
  for (std::size_t i = 0; i < count; ++i) {
    map.offset[first + i] = shifts[i];
    for (std::size_t j = 0; j < count; ++j) {
      map.matrix[first + i][first + j] = factors[i * count + j];
    }
  }
  return map;
}

void call(const py::array& pixels,
          const py::array& matrix,
          const py::array& offset,
          py::array& out,
          const std::string& mode,
          std::size_t threads)
{
  check_grid_axes(pixels, 1, "resample: `pixels`");
  check_axes(out, pixels.ndim(), "resample: `out`");
  const grid_view<const float> pixel_view{
    input<float>(pixels, "resample: `pixels`"), side(pixels, 0), grid_of(pixels, 1)};
  const grid_view<float> out_view{output<float>(out, "resample: `out`"), side(out, 0), grid_of(out, 1)};
  const index_map map = map_of(matrix, offset, pixels.ndim() - 1);
  const interpolation how =
    is_first(mode, "linear", "nearest", "resample: `mode`") ? interpolation::linear : interpolation::nearest;
  // From here on no Python object is touched.
  const py::gil_scoped_release release;
  resample(pixel_view, map, out_view, how, threads);
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
             py::arg("mode"),
             py::arg("threads"));
}

}  // namespace fedmed::bindings
