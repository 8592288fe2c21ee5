#include "fedmed/sources.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <string_view>
#include <system_error>
#include <utility>

#include "elements.hpp"
#include "fedmed/error.hpp"

namespace fedmed {
namespace {

// What a read returns beside errno: the file ended before, another one has its name, or it was written to.
constexpr int cut_off = -1;
constexpr int replaced = -2;
constexpr int written_to = -3;

// Halves that are made float32 at a time.
constexpr std::size_t halves_length = 2048;

// Without O_NONBLOCK a pipe would wait for its writer.
int open_to_read(const std::string& path) noexcept
{
  return open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

/// Half of what the process may have open, so that its other threads can go on.
std::size_t descriptors_to_keep() noexcept
{
  struct rlimit limit {};
  return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? static_cast<std::size_t>(limit.rlim_cur / 2) : 0;
}

/// @return 0, errno or `cut_off`
int read_all(int descriptor, std::byte* to, std::size_t count, std::size_t at) noexcept
{
  while (count > 0) {
    const ssize_t got = pread(descriptor, to, count, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      return got < 0 ? errno : cut_off;
    }
    to += got;
    at += static_cast<std::size_t>(got);
    count -= static_cast<std::size_t>(got);
  }
  return 0;
}

std::string reason(int error)
{
  return error == cut_off      ? "was cut off while it was read"
         : error == replaced   ? "was replaced while it was read"
         : error == written_to ? "was written to while it was read"
                               : std::string{"cannot be read: "} + std::strerror(error);
}

std::int64_t modified(const struct stat& status) noexcept
{
  return std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
}

std::vector<tensor_entry> tensors_of(const source_file& file)
{
  const auto read = [&](std::size_t begin, std::size_t count) {
    std::string bytes(count, '\0');
    const int error = file.read(begin, count, reinterpret_cast<std::byte*>(bytes.data()));
    FEDMED_EXPECTS(error == 0, reason(error));
    return bytes;
  };
  const std::string beginning = read(0, std::min(file.size(), length_bytes));
  const std::size_t length = header_length(std::as_bytes(std::span{beginning}), file.size());
  return parse_safetensors(read(length_bytes, length), file.size());
}

void check_count(std::size_t sources)
{
  FEDMED_EXPECTS(sources > 0 && sources <= sources_cap,
                 "aggregation: `sources` has " + std::to_string(sources) + " models, expected 1 to " +
                   std::to_string(sources_cap));
}

std::string kind_text(const tensor_entry& tensor)
{
  return std::string{name(tensor.type)} + " " + shape_text(tensor.shape);
}

/// Both have their order from parse_safetensors: what is the same tensor by tensor is in the same order.
void check_same(std::span<const tensor_entry> got,
                std::span<const source_part> wanted,
                const std::string& where)
{
  std::map<std::string_view, const tensor_entry*> named;
  for (const tensor_entry& one : got) {
    named.emplace(one.name, &one);
  }
  for (const source_part& part : wanted) {
    const auto found = named.extract(part.tensor.name);
    FEDMED_EXPECTS(!found.empty(), where + ": lacks tensor `" + part.tensor.name + "` of the first");
    const std::string tensor = part.tensor.name.empty() ? "" : ": tensor `" + part.tensor.name + "`";
    FEDMED_EXPECTS(
      found.mapped()->same_kind(part.tensor),
      where + tensor + " has " + kind_text(*found.mapped()) + ", expected " + kind_text(part.tensor));
  }
  FEDMED_EXPECTS(named.empty(),
                 where + ": tensor `" + std::string{named.begin()->first} + "` is not in the first");
}

int write_all(int descriptor, const void* bytes, std::size_t size, std::size_t at) noexcept
{
  const auto* from = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t written = pwrite(descriptor, from, size, static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written <= 0) {
      return written < 0 ? errno : EIO;
    }
    from += written;
    at += static_cast<std::size_t>(written);
    size -= static_cast<std::size_t>(written);
  }
  return 0;
}

}  // namespace

source_file::source_file(const std::string& path) : path_{path}, descriptor_{open_to_read(path)}
{
  FEDMED_EXPECTS(descriptor_ >= 0, std::string{"cannot be read: "} + std::strerror(errno));
  struct stat status {};
  if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    close_descriptor();
    FEDMED_EXPECTS(false, "is no file");
  }
  posix_fadvise(descriptor_, 0, 0, POSIX_FADV_SEQUENTIAL);
  size_ = static_cast<std::size_t>(status.st_size);
  device_ = status.st_dev;
  number_ = status.st_ino;
  modified_ = modified(status);
}

source_file::source_file(source_file&& other) noexcept
  : path_{std::move(other.path_)},
    descriptor_{std::exchange(other.descriptor_, -1)},
    size_{other.size_},
    device_{other.device_},
    number_{other.number_},
    modified_{other.modified_}
{
}

source_file::~source_file()
{
  close_descriptor();
}

void source_file::close_descriptor() noexcept
{
  if (descriptor_ >= 0) {
    close(std::exchange(descriptor_, -1));
  }
}

