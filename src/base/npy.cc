// Layout: "\x93NUMPY", two bytes of version, the header's length (2 bytes in version 1, 4 in
// version 2 and 3), the header (a Python dictionary as text), the elements.
#include "base/npy.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <string>

#include "base/file.h"

namespace cmlc {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 32;

// The text behind 'key': in a header, up to the comma or brace that ends it.
std::optional<std::string> Field(const std::string& header, const std::string& key) {
  const size_t at = header.find("'" + key + "'");
  if (at == std::string::npos) return std::nullopt;
  size_t begin = header.find(':', at);
  if (begin == std::string::npos) return std::nullopt;
  begin = header.find_first_not_of(" ", begin + 1);
  if (begin == std::string::npos) return std::nullopt;
  const char closing = header[begin] == '(' ? ')' : ',';
  const size_t end = header.find(closing, begin);
  if (end == std::string::npos) return std::nullopt;
  return header.substr(begin, end - begin + (closing == ')' ? 1 : 0));
}

// IEEE half to double, for the few values of a table.
double HalfToDouble(uint16_t half) {
  const int exponent = (half >> 10) & 0x1f;
  const int mantissa = half & 0x3ff;
  double value = 0;
  if (exponent == 0)
    value = mantissa * 0x1p-24;
  else if (exponent == 31)
    value = mantissa == 0 ? std::numeric_limits<double>::infinity()
                          : std::numeric_limits<double>::quiet_NaN();
  else
    value = std::ldexp(1024 + mantissa, exponent - 25);
  return (half & 0x8000) != 0 ? -value : value;
}

template <typename T>
void Append(const char* bytes, uint64_t count, std::vector<double>& values) {
  for (uint64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
    values.push_back(static_cast<double>(value));
  }
}

}  // namespace

Result<NpyArray> ReadNpy(const std::filesystem::path& path) {
  const auto bad = [&](std::string_view what) {
    return Error{ErrorKind::kBadInput, fmt::format("{}: {}", path.string(), what)};
  };
  CMLC_ASSIGN_OR_RETURN(const std::string file, ReadWholeFile(path, kMostBytes));
  if (file.size() < 12 || file.compare(0, 6, "\x93NUMPY", 6) != 0)
    return bad("is not an .npy file: it does not start with \\x93NUMPY");
  const int version = static_cast<unsigned char>(file[6]);
  if (version < 1 || version > 3) return bad(fmt::format(".npy version {} is not known", version));
  const auto byte = [&](size_t i) { return static_cast<uint64_t>(static_cast<uint8_t>(file[i])); };
  uint64_t length = byte(8) | byte(9) << 8;
  size_t start = 10;
  if (version > 1) {
    length |= byte(10) << 16 | byte(11) << 24;
    start = 12;
  }
  if (length > file.size() - start) return bad("its header is cut short");
  const std::string header = file.substr(start, length);
  const std::optional<std::string> descr = Field(header, "descr");
  const std::optional<std::string> order = Field(header, "fortran_order");
  const std::optional<std::string> shape = Field(header, "shape");
  if (!descr || !order || !shape) return bad("its header lacks descr, fortran_order or shape");

  NpyArray array;
  uint64_t size = 0;
  bool in_number = false;
  for (const char c : *shape) {
    if (c >= '0' && c <= '9') {
      if (size > (uint64_t{1} << 40)) return bad(fmt::format("shape {} is too large", *shape));
      size = size * 10 + static_cast<uint64_t>(c - '0');
      in_number = true;
    } else if (in_number) {
      array.shape.push_back(static_cast<int64_t>(size));
      size = 0;
      in_number = false;
    }
  }
  const std::optional<uint64_t> count = ElementCount(array.shape);
  if (!count) return bad(fmt::format("shape {} overflows", *shape));
  if (*order != "False" && array.shape.size() > 1)
    return bad("is in Fortran order, expected C order");

  const std::string code = descr->substr(0, descr->find_last_of('\'') + 1);
  const char* data = file.data() + start + length;
  const uint64_t available = file.size() - start - length;
  const auto fits = [&](uint64_t width) { return *count <= available / width; };
  const std::string cut =
      fmt::format("is cut short: {} values do not fit in {} bytes", *count, available);
  const auto read = [&]<typename T>(T) -> Status {
    if (!fits(sizeof(T))) return bad(cut);
    Append<T>(data, *count, array.values);
    return Ok();
  };
  Status status;
  if (code == "'<f4'") {
    status = read(float{});
  } else if (code == "'<f8'") {
    status = read(double{});
  } else if (code == "'<f2'") {
    if (!fits(2)) return bad(cut);
    for (uint64_t i = 0; i < *count; ++i) {
      uint16_t half = 0;
      std::memcpy(&half, data + 2 * i, 2);
      array.values.push_back(HalfToDouble(half));
    }
  } else if (code == "'<i8'") {
    status = read(int64_t{});
  } else if (code == "'<i4'") {
    status = read(int32_t{});
  } else if (code == "'<i2'") {
    status = read(int16_t{});
  } else if (code == "'|i1'") {
    status = read(int8_t{});
  } else if (code == "'<u8'") {
    status = read(uint64_t{});
  } else if (code == "'<u4'") {
    status = read(uint32_t{});
  } else if (code == "'<u2'") {
    status = read(uint16_t{});
  } else if (code == "'|u1'") {
    status = read(uint8_t{});
  } else {
    return bad(
        fmt::format("holds elements of type {}, expected little-endian fp16, fp32, fp64 or "
                    "integers",
                    *descr));
  }
  if (!status.ok()) return status.error();
  return array;
}

}  // namespace cmlc
