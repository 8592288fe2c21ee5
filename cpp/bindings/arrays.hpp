#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "fedmed/error.hpp"
#include "fedmed/views.hpp"

/// NumPy arrays as views. Every check that concerns Python memory is here: dtype, axes, contiguity, alignment
/// and leave to write. Nothing is ever converted or copied: a result written to a copy would be lost.
namespace fedmed::bindings {

namespace py = pybind11;

[[nodiscard]] inline std::vector<std::size_t> shape_of(const py::array& array)
{
  return {array.shape(), array.shape() + array.ndim()};
}

/// Refuse an array that is no C-contiguous, aligned array of ElementT.
/// @param where "kernel: `argument`", for messages.
template <typename ElementT>
void check_memory(const py::array& array, const std::string& where)
{
  FEDMED_EXPECTS(py::isinstance<py::array_t<ElementT>>(array),
                 where + " has dtype " + py::str(array.dtype()).cast<std::string>() + ", expected " +
                   py::str(py::dtype::of<ElementT>()).cast<std::string>());
  FEDMED_EXPECTS((array.flags() & py::array::c_style) != 0,
                 where + " has strides, expected a C-contiguous array");
  FEDMED_EXPECTS((array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0,
                 where + " is not aligned in memory, expected an aligned array");
}

inline void check_axes(const py::array& array, py::ssize_t axes, const std::string& where)
{
  FEDMED_EXPECTS(array.ndim() == axes,
                 where + " has shape " + shape_text(shape_of(array)) + ", expected " + std::to_string(axes) +
                   (axes == 1 ? " axis" : " axes"));
}

template <typename ElementT>
[[nodiscard]] const ElementT* input(const py::array& array, const std::string& where)
{
  check_memory<ElementT>(array, where);
  return static_cast<const ElementT*>(array.data());
}

template <typename ElementT>
[[nodiscard]] ElementT* output(py::array& array, const std::string& where)
{
  check_memory<ElementT>(array, where);
  FEDMED_EXPECTS(array.writeable(), where + " is read-only, expected a writeable array");
  return static_cast<ElementT*>(array.mutable_data());
}

[[nodiscard]] inline std::size_t side(const py::array& array, py::ssize_t axis)
{
  return static_cast<std::size_t>(array.shape(axis));
}

/// Refuse anything but `before` axes followed by the two or three of a grid.
inline void check_grid_axes(const py::array& array, py::ssize_t before, const std::string& where)
{
  const py::ssize_t axes = array.ndim() - before;
  FEDMED_EXPECTS(axes == 2 || axes == 3,
                 where + " has shape " + shape_text(shape_of(array)) + ", expected " +
                   std::to_string(before + 2) + " or " + std::to_string(before + 3) + " axes");
}

/// Grid sides of an array whose first axis holds channels (`before` 1), or that has none (0).
[[nodiscard]] inline grid_size grid_of(const py::array& array, py::ssize_t before)
{
  const std::vector<std::size_t> shape = shape_of(array);
  return grid_of(std::span{shape}.subspan(static_cast<std::size_t>(before)));
}

}  // namespace fedmed::bindings
