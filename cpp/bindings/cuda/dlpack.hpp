#pragma once

#include <cstdint>

/// The memory layout of DLPack 1.0, through which libraries hand arrays to each other without copying.
///
/// Source: dmlc/dlpack, include/dlpack/dlpack.h; numbers and order are its own.
namespace fedmed::dlpack {

enum device_kind : std::int32_t { host = 1, cuda = 2 };
enum type_code : std::uint8_t { integer = 0, natural = 1, floating = 2, bfloat = 4 };

struct device {
  std::int32_t kind;
  std::int32_t index;
};

struct element_type {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct tensor {
  void* data;
  dlpack::device device;
  std::int32_t axes;
  element_type type;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null for a C-contiguous array
  std::uint64_t byte_offset;
};

/// What a capsule named "dltensor" holds.
struct managed_tensor {
  dlpack::tensor tensor;
  void* owner;
  void (*release)(managed_tensor*);
};

/// What a capsule named "dltensor_versioned" holds.
struct versioned_tensor {
  std::uint32_t major;
  std::uint32_t minor;
  void* owner;
  void (*release)(versioned_tensor*);
  std::uint64_t flags;
  dlpack::tensor tensor;
};

inline constexpr std::uint64_t read_only_flag = 1;

}  // namespace fedmed::dlpack
