#include "fedmed/safetensors.hpp"

#include <span>
#include <string>
#include <vector>

#include "refusal.hpp"

namespace {

std::string file_of(const std::string& header, std::size_t data_bytes)
{
  std::string file;
  for (std::size_t i = 0; i < 8; ++i) {
    file.push_back(static_cast<char>(header.size() >> (8 * i) & 0xFF));
  }
  return file + header + std::string(data_bytes, 'x');
}

std::vector<fedmed::tensor_entry> parse(const std::string& file)
{
  const std::size_t length = fedmed::header_length(std::as_bytes(std::span{file}), file.size());
  return fedmed::parse_safetensors(file.substr(fedmed::length_bytes, length), file.size());
}

std::string tensor(const std::string& fields)
{
  return "{\"w\":{" + fields + "}}";
}

}  // namespace

TEST(Safetensors, ReadsWhatTheFormatDescribes)
{
  const std::string file = file_of(
    R"({ "__metadata__": {"format":"pt"}, "b":{"dtype":"F16","shape":[3],"data_offsets":[24,30]},
        "a\u00e9\ud83d\ude00\"":{"shape":[2,3],"data_offsets":[0,24],"dtype":"F32"},
        "n":{"dtype":"I64","shape":[],"data_offsets":[30,38]},"none":{"dtype":"BF16","shape":[0,5],"data_offsets":[38,38]}}   )",
    38);
  const std::vector<fedmed::tensor_entry> tensors = parse(file);
  ASSERT_EQ(tensors.size(), 4U);
  EXPECT_EQ(tensors[0].name, "n");
  EXPECT_EQ(tensors[0].length, 1U);
  EXPECT_EQ(tensors[1].name, "a\xC3\xA9\xF0\x9F\x98\x80\"");
  EXPECT_EQ(tensors[1].shape, (std::vector<std::uint64_t>{2, 3}));
  EXPECT_EQ(tensors[1].begin, file.size() - 38);
  EXPECT_EQ(tensors[2].type, fedmed::element_type::float16);
  EXPECT_EQ(tensors[3].length, 0U);
}

TEST(Safetensors, ReadsWhatItWrites)
{
  std::vector<fedmed::tensor_entry> tensors{{"half", fedmed::element_type::float16, {3}, 0, 3},
                                            {"q\"\\", fedmed::element_type::float32, {2, 2}, 0, 4}};
  const std::string header = fedmed::safetensors_header(tensors);
  EXPECT_EQ(header.size() % 8, 0U);
  const std::vector<fedmed::tensor_entry> again = parse(header + std::string(22, 'x'));
  ASSERT_EQ(again.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(again[i].same_kind(tensors[i]));
    EXPECT_EQ(again[i].begin, tensors[i].begin);
  }
}

