#include "arrays.hpp"
#include "fedmed/amplitude_moments.hpp"
#include "kernels.hpp"

namespace fedmed::bindings {
namespace {

/// (C, rows, columns) or (C, rows, columns, slices).
plane_view planes_of(const py::array& pixels)
{
  check_grid_axes(pixels, 1, "amplitude_moments: `pixels`");
  return {input<float>(pixels, "amplitude_moments: `pixels`"),
          side(pixels, 0),
          side(pixels, 1),
          side(pixels, 2),
          pixels.ndim() == 4 ? side(pixels, 3) : 1};
}

void call(const py::array& pixels, double floor, py::array& sums, py::array& squares, std::size_t threads)
{
  const plane_view view = planes_of(pixels);
  check_axes(sums, 3, "amplitude_moments: `sums`");
  check_axes(squares, 3, "amplitude_moments: `squares`");
  const block_size block{side(sums, 1), side(sums, 2)};
  const std::span sum_view{output<double>(sums, "amplitude_moments: `sums`"),
                           static_cast<std::size_t>(sums.size())};
  const std::span square_view{output<double>(squares, "amplitude_moments: `squares`"),
                              static_cast<std::size_t>(squares.size())};
  const instruction_set set = chosen_instruction_set();
  // From here on no Python object is touched.
  const py::gil_scoped_release release;
  amplitude_moments(view, block, floor, sum_view, square_view, threads, set);
}

}  // namespace

void bind_amplitude_moments(py::module_& module)
{
  module.def("amplitude_moments",
             call,
             py::arg("pixels"),
             py::arg("floor"),
             py::arg("sums"),
             py::arg("squares"),
             py::arg("threads"));
}

}  // namespace fedmed::bindings
