#include "device_arrays.hpp"

#include <cstring>
#include <stdexcept>
#include <utility>

namespace fedmed::bindings {
namespace {

// Of the DLPack protocol: the stream that we read on, CUDA's default one. 0 would be ambiguous.
constexpr int default_stream = 1;

py::object capsule_of(const py::object& array)
{
  const py::object give = array.attr("__dlpack__");
  try {
    return give(py::arg("stream") = default_stream,
                py::arg("max_version") = static_cast<py::object>(py::make_tuple(1, 0)));
  } catch (py::error_already_set& error) {
    // Older libraries do not know versions.
    if (!error.matches(PyExc_TypeError)) {
      throw;
    }
  }
  return give(py::arg("stream") = default_stream);
}

/// Whether elements follow each other row after row; the stride of an axis of one element means nothing.
bool is_contiguous(const dlpack::tensor& tensor)
{
  if (tensor.strides == nullptr) {
    return true;
  }
  std::int64_t expected = 1;
  for (std::int32_t axis = tensor.axes - 1; axis >= 0; --axis) {
    if (tensor.shape[axis] == 0) {
      return true;
    }
    if (tensor.shape[axis] != 1 && tensor.strides[axis] != expected) {
      return false;
    }
    expected *= tensor.shape[axis];
  }
  return true;
}

dlpack::element_type type_of_host(const py::array& array)
{
  const char kind = array.dtype().kind();
  const auto bits = static_cast<std::uint8_t>(8 * array.itemsize());
  std::uint8_t code = 255;
  switch (kind) {
    case 'f': code = dlpack::floating; break;
    case 'i': code = dlpack::integer; break;
    case 'u': code = dlpack::natural; break;
    default: break;
  }
  return {code, bits, 1};
}

}  // namespace

void expect_success(cudaError_t status)
{
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string{"cuda: the device answers `"} + cudaGetErrorString(status) + "`");
  }
}

std::string name_of(const dlpack::element_type& type)
{
  const std::string bits = std::to_string(type.bits);
  const std::string lanes = type.lanes == 1 ? "" : "x" + std::to_string(type.lanes);
  switch (type.code) {
    case dlpack::integer: return "int" + bits + lanes;
    case dlpack::natural: return "uint" + bits + lanes;
    case dlpack::floating: return "float" + bits + lanes;
    case dlpack::bfloat: return "bfloat" + bits + lanes;
    default: return "type " + std::to_string(type.code) + " of " + bits + " bits" + lanes;
  }
}

device_array::device_array(const py::object& object, std::string where, int staging_device)
  : device_array{std::move(where)}
{
  if (py::isinstance<py::array>(object)) {
    stage(py::reinterpret_borrow<py::array>(object), staging_device);
    return;
  }
  FEDMED_EXPECTS(py::hasattr(object, "__dlpack__") && py::hasattr(object, "__dlpack_device__"),
                 where_ + " is a " + py::str(py::type::of(object).attr("__name__")).cast<std::string>() +
                   ", expected an array with `__dlpack__`");
  const auto place = object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
  FEDMED_EXPECTS(
    place.first == dlpack::cuda,
    where_ + " is on a device of kind " + std::to_string(place.first) + ", expected one on a CUDA device");
  take_capsule(capsule_of(object));
}

device_array::~device_array()
{
  if (managed_ != nullptr && managed_->release != nullptr) {
    managed_->release(managed_);
  }
  if (versioned_ != nullptr && versioned_->release != nullptr) {
    versioned_->release(versioned_);
  }
  if (host_) {
    cudaFree(data_);
  }
}

void device_array::take_capsule(const py::object& capsule)
{
  PyObject* handle = capsule.ptr();
  // A capsule under its used name is ours to release.
  if (PyCapsule_IsValid(handle, "dltensor_versioned") != 0) {
    auto* held = static_cast<dlpack::versioned_tensor*>(PyCapsule_GetPointer(handle, "dltensor_versioned"));
    FEDMED_EXPECTS(held->major == 1,
                   where_ + " has DLPack version " + std::to_string(held->major) + ", expected 1");
    PyCapsule_SetName(handle, "used_dltensor_versioned");
    versioned_ = held;
    read_only_ = (held->flags & dlpack::read_only_flag) != 0;
    take(held->tensor);
    return;
  }
  FEDMED_EXPECTS(PyCapsule_IsValid(handle, "dltensor") != 0,
                 where_ + " gives no DLPack capsule, expected an array with `__dlpack__`");
  managed_ = static_cast<dlpack::managed_tensor*>(PyCapsule_GetPointer(handle, "dltensor"));
  PyCapsule_SetName(handle, "used_dltensor");
  take(managed_->tensor);
}

