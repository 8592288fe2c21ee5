#pragma once

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

/// What a call refuses its arguments with; "nothing" where it takes them.
template <typename CallT>
[[nodiscard]] std::string refusal_of(const CallT& call)
{
  try {
    call();
  } catch (const std::invalid_argument& refusal) {
    return refusal.what();
  }
  return "nothing";
}

/// `expression` throws std::invalid_argument with a message that holds `text`.
#define EXPECT_REFUSAL(expression, text) \
  EXPECT_PRED_FORMAT2(testing::IsSubstring, text, refusal_of([&] { expression; }))
