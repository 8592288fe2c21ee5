#include "fedmed/safetensors.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "fedmed/error.hpp"

namespace fedmed {
namespace {

constexpr std::size_t header_alignment = 8;

/// The part of JSON that a header uses: objects, strings, arrays of whole numbers.
class reader {
 public:
  explicit reader(std::string_view text) noexcept : text_{text} {}

  /// Calls `member` with every key of an object; it must read the value.
  template <typename MemberT>
  void object(const MemberT& member)
  {
    expect('{');
    if (accept('}')) {
      return;
    }
    do {
      const std::string key = string();
      expect(':');
      member(key);
    } while (accept(','));
    expect('}');
  }

  [[nodiscard]] std::vector<std::uint64_t> numbers()
  {
    std::vector<std::uint64_t> values;
    expect('[');
    if (accept(']')) {
      return values;
    }
    do {
      FEDMED_EXPECTS(values.size() < axes_cap,
                     "header: array at byte " + std::to_string(at_) + " has more than " +
                       std::to_string(axes_cap) + " numbers");
      values.push_back(number());
    } while (accept(','));
    expect(']');
    return values;
  }

  [[nodiscard]] std::string string()
  {
    expect('"');
    std::string value;
    for (;;) {
      const unsigned char byte = next();
      if (byte == '"') {
        break;
      }
      FEDMED_EXPECTS(byte >= 0x20, "header: has a control character at byte " + std::to_string(at_ - 1));
      if (byte == '\\') {
        escape(value);
      } else {
        value.push_back(static_cast<char>(byte));
      }
    }
    check_utf8(value);
    return value;
  }

  void end()
  {
    skip_blanks();
    FEDMED_EXPECTS(at_ == text_.size(), "header: has text after its end at byte " + std::to_string(at_));
  }

 private:
  unsigned char next()
  {
    FEDMED_EXPECTS(at_ < text_.size(), "header: ends within a value");
    return static_cast<unsigned char>(text_[at_++]);
  }

  void skip_blanks() noexcept
  {
    while (at_ < text_.size() && std::string_view{" \t\r\n"}.find(text_[at_]) != std::string_view::npos) {
      ++at_;
    }
  }

  bool accept(char wanted) noexcept
  {
    skip_blanks();
    if (at_ == text_.size() || text_[at_] != wanted) {
      return false;
    }
    ++at_;
    return true;
  }

  void expect(char wanted)
  {
    FEDMED_EXPECTS(accept(wanted),
                   "header: is no such JSON at byte " + std::to_string(at_) + ", expected `" + wanted + "`");
  }

  std::uint64_t number()
  {
    skip_blanks();
    const std::size_t first = at_;
    std::uint64_t value = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      const auto digit = static_cast<std::uint64_t>(text_[at_] - '0');
      FEDMED_EXPECTS(value <= (std::numeric_limits<std::uint64_t>::max() - digit) / 10,
                     "header: number at byte " + std::to_string(first) + " overflows");
      value = value * 10 + digit;
    }
    FEDMED_EXPECTS(at_ > first && (at_ == first + 1 || text_[first] != '0'),
                   "header: is no whole number at byte " + std::to_string(first));
    return value;
  }

  unsigned hexadecimal()
  {
    unsigned value = 0;
    for (int i = 0; i < 4; ++i) {
      const unsigned char digit = next();
      const std::size_t found = std::string_view{"0123456789abcdefABCDEF"}.find(static_cast<char>(digit));
      FEDMED_EXPECTS(found != std::string_view::npos,
                     "header: has a wrong escape at byte " + std::to_string(at_ - 1));
      value = value * 16 + static_cast<unsigned>(found < 16 ? found : found - 6);
    }
    return value;
  }

  void escape(std::string& value)
  {
    const auto kind = static_cast<char>(next());
    if (kind == 'u') {
      unsigned code = hexadecimal();
      if (code >= 0xD800 && code < 0xDC00) {
        const bool paired = next() == '\\' && next() == 'u';
        const unsigned low = paired ? hexadecimal() : 0;
        FEDMED_EXPECTS(low >= 0xDC00 && low < 0xE000,
                       "header: has half a surrogate pair at byte " + std::to_string(at_));
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      }
      append_utf8(value, code);
      return;
    }
    constexpr std::string_view kinds = "\"\\/bfnrt";
    constexpr std::string_view meant = "\"\\/\b\f\n\r\t";
    const std::size_t found = kinds.find(kind);
    FEDMED_EXPECTS(found != std::string_view::npos,
                   "header: has a wrong escape at byte " + std::to_string(at_ - 1));
    value.push_back(meant[found]);
  }

