#include "arrays.hpp"
#include "fedmed/channel_moments.hpp"
#include "kernels.hpp"

namespace fedmed::bindings {
namespace {

void call(const py::array& maps, py::array& sums, py::array& squares, std::size_t threads)
{
  FEDMED_EXPECTS(
    maps.ndim() >= 2,
    "channel_moments: `maps` has shape " + shape_text(shape_of(maps)) + ", expected 2 or more axes");
  check_axes(sums, 1, "channel_moments: `sums`");
  check_axes(squares, 1, "channel_moments: `squares`");
  std::size_t values = 1;
  for (py::ssize_t axis = 1; axis < maps.ndim(); ++axis) {
    values *= side(maps, axis);
  }
  const matrix_view<const float> map_view{
    input<float>(maps, "channel_moments: `maps`"), side(maps, 0), values};
  const std::span sum_view{output<double>(sums, "channel_moments: `sums`"), side(sums, 0)};
  const std::span square_view{output<double>(squares, "channel_moments: `squares`"), side(squares, 0)};
  // From here on no Python object is touched.
  const py::gil_scoped_release release;
  channel_moments(map_view, sum_view, square_view, threads);
}

}  // namespace

void bind_channel_moments(py::module_& module)
{
  module.def(
    "channel_moments", call, py::arg("maps"), py::arg("sums"), py::arg("squares"), py::arg("threads"));
}

}  // namespace fedmed::bindings
