#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fedmed/safetensors.hpp"

namespace fedmed {

/// Most sources that one call takes.
inline constexpr std::size_t sources_cap = 1024;

/// A file's bytes, mapped. It must not be shortened meanwhile: that would end the process.
class mapped_file {
 public:
  /// @throws std::invalid_argument it is missing, no regular file, empty or cannot be mapped.
  explicit mapped_file(const std::string& path);
  mapped_file(mapped_file&& other) noexcept;
  mapped_file& operator=(mapped_file&&) = delete;
  ~mapped_file();

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }

  /// Copy `size` bytes from `begin` on; none of them stays in this process's memory.
  void copy(std::size_t begin, std::size_t size, std::byte* to) const noexcept;

  /// The pages of these bytes, and what was mapped with them, are no longer needed in memory.
  void release(std::size_t begin, std::size_t end) const noexcept;

  /// Copies are taken from the mapping from now on.
  void close_descriptor() noexcept;

 private:
  std::span<const std::byte> bytes_;
  int descriptor_;
};

/// One tensor as all sources hold it.
struct source_part {
  tensor_entry tensor;
  std::vector<const std::byte*> values;  // of each source; any alignment
};

/// K models of the same tensors: safetensors files, or arrays in memory.
class sources {
 public:
  /// @throws std::invalid_argument a file cannot be read (safetensors.hpp), or differs from the first in a
  /// tensor's name, dtype or shape; the message names file and tensor.
  explicit sources(const std::vector<std::string>& paths);

  /// One nameless tensor of `length` elements, from each pointer.
  sources(std::vector<const std::byte*> arrays, element_type type, std::size_t length);

  [[nodiscard]] std::size_t count() const noexcept { return names_.size(); }
  [[nodiscard]] std::span<const source_part> parts() const noexcept { return parts_; }

  /// The same names, dtypes and shapes, in whatever order the sources have.
  /// @throws std::invalid_argument "WHERE: `ARGUMENT` …" with the first tensor that differs.
  void check_same_tensors(const sources& other, const std::string& where) const;

  /// "`a.safetensors`" or "`sources[3]`", with the tensor and the index where there is one.
  [[nodiscard]] std::string describe(std::size_t source, std::size_t part, std::size_t index) const;

  /// Whether they are files.
  [[nodiscard]] bool mapped() const noexcept { return !files_.empty(); }

  /// Copy some elements of one source, of which nothing stays in memory.
  void copy(
    std::size_t part, std::size_t source, std::size_t first, std::size_t count, std::byte* to) const noexcept;

  /// The pages of these elements are no longer needed in memory.
  void release(std::size_t part, std::size_t first, std::size_t count) const noexcept;

 private:
  std::vector<std::string> names_;
  std::vector<mapped_file> files_;
  std::vector<source_part> parts_;
};

/// Where a kernel writes the model that it makes: an array in memory, or a safetensors file.
class model_output {
 public:
  /// Memory for the one tensor of sources in memory.
  explicit model_output(std::byte* memory) noexcept : memory_{memory} {}
  /// An open, empty file; the header of the sources' tensors is written to it.
  /// @throws std::system_error
  model_output(int descriptor, const sources& like);

  /// Where the caller may put the elements itself; null for a file.
  [[nodiscard]] std::byte* memory() const noexcept { return memory_; }
  /// Write elements of a part.
  /// @return errno, or 0.
  [[nodiscard]] int write(std::size_t part,
                          std::size_t first,
                          std::span<const std::byte> bytes) const noexcept;

 private:
  std::byte* memory_ = nullptr;
  int descriptor_ = -1;
  std::vector<std::size_t> begins_;
  std::vector<std::size_t> widths_;
};

}  // namespace fedmed
