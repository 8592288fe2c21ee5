#include <pybind11/stl.h>

#include "fedmed/cuda/lifted_class_gram.hpp"
#include "grids.hpp"

namespace fedmed::bindings::cuda {
namespace {

std::span<const float> vector_of(const device_array& array)
{
  return {array.input<float>(), array.side(0)};
}

matrix_view<const float> matrix_of(const device_array& array)
{
  return {array.input<float>(), array.side(0), array.side(1)};
}

void call(const std::vector<py::object>& maps,
          const py::object& mean,
          const py::object& gain,
          const py::object& lift,
          const py::object& bias,
          const py::object& projection,
          const std::vector<std::size_t>& size,
          std::size_t stride,
          const py::object& classes,
          const py::object& grams,
          const std::vector<std::int64_t>& picked,
          const py::object& kept,
          const std::string& mode)
{
  const strided_grid grid{grid_of(size, "lifted_class_gram: `size`"), stride};
  const gram_mode how = gram_mode_of(mode, "lifted_class_gram");
  device_call call{"lifted_class_gram"};
  std::vector<grid_view<const float>> map_views;
  for (const py::object& map : maps) {
    const device_array& array = call.array(map, "maps", size.size() + 1);
    map_views.push_back({array.input<float>(), array.side(0), grid_of(array, 1)});
  }
  const lift_weights weights{vector_of(call.array(mean, "mean", 1)),
                             vector_of(call.array(gain, "gain", 1)),
                             matrix_of(call.array(lift, "lift", 2)),
                             vector_of(call.array(bias, "bias", 1)),
                             matrix_of(call.array(projection, "projection", 2))};
  const device_array& class_array = call.array(classes, "classes", 1);
  const auto* device_classes = class_array.input<std::int32_t>();
  device_array& gram_array = call.array(grams, "grams", 2);
  const matrix_view<double> gram_view{gram_array.output<double>(), gram_array.side(0), gram_array.side(1)};
  device_array& kept_array = call.array(kept, "kept", 2);
  const kept_rows kept_view{picked, {kept_array.output<float>(), kept_array.side(0), kept_array.side(1)}};
  call.run([&](cudaStream_t stream) {
    const std::vector<std::int32_t> labels = to_host(device_classes, class_array.size(), stream);
    fedmed::cuda::lifted_class_gram(map_views, weights, grid, labels, gram_view, kept_view, how, stream);
  });
}

}  // namespace

void bind_lifted_class_gram(py::module_& module)
{
  module.def("lifted_class_gram",
             call,
             py::arg("maps"),
             py::arg("mean"),
             py::arg("gain"),
             py::arg("lift"),
             py::arg("bias"),
             py::arg("projection"),
             py::arg("size"),
             py::arg("stride"),
             py::arg("classes"),
             py::arg("grams"),
             py::arg("picked"),
             py::arg("kept"),
             py::arg("mode"));
}

}  // namespace fedmed::bindings::cuda