int source_file::read(std::size_t begin, std::size_t count, std::byte* to) const noexcept
{
  if (descriptor_ >= 0) {
    return read_all(descriptor_, to, count, begin);
  }
  const int descriptor = open_to_read(path_);
  if (descriptor < 0) {
    return errno;
  }
  struct stat status {};
  const bool same = fstat(descriptor, &status) == 0 && status.st_dev == device_ && status.st_ino == number_;
  const int error = same ? read_all(descriptor, to, count, begin) : replaced;
  close(descriptor);
  return error;
}

int source_file::check() const noexcept
{
  struct stat status {};
  if ((descriptor_ >= 0 ? fstat(descriptor_, &status) : stat(path_.c_str(), &status)) != 0) {
    return errno;
  }
  if (status.st_dev != device_ || status.st_ino != number_) {
    return replaced;
  }
  const bool same = static_cast<std::size_t>(status.st_size) == size_ && modified(status) == modified_;
  return same ? 0 : written_to;
}

sources::sources(const std::vector<std::string>& paths) : names_{paths}
{
  check_count(paths.size());
  files_.reserve(paths.size());
  const std::size_t descriptors = descriptors_to_keep();
  for (const std::string& path : paths) {
    const std::vector<tensor_entry> tensors = open(path);
    if (files_.size() > descriptors) {
      files_.back().close_descriptor();
    }
    if (files_.size() == 1) {
      for (const tensor_entry& tensor : tensors) {
        parts_.push_back({tensor, {}, {}});
        parts_.back().begins.reserve(paths.size());
      }
    }
    check_same(tensors, parts_, path);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      parts_[i].begins.push_back(tensors[i].begin);
    }
  }
}

sources::sources(std::vector<const std::byte*> arrays,
                 element_type type,
                 std::size_t length,
                 std::vector<std::string> names)
  : names_{std::move(names)}
{
  check_count(arrays.size());
  while (names_.size() < arrays.size()) {
    names_.push_back("sources[" + std::to_string(names_.size()) + "]");
  }
  parts_.push_back({{"", type, {length}, 0, length}, std::move(arrays), {}});
}

void sources::check_same_tensors(const sources& other, const std::string& kernel) const
{
  std::vector<tensor_entry> theirs;
  for (const source_part& part : other.parts_) {
    theirs.push_back(part.tensor);
  }
  const std::string& name = other.names_.front();
  check_same(theirs, parts_, other.in_files() ? name : kernel + ": `" + name + "`");
}

std::string sources::describe(std::size_t source, std::size_t part, std::size_t index) const
{
  const std::string& tensor = parts_[part].tensor.name;
  return "`" + names_[source] + "`" + (tensor.empty() ? "" : " in tensor `" + tensor + "`") + " at index " +
         std::to_string(index);
}

std::vector<tensor_entry> sources::open(const std::string& path)
{
  try {
    return tensors_of(files_.emplace_back(path));
  } catch (const std::invalid_argument& refusal) {
    throw std::invalid_argument(path + ": " + refusal.what());
  }
}

void sources::read(
  std::size_t part, std::size_t source, std::size_t first, std::size_t count, std::byte* to) const noexcept
{
  const std::size_t width = size_of(parts_[part].tensor.type);
  if (!in_files()) {
    std::memcpy(to, parts_[part].values[source] + first * width, count * width);
    return;
  }
  const int error = files_[source].read(parts_[part].begins[source] + first * width, count * width, to);
  if (error != 0) {
    std::memset(to, 0, count * width);
    const std::scoped_lock lock{unread_->mutex};
    if (source < unread_->source) {
      unread_->source = source;
      unread_->error = error;
    }
  }
}

void sources::read_floats(
  std::size_t part, std::size_t source, std::size_t first, std::size_t count, float* to) const noexcept
{
  const element_type type = parts_[part].tensor.type;
  if (type == element_type::float32) {
    read(part, source, first, count, reinterpret_cast<std::byte*>(to));
    return;
  }
  std::array<std::byte, halves_length * 2> halves;
  for (std::size_t at = 0; at < count; at += halves_length) {
    const std::size_t now = std::min(halves_length, count - at);
    read(part, source, first + at, now, halves.data());
    widen(type, halves.data(), now, to + at);
  }
}

void sources::check_read() const
{
  FEDMED_EXPECTS(unread_->source == sources_cap, names_[unread_->source] + ": " + reason(unread_->error));
  for (std::size_t source = 0; source < files_.size(); ++source) {
    const int error = files_[source].check();
    FEDMED_EXPECTS(error == 0, names_[source] + ": " + reason(error));
  }
}

model_output::model_output(int descriptor, const sources& like) : descriptor_{descriptor}
{
  std::vector<tensor_entry> tensors;
  for (const source_part& part : like.parts()) {
    tensors.push_back(part.tensor);
  }
  const std::string header = safetensors_header(tensors);
  for (const tensor_entry& tensor : tensors) {
    begins_.push_back(tensor.begin);
    widths_.push_back(size_of(tensor.type));
  }
  if (const int error = write_all(descriptor, header.data(), header.size(), 0); error != 0) {
    throw std::system_error(error, std::generic_category());
  }
}

int model_output::write(std::size_t part, std::size_t first, std::span<const std::byte> bytes) const noexcept
{
  return write_all(descriptor_, bytes.data(), bytes.size(), begins_[part] + first * widths_[part]);
}

}  // namespace fedmed
