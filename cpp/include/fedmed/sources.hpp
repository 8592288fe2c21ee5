#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "fedmed/safetensors.hpp"

namespace fedmed {

/// Most sources that one call takes.
inline constexpr std::size_t sources_cap = 1024;

/// A file that is read by place: what happens to it meanwhile is an error and does not end the process, as
/// it could where it is mapped.
class source_file {
 public:
  /// @throws std::invalid_argument it is missing, or no regular file.
  explicit source_file(const std::string& path);
  source_file(source_file&& other) noexcept;
  source_file& operator=(source_file&&) = delete;
  ~source_file();

  /// Bytes that it had when it was opened.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// Read `count` bytes from `begin` on.
  /// @return 0, errno, or a number below 0 where they are no longer there
  [[nodiscard]] int read(std::size_t begin, std::size_t count, std::byte* to) const noexcept;

  /// Whether it is still the file that it was when it was opened.
  /// @return 0, errno, or a number below 0 where it was written to or another one has its name
  [[nodiscard]] int check() const noexcept;

  /// From now on the file is opened for each read.
  void close_descriptor() noexcept;

 private:
  std::string path_;
  int descriptor_;
  std::size_t size_ = 0;
  std::uint64_t device_ = 0;
  std::uint64_t number_ = 0;
  std::int64_t modified_ = 0;  // nanoseconds
};

/// One tensor as all sources hold it.
struct source_part {
  tensor_entry tensor;
  std::vector<const std::byte*> values;  // of each array; any alignment
  std::vector<std::size_t> begins;       // or byte in each file
};

/// K models of the same tensors: safetensors files, or arrays in memory.
class sources {
 public:
  /// @throws std::invalid_argument a file cannot be read (safetensors.hpp), or differs from the first in a
  /// tensor's name, dtype or shape; the message names file and tensor.
  explicit sources(const std::vector<std::string>& paths);

  /// One nameless tensor of `length` elements, from each pointer.
  /// @param names what messages call them; none: `sources[0]` and so on
  sources(std::vector<const std::byte*> arrays,
          element_type type,
          std::size_t length,
          std::vector<std::string> names = {});

  [[nodiscard]] std::size_t count() const noexcept { return names_.size(); }
  [[nodiscard]] std::span<const source_part> parts() const noexcept { return parts_; }

  /// The same names, dtypes and shapes, in whatever order the sources have.
  /// @throws std::invalid_argument with the other's file, or "KERNEL: `ARGUMENT`", and the first tensor that
  /// differs.
  void check_same_tensors(const sources& other, const std::string& kernel) const;

  /// "`a.safetensors`" or "`sources[3]`", with the tensor and the index where there is one.
  [[nodiscard]] std::string describe(std::size_t source, std::size_t part, std::size_t index) const;

  /// Whether they are files.
  [[nodiscard]] bool in_files() const noexcept { return !files_.empty(); }

  /// Read some elements of one source. What cannot be read becomes zero, and `check_read` refuses it.
  void read(
    std::size_t part, std::size_t source, std::size_t first, std::size_t count, std::byte* to) const noexcept;

  /// The same as float32; the part is no counter.
  void read_floats(
    std::size_t part, std::size_t source, std::size_t first, std::size_t count, float* to) const noexcept;

  /// Called after the last read: header and elements are read at different times.
  /// @throws std::invalid_argument "FILE: was cut off while it was read", or why else what was read is not
  /// it.
  void check_read() const;

 private:
  /// The first file that could not be read, and why.
  struct unread {
    std::mutex mutex;
    std::size_t source = sources_cap;
    int error = 0;
  };

  [[nodiscard]] std::vector<tensor_entry> open(const std::string& path);

  std::vector<std::string> names_;
  std::vector<source_file> files_;
  std::vector<source_part> parts_;
  std::unique_ptr<unread> unread_ = std::make_unique<unread>();
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
