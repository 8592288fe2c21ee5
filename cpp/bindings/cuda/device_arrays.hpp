#pragma once

#include <cuda_runtime_api.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dlpack.hpp"
#include "fedmed/error.hpp"

/// Arrays of a CUDA device as views. Every check that concerns Python memory is here, as arrays.hpp has those
/// of the host: dtype, axes, contiguity, alignment, leave to write, and which device. Nothing is converted.
/// NumPy arrays are copied to the device and back: small results, and everything under FEDMED_KERNELS=cuda.
namespace fedmed::bindings {

namespace py = pybind11;

/// The name of an element's type as messages show it, and what DLPack calls it.
template <typename ElementT>
[[nodiscard]] constexpr dlpack::element_type type_of() noexcept
{
  constexpr auto bits = static_cast<std::uint8_t>(8 * sizeof(ElementT));
  if constexpr (std::floating_point<ElementT>) {
    return {dlpack::floating, bits, 1};
  } else {
    return {std::signed_integral<ElementT> ? dlpack::integer : dlpack::natural, bits, 1};
  }
}

/// @throws std::runtime_error the device refused
void expect_success(cudaError_t status);

/// A copy of a few numbers that the host is to look at, when `stream` has come so far.
template <typename ElementT>
[[nodiscard]] std::vector<ElementT> to_host(const ElementT* device, std::size_t count, cudaStream_t stream)
{
  std::vector<ElementT> copy(count);
  expect_success(
    cudaMemcpyAsync(copy.data(), device, count * sizeof(ElementT), cudaMemcpyDeviceToHost, stream));
  expect_success(cudaStreamSynchronize(stream));
  return copy;
}

[[nodiscard]] std::string name_of(const dlpack::element_type& type);

/// One argument of a call: an array on a device, held until the call is over.
class device_array {
 public:
  /// @param where "kernel: `argument`", for messages
  /// @param staging_device where a NumPy array is copied to
  /// @throws std::invalid_argument `object` is no array on a CUDA device
  device_array(const py::object& object, std::string where, int staging_device);
  ~device_array();
  device_array(const device_array&) = delete;
  device_array& operator=(const device_array&) = delete;

  [[nodiscard]] std::size_t axes() const noexcept { return shape_.size(); }
  [[nodiscard]] std::size_t side(std::size_t axis) const { return shape_.at(axis); }
  [[nodiscard]] const std::vector<std::size_t>& shape() const noexcept { return shape_; }
  [[nodiscard]] std::size_t size() const noexcept;
  [[nodiscard]] int device() const noexcept { return device_; }
  [[nodiscard]] const std::string& where() const noexcept { return where_; }
  [[nodiscard]] const dlpack::element_type& type() const noexcept { return type_; }

  void expect_axes(std::size_t wanted) const;

  /// Elements to read. @throws std::invalid_argument another dtype, memory order or alignment
  template <typename ElementT>
  [[nodiscard]] const ElementT* input() const
  {
    return static_cast<const ElementT*>(checked(type_of<ElementT>()));
  }
  /// Elements of a type that C++ has no name for, as their bits.
  [[nodiscard]] const std::uint16_t* bits_of(const dlpack::element_type& wanted) const
  {
    return static_cast<const std::uint16_t*>(checked(wanted));
  }
  /// Elements to write. @throws std::invalid_argument as `input`, or the array is read-only
  template <typename ElementT>
  [[nodiscard]] ElementT* output()
  {
    checked(type_of<ElementT>());
    return static_cast<ElementT*>(writeable_bytes());
  }
  /// What `input` or `bits_of` has looked at, to write.
  [[nodiscard]] void* writeable_bytes()
  {
    FEDMED_EXPECTS(!read_only_, where_ + " is read-only, expected a writeable array");
    written_ = true;
    return data_;
  }

  /// A staged array goes back to the host where it was written.
  void finish();

 private:
  // Once it is made the destructor releases what the other constructor has taken when it refuses.
  explicit device_array(std::string where) : where_{std::move(where)} {}
  void take_capsule(const py::object& capsule);
  void take(const dlpack::tensor& tensor);
  void stage(py::array host, int device);
  void* checked(const dlpack::element_type& wanted) const;

  std::string where_;
  dlpack::managed_tensor* managed_ = nullptr;
  dlpack::versioned_tensor* versioned_ = nullptr;
  std::optional<py::array> host_;  // a NumPy array that was copied to the device for this call
  void* data_ = nullptr;
  int device_ = 0;
  dlpack::element_type type_{};
  std::vector<std::size_t> shape_;
  bool contiguous_ = true;
  bool read_only_ = false;
  bool written_ = false;
};

/// The device that calls go to; on leaving, nothing of ours is under way and the caller's device is back.
class busy_device {
 public:
  explicit busy_device(int device);
  ~busy_device();
  busy_device(const busy_device&) = delete;
  busy_device& operator=(const busy_device&) = delete;
  void wait() const;

 private:
  int before_ = 0;
};

/// One call of a twin: its arrays, all on one device, and the run itself.
class device_call {
 public:
  explicit device_call(std::string kernel) : kernel_{std::move(kernel)} {}

  device_array& array(const py::object& object, const std::string& argument);

  /// Refuse anything but a contiguous array of `axes` axes.
  device_array& array(const py::object& object, const std::string& argument, std::size_t axes);

  /// Call `work(stream)` with the GIL released, and return when the device has done it.
  ///
  /// The stream is the device's default one. An array's owner has let it wait for whatever fills the array
  /// when its capsule was asked for; as all is done on return, no stream of the caller need wait for ours.
  template <typename WorkT>
  void run(WorkT work)
  {
    {
      const py::gil_scoped_release release;
      const busy_device busy{arrays_.empty() ? 0 : arrays_.front().device()};
      work(cudaStreamLegacy);
      busy.wait();
    }
    for (device_array& each : arrays_) {
      each.finish();
    }
  }

 private:
  std::string kernel_;
  std::deque<device_array> arrays_;
};

}  // namespace fedmed::bindings
