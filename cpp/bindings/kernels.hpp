#pragma once

#include <pybind11/pybind11.h>

namespace fedmed::bindings {

void bind_class_gram(pybind11::module_& module);
void bind_lifted_class_gram(pybind11::module_& module);
void bind_channel_moments(pybind11::module_& module);
void bind_amplitude_moments(pybind11::module_& module);
void bind_resample(pybind11::module_& module);
void bind_blend_windows(pybind11::module_& module);
void bind_weighted_mean(pybind11::module_& module);
void bind_median(pybind11::module_& module);
void bind_pairwise_distances(pybind11::module_& module);
void bind_running_mean(pybind11::module_& module);
void bind_argmax_slab(pybind11::module_& module);

}  // namespace fedmed::bindings
