// Coverage-guided search for a safetensors file that breaks the reader. Outside continuous integration:
//
//   cmake --preset fuzz && cmake --build --preset fuzz
//   build/fuzz/fuzz_safetensors -max_total_time=600 -max_len=4096
//
// It starts from the headers below; what a header says is checked against what the reader makes of it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "fedmed/safetensors.hpp"

namespace {

constexpr const char* seeds[]{
  "{}",
  R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
  R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]},)"
  R"("b":{"dtype":"BF16","shape":[0],"data_offsets":[4,4]},"n":{"dtype":"I64","shape":[],"data_offsets":[4,12]}}  )",
  R"({"none":{"dtype":"F32","shape":[4294967296,0,1],"data_offsets":[0,0]}})",
  R"({"\u00e9\ud83d\ude00\"\\\/":{"shape":[1,1,1],"data_offsets":[0,4],"dtype":"F32"}})",
};
constexpr std::size_t seed_data[]{0, 8, 12, 0, 4};
using fedmed::length_bytes;

/// A file whose length field fits the header that it holds.
std::string file_of(const std::string& header, std::size_t data)
{
  std::string file(length_bytes, '\0');
  for (std::size_t i = 0; i < length_bytes; ++i) {
    file[i] = static_cast<char>(header.size() >> (8 * i) & 0xFF);
  }
  return file + header + std::string(data, 'x');
}

/// What the reader of files does with their bytes.
std::vector<fedmed::tensor_entry> parse(std::span<const std::byte> file)
{
  const std::size_t length = fedmed::header_length(file, file.size());
  const auto* header = reinterpret_cast<const char*>(file.data()) + length_bytes;
  return fedmed::parse_safetensors({header, length}, file.size());
}

void require(bool held)
{
  if (!held) {
    std::abort();
  }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

/// Mutates the header and the amount of data apart, so that the length field stays right most of the time.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data,
                                               std::size_t size,
                                               std::size_t max_size,
                                               unsigned seed)
{
  if (size < length_bytes) {
    const std::string file = file_of(seeds[seed % std::size(seeds)], seed_data[seed % std::size(seeds)]);
    std::memcpy(data, file.data(), std::min(max_size, file.size()));
    return std::min(max_size, file.size());
  }
  if (seed % 16 == 0) {
    return LLVMFuzzerMutate(data, size, max_size);
  }
  std::uint64_t length = 0;
  std::memcpy(&length, data, length_bytes);
  const std::size_t rest = size - length_bytes;
  const std::size_t header = length < rest ? static_cast<std::size_t>(length) : rest;
  std::vector<std::uint8_t> text(data + length_bytes, data + length_bytes + header);
  const std::size_t room = max_size - length_bytes;
  text.resize(room);
  const std::size_t made = LLVMFuzzerMutate(text.data(), header, room);
  const std::size_t bytes = std::min(room - made, seed % 4 == 1 ? seed / 16 % 64 : rest - header);
  const std::string file = file_of({reinterpret_cast<const char*>(text.data()), made}, bytes);
  std::memcpy(data, file.data(), file.size());
  return file.size();
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
  try {
    std::vector<fedmed::tensor_entry> tensors = parse({reinterpret_cast<const std::byte*>(data), size});
    std::size_t covered = 0;
    for (const fedmed::tensor_entry& one : tensors) {
      const std::size_t bytes = one.length * fedmed::size_of(one.type);
      require(one.begin <= size && bytes <= size - one.begin);
      covered += bytes;
      // Who multiplies the sides, in whatever order, comes to no number that overflows.
      std::uint64_t product = fedmed::size_of(one.type);
      for (const std::uint64_t side : one.shape) {
        require(side <= std::numeric_limits<std::ptrdiff_t>::max() / product);
        product *= std::max<std::uint64_t>(side, 1);
      }
    }
    // Written again and read again it is the same.
    std::string file = fedmed::safetensors_header(tensors);
    const std::vector<fedmed::tensor_entry> before = tensors;
    file.resize(file.size() + covered);
    const std::vector<fedmed::tensor_entry> again = parse(std::as_bytes(std::span{file}));
    require(again.size() == before.size());
    for (std::size_t i = 0; i < again.size(); ++i) {
      require(again[i].same_kind(before[i]) && again[i].begin == before[i].begin);
    }
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
