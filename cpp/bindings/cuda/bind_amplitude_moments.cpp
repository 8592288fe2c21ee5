#include "device_arrays.hpp"
#include "fedmed/cuda/amplitude_moments.hpp"
#include "grids.hpp"

namespace fedmed::bindings::cuda {
namespace {

void call(const py::object& pixels, double floor, const py::object& sums, const py::object& squares)
{
  device_call call{"amplitude_moments"};
  const device_array& pixel_array = call.array(pixels, "pixels");
  check_grid_axes(pixel_array, 1);
  device_array& sum_array = call.array(sums, "sums", 3);
  device_array& square_array = call.array(squares, "squares", 3);
  const plane_view view{pixel_array.input<float>(),
                        pixel_array.side(0),
                        pixel_array.side(1),
                        pixel_array.side(2),
                        pixel_array.axes() == 4 ? pixel_array.side(3) : 1};
  const block_size block{sum_array.side(1), sum_array.side(2)};
  const std::span sum_view{sum_array.output<double>(), sum_array.size()};
  const std::span square_view{square_array.output<double>(), square_array.size()};
  call.run([&](cudaStream_t stream) {
    fedmed::cuda::amplitude_moments(view, block, floor, sum_view, square_view, stream);
  });
}

}  // namespace

void bind_amplitude_moments(py::module_& module)
{
  module.def(
    "amplitude_moments", call, py::arg("pixels"), py::arg("floor"), py::arg("sums"), py::arg("squares"));
}

}  // namespace fedmed::bindings::cuda
