#include "arrays.hpp"
#include "fedmed/class_gram.hpp"
#include "kernels.hpp"

namespace fedmed::bindings {
namespace {

/// float32, or 16-bit rows: NumPy has no bfloat16, so `bits` says what unsigned 16-bit numbers stand for.
row_view rows_of(const py::array& rows, const std::string& bits)
{
  const std::size_t count = side(rows, 0);
  const std::size_t columns = side(rows, 1);
  if (bits == "bfloat16") {
    const auto* data = input<std::uint16_t>(rows, "class_gram: `rows`");
    return matrix_view<const bfloat16>{reinterpret_cast<const bfloat16*>(data), count, columns};
  }
  if (rows.dtype().kind() == 'f' && rows.itemsize() == 2) {
    const py::array patterns = rows.attr("view")("uint16");
    const auto* data = input<std::uint16_t>(patterns, "class_gram: `rows`");
    return matrix_view<const float16>{reinterpret_cast<const float16*>(data), count, columns};
  }
  return {input<float>(rows, "class_gram: `rows`"), count, columns};
}

void call(const py::array& rows,
          const py::array& classes,
          py::array& grams,
          const std::string& mode,
          const std::string& dtype,
          std::size_t threads)
{
  check_axes(rows, 2, "class_gram: `rows`");
  check_axes(classes, 1, "class_gram: `classes`");
  check_axes(grams, 2, "class_gram: `grams`");
  const row_view row_numbers = rows_of(rows, dtype);
  const std::span class_view{input<std::int32_t>(classes, "class_gram: `classes`"), side(classes, 0)};
  const matrix_view<double> gram_view{
    output<double>(grams, "class_gram: `grams`"), side(grams, 0), side(grams, 1)};
  const gram_mode how = gram_mode_of(mode, "class_gram");
  const instruction_set set = chosen_instruction_set();
  // From here on no Python object is touched.
  const py::gil_scoped_release release;
  class_gram(row_numbers, class_view, gram_view, threads, set, how);
}

}  // namespace

void bind_class_gram(py::module_& module)
{
  module.def("class_gram",
             call,
             py::arg("rows"),
             py::arg("classes"),
             py::arg("grams"),
             py::arg("mode"),
             py::arg("dtype"),
             py::arg("threads"));
}

}  // namespace fedmed::bindings
