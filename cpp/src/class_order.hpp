#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fedmed {

/// Row numbers class by class, each class in row order; class -1 is left out.
struct class_order {
  std::vector<std::size_t> rows;
  std::vector<std::size_t> begin;  // of every class in `rows`, and the end
};

inline class_order order_by_class(std::span<const std::int32_t> classes, std::size_t class_count)
{
  class_order result;
  result.begin.assign(class_count + 1, 0);
  for (const std::int32_t label : classes) {
    if (label >= 0) {
      ++result.begin[static_cast<std::size_t>(label) + 1];
    }
  }
  for (std::size_t label = 0; label < class_count; ++label) {
    result.begin[label + 1] += result.begin[label];
  }
  result.rows.resize(result.begin[class_count]);
  std::vector<std::size_t> next(result.begin.begin(), result.begin.end() - 1);
  for (std::size_t row = 0; row < classes.size(); ++row) {
    if (classes[row] >= 0) {
      result.rows[next[static_cast<std::size_t>(classes[row])]++] = row;
    }
  }
  return result;
}

}  // namespace fedmed
