#include <pybind11/pybind11.h>

#include <exception>
#include <string>

#include "fedmed/error.hpp"
#include "fedmed/instruction_set.hpp"
#include "kernels.hpp"

PYBIND11_MODULE(_kernels, module, pybind11::mod_gil_not_used())
{
  pybind11::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const fedmed::setting_error& error) {
      pybind11::set_error(pybind11::module_::import("fedmed_edge.errors").attr("InputError"), error.what());
    }
  });
  module.doc() = "Compiled kernels of FedMed Edge; fedmed_edge.kernels documents them.";
  fedmed::bindings::bind_class_gram(module);
  fedmed::bindings::bind_lifted_class_gram(module);
  fedmed::bindings::bind_channel_moments(module);
  fedmed::bindings::bind_amplitude_moments(module);
  fedmed::bindings::bind_resample(module);
  fedmed::bindings::bind_blend_windows(module);
  fedmed::bindings::bind_weighted_mean(module);
  fedmed::bindings::bind_median(module);
  fedmed::bindings::bind_pairwise_distances(module);
  fedmed::bindings::bind_running_mean(module);
  fedmed::bindings::bind_argmax_slab(module);
  module.def("instruction_set", [] { return std::string{fedmed::name(fedmed::chosen_instruction_set())}; });
}
