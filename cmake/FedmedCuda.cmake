# The CUDA twins: kernels once more, for arrays that lie on a GPU. They make a Python module of their own,
# _kernels_cuda, which imports on a machine without a driver.
#
#   FEDMED_CUDA=AUTO   twins where a CUDA compiler is found (the default)
#   FEDMED_CUDA=ON     twins, or no configure
#   FEDMED_CUDA=OFF    processors only
#
# Each kernel's twin is found by its name; a missing one stops configure:
#   cpp/src/NAME.cu                  the twin; checks as the kernel does, with the functions of NAME.hpp
#   cpp/include/fedmed/cuda/NAME.hpp what it promises
#   cpp/bindings/cuda/bind_NAME.cpp  its Python face
#   tests/cpp/cuda/test_NAME.cpp     its test, which runs it on the processor: tests/cpp/cuda/emulation.hpp
set(FEDMED_CUDA AUTO CACHE STRING "CUDA twins of the kernels: AUTO, ON or OFF")
set_property(CACHE FEDMED_CUDA PROPERTY STRINGS AUTO ON OFF)
if(NOT FEDMED_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "FEDMED_CUDA: has `${FEDMED_CUDA}`, expected AUTO, ON or OFF")
endif()

# Code for T4, A100, RTX 30 and A10, RTX 40 and L4, H100; newer ones compile the last as they load it.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90)
endif()

set(FEDMED_HAS_CUDA OFF)
if(NOT FEDMED_CUDA STREQUAL "OFF" AND FEDMED_PYTHON)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(FEDMED_HAS_CUDA ON)
    enable_language(CUDA)
  elseif(FEDMED_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FEDMED_CUDA: has ON, and there is no CUDA compiler: put nvcc on PATH or set CUDACXX")
  else()
    message(STATUS "no CUDA compiler: kernels for processors only (FEDMED_CUDA=AUTO)")
  endif()
endif()

# fedmed_add_cuda_module(): the module that fedmed_add_twin fills.
function(fedmed_add_cuda_module)
  if(NOT FEDMED_HAS_CUDA)
    return()
  endif()
  message(STATUS "CUDA twins for ${CMAKE_CUDA_ARCHITECTURES} by ${CMAKE_CUDA_COMPILER}")
  add_library(fedmed_twins STATIC)
  target_include_directories(fedmed_twins PUBLIC cpp/include)
  # As a flag: CMake 3.25 does not know that CUDA 13 has C++20. Contraction only where a twin asks for it, so
  # that what a kernel rounds its twin rounds too.
  target_compile_options(fedmed_twins PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr -fmad=false -Xcompiler=-Wall,-Wextra>
    $<$<AND:$<BOOL:${FEDMED_WERROR}>,$<COMPILE_LANGUAGE:CUDA>>:-Werror=all-warnings -Xcompiler=-Werror>)
  set_target_properties(fedmed_twins PROPERTIES
    CUDA_STANDARD_REQUIRED OFF
    CUDA_RUNTIME_LIBRARY Static
    CUDA_VISIBILITY_PRESET hidden
    POSITION_INDEPENDENT_CODE ON)

  pybind11_add_module(_kernels_cuda cpp/bindings/cuda/module.cpp cpp/bindings/cuda/device_arrays.cpp)
  # The driver is opened by the runtime when there is one: neither libcudart nor libcuda is needed to import.
  set_target_properties(_kernels_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  # The list of twins, for module.cpp.
  file(GENERATE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/fedmed_twins.inc"
    CONTENT "$<JOIN:$<TARGET_PROPERTY:_kernels_cuda,FEDMED_TWINS>,\n>\n")
  target_include_directories(_kernels_cuda PRIVATE cpp/bindings "${CMAKE_CURRENT_BINARY_DIR}")
  target_include_directories(_kernels_cuda SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_link_libraries(_kernels_cuda PRIVATE fedmed_twins fedmed)
  fedmed_target(_kernels_cuda)
  install(TARGETS _kernels_cuda DESTINATION fedmed_edge)
endfunction()

# fedmed_add_twin(NAME [CPU_ONLY "reason"] ...): the twin of a kernel, or the reason why it has none.
function(fedmed_add_twin name)
  cmake_parse_arguments(PARSE_ARGV 1 TWIN "" "CPU_ONLY" "")
  if(TWIN_CPU_ONLY)
    return()
  endif()
  set(parts cpp/src/${name}.cu cpp/include/fedmed/cuda/${name}.hpp cpp/bindings/cuda/bind_${name}.cpp)
  if(FEDMED_TESTS)
    list(APPEND parts tests/cpp/cuda/test_${name}.cpp)
  endif()
  foreach(part IN LISTS parts)
    if(NOT EXISTS "${PROJECT_SOURCE_DIR}/${part}")
      message(FATAL_ERROR "kernel ${name}: has no ${part}; one that is not worth a twin says so: CPU_ONLY \"reason\"")
    endif()
  endforeach()
  if(FEDMED_HAS_CUDA)
    target_sources(fedmed_twins PRIVATE cpp/src/${name}.cu)
    target_sources(_kernels_cuda PRIVATE cpp/bindings/cuda/bind_${name}.cpp)
    set_property(TARGET _kernels_cuda APPEND PROPERTY FEDMED_TWINS "TWIN(${name})")
  endif()
  # Its coroutines are nothing that the thread sanitizer can follow.
  if(FEDMED_TESTS AND NOT CMAKE_CXX_FLAGS MATCHES "sanitize=thread")
    add_executable(test_${name}_twin tests/cpp/cuda/test_${name}.cpp)
    target_include_directories(test_${name}_twin PRIVATE tests/cpp tests/cpp/cuda cpp/src)
    target_link_libraries(test_${name}_twin PRIVATE fedmed GTest::gtest_main)
    fedmed_target(test_${name}_twin)
    target_compile_options(test_${name}_twin PRIVATE -Wno-unknown-pragmas -Wno-clobbered)
    add_test(NAME ${name}_twin COMMAND test_${name}_twin)
  endif()
endfunction()