TEST(Safetensors, RefusesAHeaderThatIsNone)
{
  EXPECT_REFUSAL(parse("1234567"), "has 7 bytes, expected a safetensors file");
  EXPECT_REFUSAL(parse(std::string(8, '\xFF')), "header has 18446744073709551615 bytes, expected at most 0");
  EXPECT_REFUSAL(parse(file_of("{}", 0).substr(0, 9)), "header has 2 bytes, expected at most 1");
  EXPECT_REFUSAL(parse(file_of("", 0)), "header: is no such JSON at byte 0, expected `{`");
  EXPECT_REFUSAL(parse(file_of("{} x", 0)), "header: has text after its end at byte 3");
  EXPECT_REFUSAL(parse(file_of("{\"w", 0)), "header: ends within a value");
  EXPECT_REFUSAL(parse(file_of("{\"w\n\"", 0)), "has a control character at byte 3");
  EXPECT_REFUSAL(parse(file_of(R"({"\x":1})", 0)), "has a wrong escape at byte 3");
  EXPECT_REFUSAL(parse(file_of(R"({"\ud800":1})", 0)), "has half a surrogate pair");
  EXPECT_REFUSAL(parse(file_of("{\"\xC0\xAF\":1}", 0)), "has a string that is no UTF-8");
  EXPECT_REFUSAL(parse(file_of("{\"\xED\xA0\x80\":1}", 0)), "has a string that is no UTF-8");
  EXPECT_REFUSAL(parse(file_of(R"({"a\u001b[0m":{}})", 0)), "control characters");
  EXPECT_REFUSAL(parse(file_of("{\"" + std::string(1025, 'a') + "\":{}}", 0)),
                 "a tensor's name has 1025 bytes");
}

TEST(Safetensors, RefusesATensorThatIsNone)
{
  const std::string good = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";
  EXPECT_EQ(parse(file_of(tensor(good), 8)).size(), 1U);
  const auto refused = [](const std::string& fields, std::size_t bytes, const char* message) {
    EXPECT_REFUSAL(parse(file_of(tensor(fields), bytes)), message);
  };
  refused(R"("dtype":"F64","shape":[1],"data_offsets":[0,8])",
          8,
          "`w` has dtype F64, expected F32, F16, BF16 or I64");
  refused(R"("dtype":"F32 ","shape":[1],"data_offsets":[0,4])", 4, "`w` has dtype unknown, expected");
  refused(R"("dtype":"F32","shape":[2])", 8, "`w` lacks `dtype`, `shape` or `data_offsets`");
  refused(good + R"(,"shape":[2])", 8, "`w` has an unknown or repeated field");
  refused(good + R"(,"extra":[2])", 8, "`w` has an unknown or repeated field");
  refused(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])",
          8,
          "`w` has 8 bytes, expected 12 for its shape (3,)");
  refused(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])", 8, "data_offsets that are no [begin, end]");
  refused(R"("dtype":"F32","shape":[2],"data_offsets":[0])", 8, "data_offsets that are no [begin, end]");
  refused(R"("dtype":"F32","shape":[02],"data_offsets":[0,8])", 8, "is no whole number");
  refused(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])", 8, "is no whole number");
  refused(R"("dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8])", 8, "overflows");
  for (const char* shape : {"4294967296,4294967296",
                            "0,9223372036854775808",
                            "9223372036854775808,0",
                            "18446744073709551615",
                            "2305843009213693952",  // times 4 bytes
                            "4294967296,0,4294967296",
                            "0,0,4294967296,4294967296",
                            "3,0,1537228672809129302",
                            "2097152,2097152,0,2097152"}) {
    const std::string fields =
      std::string{R"("dtype":"F32","shape":[)"} + shape + R"(],"data_offsets":[0,0])";
    refused(fields, 0, "`w` has a shape that overflows");
  }
  const std::string largest = R"("dtype":"F32","shape":[0,2305843009213693951],"data_offsets":[0,0])";
  EXPECT_EQ(parse(file_of(tensor(largest), 0)).front().length, 0U);
  refused(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2],"data_offsets":[0,8])",
          8,
          "has more than 16 numbers");
}

TEST(Safetensors, RefusesDataThatOverlapsHasHolesOrIsTooLong)
{
  const auto two = [](const std::string& first, const std::string& second) {
    return "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":" + first +
           "},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":" + second + "}}";
  };
  EXPECT_REFUSAL(parse(file_of(two("[0,4]", "[0,4]"), 8)), "begins at byte 0 of the data, expected 4");
  EXPECT_REFUSAL(parse(file_of(two("[0,4]", "[6,10]"), 10)), "`b` begins at byte 6 of the data, expected 4");
  EXPECT_REFUSAL(parse(file_of(two("[0,4]", "[4,8]"), 9)), "data has 9 bytes, expected 8 for its tensors");
  EXPECT_REFUSAL(parse(file_of(two("[0,4]", "[4,8]"), 7)), "data has 7 bytes, expected 8 for its tensors");
  const std::string twice =
    R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})";
  EXPECT_REFUSAL(parse(file_of(twice, 8)), "header: has tensor `a` twice");
}
