#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <string>

// CMake lists the twins: TWIN(name) for each.
#define TWIN(name)                      \
  namespace fedmed::bindings::cuda {    \
  void bind_##name(pybind11::module_&); \
  }
#include "fedmed_twins.inc"
#undef TWIN

namespace {

namespace py = pybind11;

/// How many devices there are, and why there are none.
py::tuple devices()
{
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    (void)cudaGetLastError();  // the next call is not to be answered with this one's error
    return py::make_tuple(0, std::string{cudaGetErrorString(status)});
  }
  return py::make_tuple(count, std::string{count == 0 ? "there is no CUDA device" : ""});
}

}  // namespace

PYBIND11_MODULE(_kernels_cuda, module, pybind11::mod_gil_not_used())
{
  module.doc() = "CUDA twins of the kernels of FedMed Edge; fedmed_edge.kernels.device calls them.";
  module.def("devices", devices);
#define TWIN(name) fedmed::bindings::cuda::bind_##name(module);
#include "fedmed_twins.inc"
#undef TWIN
}
