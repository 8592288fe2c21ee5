#include "device_arrays.hpp"
#include "fedmed/cuda/channel_moments.hpp"

namespace fedmed::bindings::cuda {
namespace {

void call(const py::object& maps, std::size_t channel_axis, const py::object& sums, const py::object& squares)
{
  device_call call{"channel_moments"};
  const device_array& map_array = call.array(maps, "maps");
  device_array& sum_array = call.array(sums, "sums", 1);
  device_array& square_array = call.array(squares, "squares", 1);
  FEDMED_EXPECTS(
    map_array.axes() >= 2,
    "channel_moments: `maps` has shape " + shape_text(map_array.shape()) + ", expected 2 or more axes");
  FEDMED_EXPECTS(channel_axis < map_array.axes(),
                 "channel_moments: `channel_axis` has " + std::to_string(channel_axis) +
                   ", expected an axis of shape " + shape_text(map_array.shape()));
  map_view view{map_array.input<float>(), 1, map_array.side(channel_axis), 1};
  for (std::size_t axis = 0; axis < map_array.axes(); ++axis) {
    if (axis < channel_axis) {
      view.images *= map_array.side(axis);
    } else if (axis > channel_axis) {
      view.values *= map_array.side(axis);
    }
  }
  const std::span sum_view{sum_array.output<double>(), sum_array.size()};
  const std::span square_view{square_array.output<double>(), square_array.size()};
  call.run([&](cudaStream_t stream) { fedmed::cuda::channel_moments(view, sum_view, square_view, stream); });
}

}  // namespace

void bind_channel_moments(py::module_& module)
{
  module.def(
    "channel_moments", call, py::arg("maps"), py::arg("channel_axis"), py::arg("sums"), py::arg("squares"));
}

}  // namespace fedmed::bindings::cuda