void device_array::take(const dlpack::tensor& tensor)
{
  FEDMED_EXPECTS(tensor.device.kind == dlpack::cuda,
                 where_ + " is on a device of kind " + std::to_string(tensor.device.kind) +
                   ", expected one on a CUDA device");
  data_ = static_cast<char*>(tensor.data) + tensor.byte_offset;
  device_ = tensor.device.index;
  type_ = tensor.type;
  contiguous_ = is_contiguous(tensor);
  for (std::int32_t axis = 0; axis < tensor.axes; ++axis) {
    shape_.push_back(static_cast<std::size_t>(tensor.shape[axis]));
  }
}

void device_array::stage(py::array host, int device)
{
  device_ = device;
  type_ = type_of_host(host);
  contiguous_ = (host.flags() & py::array::c_style) != 0;
  read_only_ = !host.writeable();
  shape_.assign(host.shape(), host.shape() + host.ndim());
  if (!contiguous_) {
    return;  // refused as soon as it is used
  }
  const auto bytes = static_cast<std::size_t>(host.nbytes());
  const busy_device busy{device};
  expect_success(cudaMalloc(&data_, bytes == 0 ? 1 : bytes));
  host_ = std::move(host);
  expect_success(cudaMemcpy(data_, host_->data(), bytes, cudaMemcpyHostToDevice));
}

void device_array::finish()
{
  if (host_ && written_) {
    const auto bytes = static_cast<std::size_t>(host_->nbytes());
    expect_success(cudaMemcpy(host_->mutable_data(), data_, bytes, cudaMemcpyDeviceToHost));
  }
}

std::size_t device_array::size() const noexcept
{
  std::size_t count = 1;
  for (const std::size_t each : shape_) {
    count *= each;
  }
  return count;
}

void device_array::expect_axes(std::size_t wanted) const
{
  FEDMED_EXPECTS(axes() == wanted,
                 where_ + " has shape " + shape_text(shape_) + ", expected " + std::to_string(wanted) +
                   (wanted == 1 ? " axis" : " axes"));
}

void* device_array::checked(const dlpack::element_type& wanted) const
{
  FEDMED_EXPECTS(type_.code == wanted.code && type_.bits == wanted.bits && type_.lanes == wanted.lanes,
                 where_ + " has dtype " + name_of(type_) + ", expected " + name_of(wanted));
  FEDMED_EXPECTS(contiguous_, where_ + " has strides, expected a C-contiguous array");
  FEDMED_EXPECTS(reinterpret_cast<std::uintptr_t>(data_) % (wanted.bits / 8U) == 0,
                 where_ + " is not aligned in memory, expected an aligned array");
  return data_;
}

device_array& device_call::array(const py::object& object, const std::string& argument)
{
  const int device = arrays_.empty() ? 0 : arrays_.front().device();
  device_array& added = arrays_.emplace_back(object, kernel_ + ": `" + argument + "`", device);
  const device_array& first = arrays_.front();
  FEDMED_EXPECTS(added.device() == first.device(),
                 added.where() + " is on device " + std::to_string(added.device()) + ", expected " +
                   std::to_string(first.device()) + " as the first array");
  return added;
}

device_array& device_call::array(const py::object& object, const std::string& argument, std::size_t axes)
{
  device_array& added = array(object, argument);
  added.expect_axes(axes);
  return added;
}

busy_device::busy_device(int device)
{
  expect_success(cudaGetDevice(&before_));
  expect_success(cudaSetDevice(device));
}

busy_device::~busy_device()
{
  // Also where the work threw half-way: its arrays may go only when no kernel uses them.
  cudaStreamSynchronize(cudaStreamLegacy);
  cudaSetDevice(before_);
}

void busy_device::wait() const
{
  expect_success(cudaStreamSynchronize(cudaStreamLegacy));
}

}  // namespace fedmed::bindings
