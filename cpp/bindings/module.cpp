#include <pybind11/pybind11.h>

#include <string>

#include "fedmed/instruction_set.hpp"
#include "kernels.hpp"

PYBIND11_MODULE(_kernels, module, pybind11::mod_gil_not_used())
{
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
