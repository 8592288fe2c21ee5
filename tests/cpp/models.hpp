#pragma once

#include <cstddef>
#include <random>
#include <vector>

#include "fedmed/instruction_set.hpp"
#include "fedmed/sources.hpp"

/// K arrays of random float32 as a kernel takes them.
struct random_models {
  std::vector<std::vector<float>> values;

  random_models(std::size_t count, std::size_t length) : values(count, std::vector<float>(length))
  {
    std::mt19937 random{static_cast<unsigned>(count * 1000 + length)};
    std::normal_distribution<float> value;
    for (std::vector<float>& model : values) {
      for (float& element : model) {
        element = value(random);
      }
    }
  }

  [[nodiscard]] fedmed::sources sources() const
  {
    std::vector<const std::byte*> arrays;
    for (const std::vector<float>& model : values) {
      arrays.push_back(reinterpret_cast<const std::byte*>(model.data()));
    }
    return {arrays, fedmed::element_type::float32, values.front().size()};
  }
};

inline fedmed::model_output into(std::vector<float>& out)
{
  return fedmed::model_output{reinterpret_cast<std::byte*>(out.data())};
}

inline constexpr fedmed::instruction_set every_set[]{
  fedmed::instruction_set::baseline, fedmed::instruction_set::avx2, fedmed::instruction_set::avx512};

/// `make(threads, set)` gives the same on any number of threads and any instruction set that runs here.
template <typename MakeT>
[[nodiscard]] bool same_everywhere(const MakeT& make)
{
  const auto wanted = make(std::size_t{1}, fedmed::instruction_set::baseline);
  for (const fedmed::instruction_set set : every_set) {
    for (const std::size_t threads : {1UL, 2UL, 3UL, 8UL}) {
      if (fedmed::is_supported(set) && make(threads, set) != wanted) {
        return false;
      }
    }
  }
  return true;
}
