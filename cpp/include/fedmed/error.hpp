#pragma once

#include <stdexcept>
#include <string>

/// Refuse an argument: throws std::invalid_argument with `message` (any expression that makes a std::string,
/// evaluated only on refusal). Form: "kernel: `argument` has GOT, expected WANTED".
#define FEDMED_EXPECTS(condition, message)                 \
  do {                                                     \
    if (!(condition)) {                                    \
      throw std::invalid_argument(std::string{(message)}); \
    }                                                      \
  } while (false)

namespace fedmed {

/// A setting of the environment that cannot be used.
class setting_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// "(2, 3)": a shape as a message shows it.
template <typename Sequence>
[[nodiscard]] std::string shape_text(const Sequence& shape)
{
  std::string text = "(";
  bool first = true;
  for (const auto side : shape) {
    text += first ? "" : ", ";
    text += std::to_string(side);
    first = false;
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace fedmed
