#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// A test runner of one page, so that a fresh machine needs nothing but a compiler.
///
///   TEST(name) { CHECK(left == right); CHECK_THROWS(call(), "text"); }
///
/// Each test file is its own program: it runs all its tests and returns the number of those that failed.
namespace check {

struct test {
  std::string_view name;
  std::function<void()> body;
};

inline std::vector<test>& tests()
{
  static std::vector<test> all;
  return all;
}

struct registration {
  registration(std::string_view name, std::function<void()> body)
  {
    tests().push_back({name, std::move(body)});
  }
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what)
{
  std::ostringstream text;
  text << file << ':' << line << ": " << what;
  throw std::runtime_error(text.str());
}

}  // namespace check

#define TEST(name)                                                   \
  static void name();                                                \
  static const check::registration name##_registration{#name, name}; \
  static void name()

#define CHECK(condition)                                  \
  do {                                                    \
    if (!(condition)) {                                   \
      check::fail(__FILE__, __LINE__, "not " #condition); \
    }                                                     \
  } while (false)

#define CHECK_THROWS(expression, wanted)                                                          \
  do {                                                                                            \
    std::string got = "nothing";                                                                  \
    try {                                                                                         \
      expression;                                                                                 \
    } catch (const std::invalid_argument& refusal) {                                              \
      got = refusal.what();                                                                       \
    }                                                                                             \
    if (got.find(wanted) == std::string::npos) {                                                  \
      check::fail(__FILE__, __LINE__, #expression " threw `" + got + "`, expected `" wanted "`"); \
    }                                                                                             \
  } while (false)

int main()
{
  int failed = 0;
  for (const check::test& one : check::tests()) {
    try {
      one.body();
      std::printf("ok      %.*s\n", static_cast<int>(one.name.size()), one.name.data());
    } catch (const std::exception& reason) {
      ++failed;
      std::printf("FAILED  %.*s: %s\n", static_cast<int>(one.name.size()), one.name.data(), reason.what());
    }
  }
  return failed;
}