  static void append_utf8(std::string& value, unsigned code)
  {
    const auto tail = [&](unsigned shift) {
      value.push_back(static_cast<char>(0x80 | ((code >> shift) & 0x3F)));
    };
    if (code < 0x80) {
      value.push_back(static_cast<char>(code));
    } else if (code < 0x800) {
      value.push_back(static_cast<char>(0xC0 | (code >> 6)));
      tail(0);
    } else if (code < 0x10000) {
      value.push_back(static_cast<char>(0xE0 | (code >> 12)));
      tail(6);
      tail(0);
    } else {
      value.push_back(static_cast<char>(0xF0 | (code >> 18)));
      tail(12);
      tail(6);
      tail(0);
    }
  }

  /// Neither overlong forms nor surrogates, so that the name can go into any message.
  void check_utf8(const std::string& value) const
  {
    for (std::size_t i = 0; i < value.size();) {
      const auto lead = static_cast<unsigned char>(value[i++]);
      const unsigned more = lead < 0x80   ? 0
                            : lead < 0xC2 ? 9
                            : lead < 0xE0 ? 1
                            : lead < 0xF0 ? 2
                            : lead < 0xF5 ? 3
                                          : 9;
      bool good = more <= value.size() - i;
      unsigned code = lead & (more == 0 ? 0x7FU : 0x3FU >> more);
      for (unsigned k = 0; good && k < more; ++k, ++i) {
        const auto byte = static_cast<unsigned char>(value[i]);
        good = (byte & 0xC0) == 0x80;
        code = (code << 6) | (byte & 0x3FU);
      }
      good = good && (more != 2 || code >= 0x800) && (more != 3 || (code >= 0x10000 && code < 0x110000)) &&
             (code < 0xD800 || code >= 0xE000);
      FEDMED_EXPECTS(good, "header: has a string that is no UTF-8 before byte " + std::to_string(at_));
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

element_type type_named(const std::string& dtype, const std::string& where)
{
  for (const element_type type :
       {element_type::float32, element_type::float16, element_type::bfloat16, element_type::int64}) {
    if (dtype == name(type)) {
      return type;
    }
  }
  // The dtype is text of the file too.
  const bool plain = dtype.size() <= 16 && std::all_of(dtype.begin(), dtype.end(), [](char c) {
                       return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
                     });
  FEDMED_EXPECTS(false,
                 where + " has dtype " + (plain ? dtype : "unknown") + ", expected F32, F16, BF16 or I64");
  return element_type::float32;
}

/// Elements of a shape. The product of the sides that are not 0 must fit too: others who read the header may
/// multiply them before they come to a 0.
std::size_t elements_of(const std::vector<std::uint64_t>& shape, std::size_t width, const std::string& where)
{
  std::uint64_t product = 1;
  const std::uint64_t cap = std::numeric_limits<std::ptrdiff_t>::max() / width;
  for (const std::uint64_t side : shape) {
    FEDMED_EXPECTS(side <= cap / product, where + " has a shape that overflows");
    product *= std::max<std::uint64_t>(side, 1);
  }
  return std::find(shape.begin(), shape.end(), 0U) == shape.end() ? product : 0;
}

struct placed {
  tensor_entry tensor;
  std::uint64_t end;
};

placed read_tensor(reader& json, const std::string& key)
{
  const bool printable = std::none_of(
    key.begin(), key.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
  FEDMED_EXPECTS(!key.empty() && key.size() <= name_bytes_cap && printable,
                 "header: a tensor's name has " + std::to_string(key.size()) +
                   " bytes or control characters, expected 1 to " + std::to_string(name_bytes_cap) +
                   " printable ones");
  const std::string where = "tensor `" + key + "`";
  std::string dtype;
  std::vector<std::uint64_t> shape;
  std::vector<std::uint64_t> offsets;
  std::array<bool, 3> seen{};
  json.object([&](const std::string& field) {
    const std::size_t which = field == "dtype" ? 0 : field == "shape" ? 1 : field == "data_offsets" ? 2 : 3;
    FEDMED_EXPECTS(which < 3 && !seen[which], where + " has an unknown or repeated field in its header");
    seen[which] = true;
    if (which == 0) {
      dtype = json.string();
    } else {
      (which == 1 ? shape : offsets) = json.numbers();
    }
  });
  FEDMED_EXPECTS(seen[0] && seen[1] && seen[2], where + " lacks `dtype`, `shape` or `data_offsets`");
  FEDMED_EXPECTS(offsets.size() == 2 && offsets[0] <= offsets[1],
                 where + " has data_offsets that are no [begin, end]");
  const element_type type = type_named(dtype, where);
  const std::size_t elements = elements_of(shape, size_of(type), where);
  FEDMED_EXPECTS(offsets[1] - offsets[0] == elements * size_of(type),
                 where + " has " + std::to_string(offsets[1] - offsets[0]) + " bytes, expected " +
                   std::to_string(elements * size_of(type)) + " for its shape " + shape_text(shape));
  return {{key, type, std::move(shape), offsets[0], elements}, offsets[1]};
}

/// One tensor after the other, from the first byte of the data to the last.
void check_places(std::vector<placed>& all, std::size_t data_bytes)
{
  std::sort(all.begin(), all.end(), [](const placed& a, const placed& b) {
    return a.tensor.begin != b.tensor.begin ? a.tensor.begin < b.tensor.begin : a.end < b.end;
  });
  std::uint64_t covered = 0;
  for (const placed& one : all) {
    FEDMED_EXPECTS(one.tensor.begin == covered,
                   "tensor `" + one.tensor.name + "` begins at byte " + std::to_string(one.tensor.begin) +
                     " of the data, expected " + std::to_string(covered));
    covered = one.end;
  }
  FEDMED_EXPECTS(covered == data_bytes,
                 "data has " + std::to_string(data_bytes) + " bytes, expected " + std::to_string(covered) +
                   " for its tensors");
}

void sort_tensors(std::vector<tensor_entry>& tensors)
{
  std::sort(tensors.begin(), tensors.end(), [](const tensor_entry& a, const tensor_entry& b) {
    return size_of(a.type) != size_of(b.type) ? size_of(a.type) > size_of(b.type) : a.name < b.name;
  });
}

void append_json(std::string& json, const std::string& name)
{
  json += '"';
  for (const char c : name) {
    if (c == '"' || c == '\\') {
      json += '\\';
    }
    json += c;
  }
  json += '"';
}

void append_json(std::string& json, std::span<const std::uint64_t> numbers)
{
  json += '[';
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    json += i == 0 ? "" : ",";
    json += std::to_string(numbers[i]);
  }
  json += ']';
}

}  // namespace

const char* name(element_type type) noexcept
{
  switch (type) {
    case element_type::float32: return "F32";
    case element_type::float16: return "F16";
    case element_type::bfloat16: return "BF16";
    case element_type::int64: break;
  }
  return "I64";
}

std::size_t header_length(std::span<const std::byte> beginning, std::size_t file_bytes)
{
  FEDMED_EXPECTS(file_bytes >= length_bytes && beginning.size() >= length_bytes,
                 "has " + std::to_string(file_bytes) + " bytes, expected a safetensors file");
  std::uint64_t length = 0;
  for (std::size_t i = length_bytes; i-- > 0;) {
    length = length << 8 | std::to_integer<std::uint64_t>(beginning[i]);
  }
  const std::size_t most = std::min(header_bytes_cap, file_bytes - length_bytes);
  FEDMED_EXPECTS(length <= most,
                 "header has " + std::to_string(length) + " bytes, expected at most " + std::to_string(most));
  return length;
}

std::vector<tensor_entry> parse_safetensors(std::string_view header, std::size_t file_bytes)
{
  reader json{header};
  std::vector<placed> all;
  bool described = false;
  json.object([&](const std::string& key) {
    if (key == "__metadata__") {
      FEDMED_EXPECTS(!described, "header: has `__metadata__` twice");
      described = true;
      json.object([&](const std::string&) { static_cast<void>(json.string()); });
    } else {
      all.push_back(read_tensor(json, key));
    }
  });
  json.end();
  const std::size_t data = length_bytes + header.size();
  check_places(all, file_bytes - data);
  std::vector<tensor_entry> tensors;
  tensors.reserve(all.size());
  for (placed& one : all) {
    tensors.push_back(std::move(one.tensor));
    tensors.back().begin += data;
  }
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(
    tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name == b.name; });
  FEDMED_EXPECTS(twice == tensors.end(), "header: has tensor `" + twice->name + "` twice");
  sort_tensors(tensors);
  return tensors;
}

std::string safetensors_header(std::vector<tensor_entry>& tensors)
{
  sort_tensors(tensors);
  std::string json;
  std::uint64_t at = 0;
  for (const tensor_entry& one : tensors) {
    const std::array offsets{at, at + one.length * size_of(one.type)};
    json += json.empty() ? "{" : ",";
    append_json(json, one.name);
    json += ":{\"dtype\":\"";
    json += name(one.type);
    json += "\",\"shape\":";
    append_json(json, one.shape);
    json += ",\"data_offsets\":";
    append_json(json, offsets);
    json += '}';
    at = offsets[1];
  }
  json += json.empty() ? "{}" : "}";
  json.append((header_alignment - json.size() % header_alignment) % header_alignment, ' ');
  std::string file;
  for (std::size_t i = 0; i < length_bytes; ++i) {
    file.push_back(static_cast<char>(json.size() >> (8 * i) & 0xFF));
  }
  file += json;
  std::size_t begin = file.size();
  for (tensor_entry& one : tensors) {
    one.begin = begin;
    begin += one.length * size_of(one.type);
  }
  return file;
}

}  // namespace fedmed
