#include <pybind11/stl.h>

#include "arrays.hpp"
#include "fedmed/lifted_class_gram.hpp"
#include "kernels.hpp"

namespace fedmed::bindings {
namespace {

constexpr const char* kernel = "lifted_class_gram: ";

std::string named(const char* argument)
{
  return std::string{kernel} + "`" + argument + "`";
}

std::vector<grid_view<const float>> maps_of(const std::vector<py::array>& maps, std::size_t axes)
{
  std::vector<grid_view<const float>> views;
  for (const py::array& map : maps) {
    check_axes(map, static_cast<py::ssize_t>(axes) + 1, named("maps"));
    views.push_back({input<float>(map, named("maps")), side(map, 0), grid_of(map, 1)});
  }
  return views;
}

std::span<const float> vector_of(const py::array& array, const char* argument)
{
  check_axes(array, 1, named(argument));
  return {input<float>(array, named(argument)), side(array, 0)};
}

matrix_view<const float> matrix_of(const py::array& array, const char* argument)
{
  check_axes(array, 2, named(argument));
  return {input<float>(array, named(argument)), side(array, 0), side(array, 1)};
}

void call(const std::vector<py::array>& maps,
          const py::array& mean,
          const py::array& gain,
          const py::array& lift,
          const py::array& bias,
          const py::array& projection,
          const std::vector<std::size_t>& size,
          std::size_t stride,
          const py::array& classes,
          py::array& grams,
          const py::array& picked,
          py::array& kept,
          const std::string& mode,
          std::size_t threads)
{
  const strided_grid grid{grid_of(size, named("size")), stride};
  const gram_mode how = gram_mode_of(mode, "lifted_class_gram");
  check_axes(classes, 1, named("classes"));
  check_axes(grams, 2, named("grams"));
  check_axes(picked, 1, named("picked"));
  check_axes(kept, 2, named("kept"));
  const std::vector<grid_view<const float>> map_views = maps_of(maps, size.size());
  const lift_weights weights{vector_of(mean, "mean"),
                             vector_of(gain, "gain"),
                             matrix_of(lift, "lift"),
                             vector_of(bias, "bias"),
                             matrix_of(projection, "projection")};
  const std::span class_view{input<std::int32_t>(classes, named("classes")), side(classes, 0)};
  const matrix_view<double> gram_view{output<double>(grams, named("grams")), side(grams, 0), side(grams, 1)};
  const kept_rows kept_view{{input<std::int64_t>(picked, named("picked")), side(picked, 0)},
                            {output<float>(kept, named("kept")), side(kept, 0), side(kept, 1)}};
  const instruction_set set = chosen_instruction_set();
  // From here on no Python object is touched.
  const py::gil_scoped_release release;
  lifted_class_gram(map_views, weights, grid, class_view, gram_view, kept_view, threads, set, how);
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
             py::arg("mode"),
             py::arg("threads"));
}

}  // namespace fedmed::bindings
