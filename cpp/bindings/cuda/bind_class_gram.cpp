#include <vector>

#include "arguments.hpp"
#include "device_arrays.hpp"
#include "fedmed/cuda/class_gram.hpp"

namespace fedmed::bindings::cuda {
namespace {

row_view rows_of(const device_array& rows)
{
  const dlpack::element_type type = rows.type();
  const std::size_t count = rows.side(0);
  const std::size_t columns = rows.side(1);
  if (type.bits == 16 && type.code == dlpack::floating) {
    return matrix_view<const float16>{reinterpret_cast<const float16*>(rows.bits_of(type)), count, columns};
  }
  if (type.bits == 16 && type.code == dlpack::bfloat) {
    return matrix_view<const bfloat16>{reinterpret_cast<const bfloat16*>(rows.bits_of(type)), count, columns};
  }
  return matrix_view<const float>{rows.input<float>(), count, columns};
}

void call(const py::object& rows, const py::object& classes, const py::object& grams, const std::string& mode)
{
  device_call call{"class_gram"};
  const device_array& row_array = call.array(rows, "rows", 2);
  const device_array& class_array = call.array(classes, "classes", 1);
  device_array& gram_array = call.array(grams, "grams", 2);
  const row_view row_numbers = rows_of(row_array);
  const auto* device_classes = class_array.input<std::int32_t>();
  const matrix_view<double> gram_view{gram_array.output<double>(), gram_array.side(0), gram_array.side(1)};
  const gram_mode how = gram_mode_of(mode, "class_gram");
  call.run([&](cudaStream_t stream) {
    const std::vector<std::int32_t> labels = to_host(device_classes, class_array.size(), stream);
    fedmed::cuda::class_gram(row_numbers, labels, gram_view, how, stream);
  });
}

}  // namespace

void bind_class_gram(py::module_& module)
{
  module.def("class_gram", call, py::arg("rows"), py::arg("classes"), py::arg("grams"), py::arg("mode"));
}

}  // namespace fedmed::bindings::cuda
