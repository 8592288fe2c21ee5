#pragma once

#include <string>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "device_arrays.hpp"
#include "fedmed/aggregation.hpp"

/// Arrays on a device as the models that aggregation kernels take.
namespace fedmed::bindings {

[[nodiscard]] inline std::pair<element_type, const void*> elements_of(const device_array& array)
{
  const dlpack::element_type type = array.type();
  if (type.bits == 16 && type.code == dlpack::floating) {
    return {element_type::float16, array.bits_of(type)};
  }
  if (type.bits == 16 && type.code == dlpack::bfloat) {
    return {element_type::bfloat16, array.bits_of(type)};
  }
  return {element_type::float32, array.input<float>()};
}

[[nodiscard]] inline sources models_of(device_call& call,
                                       const std::vector<py::object>& models,
                                       const std::string& kernel)
{
  FEDMED_EXPECTS(!models.empty() && models.size() <= sources_cap,
                 kernel + ": `sources` has " + std::to_string(models.size()) + " arrays, expected 1 to " +
                   std::to_string(sources_cap));
  std::vector<const std::byte*> values;
  element_type type{};
  std::size_t length = 0;
  for (const py::object& model : models) {
    const std::string name = "sources[" + std::to_string(values.size()) + "]";
    const device_array& array = call.array(model, name, 1);
    const auto [own, data] = elements_of(array);
    if (values.empty()) {
      type = own;
      length = array.size();
    }
    FEDMED_EXPECTS(own == type && array.size() == length,
                   array.where() + " has " + std::to_string(array.size()) + " elements of " +
                     name_of(array.type()) + ", expected " + std::to_string(length) + " as `sources[0]`");
    values.push_back(static_cast<const std::byte*>(data));
  }
  return {std::move(values), type, length};
}

/// @param argument what messages call the array
[[nodiscard]] inline sources model_of(device_call& call, const py::object& model, const std::string& argument)
{
  const device_array& array = call.array(model, argument, 1);
  const auto [type, data] = elements_of(array);
  return {{static_cast<const std::byte*>(data)}, type, array.size(), {argument}};
}

/// Memory for the result, of the models' dtype and length.
[[nodiscard]] inline std::byte* result_of(device_call& call, const py::object& out, const sources& models)
{
  device_array& array = call.array(out, "out", 1);
  const auto [type, data] = elements_of(array);
  const auto& tensor = models.parts().front().tensor;
  FEDMED_EXPECTS(type == tensor.type && array.size() == tensor.length,
                 array.where() + " has " + std::to_string(array.size()) + " elements of " +
                   name_of(array.type()) + ", expected " + std::to_string(tensor.length) +
                   " of the dtype of `sources`");
  return static_cast<std::byte*>(array.writeable_bytes());
}

}  // namespace fedmed::bindings
