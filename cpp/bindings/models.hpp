#pragma once

#include <pybind11/stl.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>
#include <vector>

#include "arrays.hpp"
#include "fedmed/aggregation.hpp"

/// Models of the aggregation kernels: paths of safetensors files, or equally long 1-D arrays of float32,
/// float16 or ml_dtypes.bfloat16.
namespace fedmed::bindings {

[[nodiscard]] inline element_type type_of(const py::array& array, const std::string& where)
{
  const std::string dtype = py::str(array.dtype());
  for (const auto& [name, type] : {std::pair{"float32", element_type::float32},
                                   std::pair{"float16", element_type::float16},
                                   std::pair{"bfloat16", element_type::bfloat16}}) {
    if (dtype == name) {
      return type;
    }
  }
  FEDMED_EXPECTS(false, where + " has dtype " + dtype + ", expected float32, float16 or bfloat16");
  return element_type::float32;
}

inline void check_model(const py::array& array,
                        element_type type,
                        py::ssize_t length,
                        const std::string& where)
{
  check_axes(array, 1, where);
  FEDMED_EXPECTS(type_of(array, where) == type,
                 where + " has dtype " + py::str(array.dtype()).cast<std::string>() +
                   ", expected that of the first source");
  FEDMED_EXPECTS(
    array.shape(0) == length,
    where + " has " + std::to_string(array.shape(0)) + " elements, expected " + std::to_string(length));
  FEDMED_EXPECTS((array.flags() & py::array::c_style) != 0,
                 where + " has strides, expected a C-contiguous array");
}

[[nodiscard]] inline py::array array_of(const py::handle& model, const std::string& where)
{
  FEDMED_EXPECTS(py::isinstance<py::array>(model),
                 where + " is a " + py::str(py::type::of(model).attr("__name__")).cast<std::string>() +
                   ", expected a path or an array");
  return py::reinterpret_borrow<py::array>(model);
}

/// @param model str, or an array
/// @param argument what messages call the array
[[nodiscard]] inline sources model_of(const py::object& model,
                                      const std::string& kernel,
                                      const std::string& argument)
{
  if (py::isinstance<py::str>(model)) {
    return sources{{model.cast<std::string>()}};
  }
  const std::string where = kernel + ": `" + argument + "`";
  const py::array array = array_of(model, where);
  const element_type type = type_of(array, where);
  check_model(array, type, array.ndim() == 1 ? array.shape(0) : 0, where);
  return {{static_cast<const std::byte*>(array.data())}, type, side(array, 0), {argument}};
}

/// @param models list of str, or list of arrays
[[nodiscard]] inline sources models_of(const py::list& models, const std::string& kernel)
{
  if (models.empty() || py::isinstance<py::str>(models[0])) {
    return sources{models.cast<std::vector<std::string>>()};
  }
  std::vector<py::array> arrays;
  for (const py::handle model : models) {
    arrays.push_back(array_of(model, kernel + ": `sources[" + std::to_string(arrays.size()) + "]`"));
  }
  const element_type type = type_of(arrays.front(), kernel + ": `sources[0]`");
  std::vector<const std::byte*> values;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    check_model(arrays[i],
                type,
                arrays.front().ndim() == 1 ? arrays.front().shape(0) : 0,
                kernel + ": `sources[" + std::to_string(i) + "]`");
    values.push_back(static_cast<const std::byte*>(arrays[i].data()));
  }
  return {std::move(values), type, side(arrays.front(), 0)};
}

/// @param out descriptor of an empty file for files, an array for arrays
[[nodiscard]] inline model_output output_of(py::object& out, const sources& models, const std::string& kernel)
{
  if (models.in_files()) {
    return {out.cast<int>(), models};
  }
  FEDMED_EXPECTS(py::isinstance<py::array>(out),
                 kernel + ": `out` is no array, expected one as the sources are");
  auto array = py::reinterpret_borrow<py::array>(out);
  const tensor_entry& like = models.parts().front().tensor;
  check_model(array, like.type, static_cast<py::ssize_t>(like.length), kernel + ": `out`");
  FEDMED_EXPECTS(array.writeable(), kernel + ": `out` is read-only, expected a writeable array");
  return model_output{static_cast<std::byte*>(array.mutable_data())};
}

/// Runs `call` without the GIL; an error of the file becomes OSError.
template <typename CallT>
void run_released(const CallT& call)
{
  int error = 0;
  {
    const py::gil_scoped_release release;
    try {
      call();
    } catch (const std::system_error& failed) {
      error = failed.code().value();
    }
  }
  if (error != 0) {
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    throw py::error_already_set();
  }
}

}  // namespace fedmed::bindings
