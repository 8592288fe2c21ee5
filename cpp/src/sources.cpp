#include "fedmed/sources.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <string_view>
#include <system_error>
#include <utility>

#include "fedmed/error.hpp"

namespace fedmed {
namespace {

// The system maps a page's neighbours with it: the whole of what it read as one, up to about this many bytes.
constexpr std::size_t neighbourhood = std::size_t{2} << 20;
const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));

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

/// @return whether all of it was there
bool read_all(int descriptor, std::byte* to, std::size_t size, std::size_t at) noexcept
{
  while (size > 0) {
    const ssize_t got = pread(descriptor, to, size, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      return false;
    }
    to += got;
    at += static_cast<std::size_t>(got);
    size -= static_cast<std::size_t>(got);
  }
  return true;
}

std::vector<tensor_entry> tensors_of(const mapped_file& file, const std::string& path)
{
  try {
    return parse_safetensors(file.bytes());
  } catch (const std::invalid_argument& refusal) {
    throw std::invalid_argument(path + ": " + refusal.what());
  }
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
    FEDMED_EXPECTS(found.mapped()->same_kind(part.tensor),
                   where + ": tensor `" + part.tensor.name + "` has " + kind_text(*found.mapped()) +
                     ", expected " + kind_text(part.tensor));
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

mapped_file::mapped_file(const std::string& path) : descriptor_{open_to_read(path)}
{
  FEDMED_EXPECTS(descriptor_ >= 0, path + ": cannot be read: " + std::strerror(errno));
  struct stat status {};
  const bool regular = fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
  const auto size = static_cast<std::size_t>(status.st_size);
  void* memory = MAP_FAILED;
  if (regular && size > 0) {
    memory = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor_, 0);
  }
  if (memory == MAP_FAILED) {
    const int error = errno;
    close_descriptor();
    FEDMED_EXPECTS(regular, path + ": is no file");
    FEDMED_EXPECTS(size > 0, path + ": has 0 bytes, expected a safetensors file");
    FEDMED_EXPECTS(false, path + ": cannot be mapped: " + std::strerror(error));
  }
  madvise(memory, size, MADV_SEQUENTIAL);
  bytes_ = {static_cast<const std::byte*>(memory), size};
}

mapped_file::mapped_file(mapped_file&& other) noexcept
  : bytes_{std::exchange(other.bytes_, {})}, descriptor_{std::exchange(other.descriptor_, -1)}
{
}

mapped_file::~mapped_file()
{
  close_descriptor();
  if (!bytes_.empty()) {
    munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
}

void mapped_file::close_descriptor() noexcept
{
  if (descriptor_ >= 0) {
    close(std::exchange(descriptor_, -1));
  }
}

void mapped_file::copy(std::size_t begin, std::size_t size, std::byte* to) const noexcept
{
  if (descriptor_ < 0 || !read_all(descriptor_, to, size, begin)) {
    std::memcpy(to, bytes_.data() + begin, size);
    release(begin - std::min(begin, neighbourhood), std::min(begin + size + neighbourhood, bytes_.size()));
  }
}

void mapped_file::release(std::size_t begin, std::size_t end) const noexcept
{
  const std::size_t from = begin & ~(page - 1);
  if (end > from) {
    madvise(const_cast<std::byte*>(bytes_.data()) + from, end - from, MADV_DONTNEED);
  }
}

sources::sources(const std::vector<std::string>& paths) : names_{paths}
{
  FEDMED_EXPECTS(
    !paths.empty() && paths.size() <= sources_cap,
    "`sources` has " + std::to_string(paths.size()) + " files, expected 1 to " + std::to_string(sources_cap));
  files_.reserve(paths.size());
  const std::size_t descriptors = descriptors_to_keep();
  for (const std::string& path : paths) {
    mapped_file& file = files_.emplace_back(path);
    if (files_.size() > descriptors) {
      file.close_descriptor();
    }
    std::vector<tensor_entry> tensors = tensors_of(file, path);
    if (files_.size() == 1) {
      for (const tensor_entry& tensor : tensors) {
        parts_.push_back({tensor, {}});
        parts_.back().values.reserve(paths.size());
      }
    }
    check_same(tensors, parts_, path);
    file.release(0, file.bytes().size());  // what was mapped to read the header
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      parts_[i].values.push_back(file.bytes().data() + tensors[i].begin);
    }
  }
}

sources::sources(std::vector<const std::byte*> arrays, element_type type, std::size_t length)
{
  FEDMED_EXPECTS(!arrays.empty() && arrays.size() <= sources_cap,
                 "`sources` has " + std::to_string(arrays.size()) + " arrays, expected 1 to " +
                   std::to_string(sources_cap));
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    names_.push_back("sources[" + std::to_string(i) + "]");
  }
  parts_.push_back({{"", type, {length}, 0, length}, std::move(arrays)});
}

void sources::check_same_tensors(const sources& other, const std::string& where) const
{
  std::vector<tensor_entry> theirs;
  for (const source_part& part : other.parts_) {
    theirs.push_back(part.tensor);
  }
  check_same(theirs, parts_, where);
}

std::string sources::describe(std::size_t source, std::size_t part, std::size_t index) const
{
  const std::string& tensor = parts_[part].tensor.name;
  return "`" + names_[source] + "`" + (tensor.empty() ? "" : " in tensor `" + tensor + "`") + " at index " +
         std::to_string(index);
}

void sources::copy(
  std::size_t part, std::size_t source, std::size_t first, std::size_t count, std::byte* to) const noexcept
{
  const std::size_t width = size_of(parts_[part].tensor.type);
  const std::byte* values = parts_[part].values[source] + first * width;
  const mapped_file& file = files_[source];
  file.copy(static_cast<std::size_t>(values - file.bytes().data()), count * width, to);
}

void sources::release(std::size_t part, std::size_t first, std::size_t count) const noexcept
{
  const std::size_t width = size_of(parts_[part].tensor.type);
  for (std::size_t source = 0; source < files_.size(); ++source) {
    const mapped_file& file = files_[source];
    const auto begin =
      static_cast<std::size_t>(parts_[part].values[source] - file.bytes().data()) + first * width;
    // Both ends downwards: the last page may hold the next elements; and at the end of a neighbourhood all of it and
    // of the one before, for pages came back with later ones and with a slower thread's.
    const std::size_t end = (begin + count * width) & ~(page - 1);
    const std::size_t start = begin & ~(neighbourhood - 1);
    const bool last = begin / neighbourhood != end / neighbourhood;
    file.release(last ? start - std::min(start, neighbourhood) : begin, end);
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
