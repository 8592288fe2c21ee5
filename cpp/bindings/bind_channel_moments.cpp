#include "arrays.hpp"
#include "fedmed/channel_moments.hpp"
#include "kernels.hpp"

namespace fedmed::bindings {
namespace {

/// The axes before and after that of the channels are one each.
map_view maps_around(const py::array& maps, py::ssize_t axis)
{
  FEDMED_EXPECTS(
    maps.ndim() >= 2,
    "channel_moments: `maps` has shape " + shape_text(shape_of(maps)) + ", expected 2 or more axes");
  FEDMED_EXPECTS(axis >= 0 && axis < maps.ndim(),
                 "channel_moments: `channel_axis` has " + std::to_string(axis) +
                   ", expected an axis of shape " + shape_text(shape_of(maps)));
  map_view view{input<float>(maps, "channel_moments: `maps`"), 1, side(maps, axis), 1};
  for (py::ssize_t before = 0; before < axis; ++before) {
    view.images *= side(maps, before);
  }
  for (py::ssize_t after = axis + 1; after < maps.ndim(); ++after) {
    view.values *= side(maps, after);
  }
  return view;
}

void call(
  const py::array& maps, py::ssize_t channel_axis, py::array& sums, py::array& squares, std::size_t threads)
{
  check_axes(sums, 1, "channel_moments: `sums`");
  check_axes(squares, 1, "channel_moments: `squares`");
  const map_view view = maps_around(maps, channel_axis);
  const std::span sum_view{output<double>(sums, "channel_moments: `sums`"), side(sums, 0)};
  const std::span square_view{output<double>(squares, "channel_moments: `squares`"), side(squares, 0)};
  const instruction_set set = chosen_instruction_set();
  // From here on no Python object is touched.
  const py::gil_scoped_release release;
  channel_moments(view, sum_view, square_view, threads, set);
}

}  // namespace

void bind_channel_moments(py::module_& module)
{
  module.def("channel_moments",
             call,
             py::arg("maps"),
             py::arg("channel_axis"),
             py::arg("sums"),
             py::arg("squares"),
             py::arg("threads"));
}

}  // namespace fedmed::bindings
