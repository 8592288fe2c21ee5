# fedmed_add_kernel(NAME [TILED [UNFUSED]]): one kernel, all of whose parts are found by its name.
#
#   cpp/include/fedmed/NAME.hpp   what it computes, and its checks
#   cpp/src/NAME.cpp              the kernel
#   cpp/src/NAME_tile.cpp         TILED only: its inner tile, compiled once for every instruction set; UNFUSED: without
#                                 fused multiply-add, because its products round
#   cpp/bindings/bind_NAME.cpp    its Python face
#   tests/cpp/test_NAME.cpp       its test, in GoogleTest
#
# A missing part stops configure. python/fedmed_edge/kernels, _kernels.pyi and tests/python/kernels name it too.
# A kernel has a CUDA twin, or CPU_ONLY "reason": cmake/FedmedCuda.cmake.
function(fedmed_add_kernel name)
  cmake_parse_arguments(PARSE_ARGV 1 KERNEL "TILED;UNFUSED" "" "")
  set(header cpp/include/fedmed/${name}.hpp)
  set(source cpp/src/${name}.cpp)
  set(binding cpp/bindings/bind_${name}.cpp)
  set(test tests/cpp/test_${name}.cpp)
  set(parts ${header} ${source} ${binding})
  # A source distribution leaves the tests out.
  if(FEDMED_TESTS)
    list(APPEND parts ${test})
  endif()
  if(KERNEL_TILED)
    list(APPEND parts cpp/src/${name}_tile.cpp)
  endif()
  foreach(part IN LISTS parts)
    if(NOT EXISTS "${PROJECT_SOURCE_DIR}/${part}")
      message(FATAL_ERROR "kernel ${name}: has no ${part}")
    endif()
  endforeach()

  fedmed_add_twin(${name} ${ARGN})
  target_sources(fedmed PRIVATE ${source})
  if(KERNEL_TILED)
    set(contract $<IF:$<BOOL:${KERNEL_UNFUSED}>,off,fast>)
    fedmed_add_tile(${name} baseline -ffp-contract=${contract})
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
      fedmed_add_tile(${name} avx2 -march=x86-64-v3 -ffp-contract=${contract})
      fedmed_add_tile(${name} avx512 -march=x86-64-v4 -ffp-contract=${contract})
    endif()
  endif()
  if(FEDMED_PYTHON)
    target_sources(_kernels PRIVATE ${binding})
  endif()
  if(FEDMED_TESTS)
    fedmed_add_test(${name})
  endif()
endfunction()

# fedmed_add_test(NAME): tests/cpp/test_NAME.cpp as a program of its own, run by ctest.
function(fedmed_add_test name)
  add_executable(test_${name} tests/cpp/test_${name}.cpp)
  target_include_directories(test_${name} PRIVATE tests/cpp)
  target_link_libraries(test_${name} PRIVATE fedmed GTest::gtest_main)
  fedmed_target(test_${name})
  add_test(NAME ${name} COMMAND test_${name})
endfunction()

# fedmed_add_tile(NAME ISA FLAGS...): NAME_tile.cpp once more, with the flags of one instruction set. Which
# one runs is chosen at run time (fedmed/instruction_set.hpp). Most tiles multiply float32 values in float64: the
# product is exact, so that fused multiply-add changes no bit and is let in.
function(fedmed_add_tile name isa)
  set(object ${name}_tile_${isa})
  add_library(${object} OBJECT cpp/src/${name}_tile.cpp)
  target_include_directories(${object} PRIVATE cpp/include)
  target_compile_definitions(${object} PRIVATE FEDMED_ISA=${isa})
  fedmed_target(${object})
  target_compile_options(${object} PRIVATE ${ARGN})
  target_sources(fedmed PRIVATE $<TARGET_OBJECTS:${object}>)
endfunction()
