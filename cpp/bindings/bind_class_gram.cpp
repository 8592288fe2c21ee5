#include "arrays.hpp"
#include "fedmed/class_gram.hpp"
#include "kernels.hpp"

namespace fedmed::bindings {
namespace {

void call(const py::array& rows, const py::array& classes, py::array& grams, std::size_t threads)
{
  check_axes(rows, 2, "class_gram: `rows`");
  check_axes(classes, 1, "class_gram: `classes`");
  check_axes(grams, 2, "class_gram: `grams`");
  const matrix_view<const float> row_view{
    input<float>(rows, "class_gram: `rows`"), side(rows, 0), side(rows, 1)};
  const std::span class_view{input<std::int32_t>(classes, "class_gram: `classes`"), side(classes, 0)};
  const matrix_view<double> gram_view{
    output<double>(grams, "class_gram: `grams`"), side(grams, 0), side(grams, 1)};
  const instruction_set set = chosen_instruction_set();
  // From here on no Python object is touched.
  const py::gil_scoped_release release;
  class_gram(row_view, class_view, gram_view, threads, set);
}

}  // namespace

void bind_class_gram(py::module_& module)
{
  module.def("class_gram", call, py::arg("rows"), py::arg("classes"), py::arg("grams"), py::arg("threads"));
}

}  // namespace fedmed::bindings
