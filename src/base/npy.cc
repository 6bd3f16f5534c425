// Layout: "\x93NUMPY", two bytes of version, the header's length (2 bytes in version 1, 4 in
// version 2 and 3), the header (a Python dictionary as text), the elements.
#include "base/npy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <string>

namespace cmlc {
namespace {

constexpr uint64_t kMostHeaderBytes = uint64_t{1} << 20;
constexpr uint64_t kMostBytes = uint64_t{1} << 34;  // of what is read at a time

// The text behind 'key': in a header, up to the comma or bracket that ends it.
std::optional<std::string> Field(const std::string& header, const std::string& key) {
  const size_t at = header.find("'" + key + "'");
  if (at == std::string::npos) return std::nullopt;
  size_t begin = header.find(':', at);
  if (begin == std::string::npos) return std::nullopt;
  begin = header.find_first_not_of(" ", begin + 1);
  if (begin == std::string::npos) return std::nullopt;
  const char closing = header[begin] == '(' ? ')' : header[begin] == '[' ? ']' : ',';
  size_t end = header.find(closing, begin);
  if (end == std::string::npos && closing == ',') end = header.find('}', begin);
  if (end == std::string::npos) return std::nullopt;
  std::string text = header.substr(begin, end - begin + (closing == ',' ? 0 : 1));
  while (!text.empty() && (text.back() == ' ' || text.back() == '}')) text.pop_back();
  return text;
}

struct ElementType {
  std::string_view code;
  DataType dtype;
};

constexpr ElementType kTypes[] = {
    {"f2", DataType::kFloat16}, {"f4", DataType::kFloat32}, {"f8", DataType::kFloat64},
    {"i1", DataType::kInt8},    {"i2", DataType::kInt16},   {"i4", DataType::kInt32},
    {"i8", DataType::kInt64},   {"u1", DataType::kUInt8},   {"u2", DataType::kUInt16},
    {"u4", DataType::kUInt32},  {"u8", DataType::kUInt64},  {"b1", DataType::kBool}};

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
void Append(const std::string& bytes, std::vector<double>& values) {
  for (size_t at = 0; at + sizeof(T) <= bytes.size(); at += sizeof(T)) {
    T value;
    std::memcpy(&value, bytes.data() + at, sizeof(T));
    values.push_back(static_cast<double>(value));
  }
}

size_t WidthOf(DataType dtype) {
  return dtype == DataType::kBool ? 1 : static_cast<size_t>(BitsOf(dtype)) / 8;
}

// Elements whose first axis varies fastest, put so that the last one does.
std::string RowMajor(const std::string& in, const Shape& shape, size_t width) {
  std::string out(in.size(), '\0');
  if (in.empty()) return out;
  std::vector<uint64_t> strides(shape.size(), 1);
  for (size_t d = 1; d < shape.size(); ++d)
    strides[d] = strides[d - 1] * static_cast<uint64_t>(shape[d - 1]);
  std::vector<int64_t> index(shape.size(), 0);
  uint64_t from = 0;
  for (size_t to = 0; to < out.size(); to += width) {
    std::memcpy(out.data() + to, in.data() + from * width, width);
    for (size_t d = shape.size(); d-- > 0;) {
      from += strides[d];
      if (++index[d] < shape[d]) break;
      from -= strides[d] * static_cast<uint64_t>(shape[d]);
      index[d] = 0;
    }
  }
  return out;
}

}  // namespace

Error NpyReader::Bad(std::string_view what) const {
  return Error{ErrorKind::kBadInput, fmt::format("{}: {}", name_, what)};
}

Result<NpyReader> NpyReader::Open(const std::filesystem::path& path) {
  CMLC_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, OpenFileSource(path));
  return Open(std::move(source), path.string());
}

Result<NpyReader> NpyReader::Open(std::unique_ptr<ByteSource> source, std::string name) {
  NpyReader reader;
  reader.source_ = std::move(source);
  reader.name_ = std::move(name);
  const uint64_t size = reader.source_->size();
  std::string head(static_cast<size_t>(std::min<uint64_t>(size, 12)), '\0');
  CMLC_RETURN_IF_ERROR(reader.source_->Read(0, head));
  if (head.size() < 12 || head.compare(0, 6, "\x93NUMPY", 6) != 0)
    return reader.Bad("is not an .npy file: it does not start with \\x93NUMPY");
  const int version = static_cast<unsigned char>(head[6]);
  if (version < 1 || version > 3)
    return reader.Bad(fmt::format(".npy version {} is not known", version));
  const auto byte = [&](size_t i) { return static_cast<uint64_t>(static_cast<uint8_t>(head[i])); };
  uint64_t length = byte(8) | byte(9) << 8;
  uint64_t start = 10;
  if (version > 1) {
    length |= byte(10) << 16 | byte(11) << 24;
    start = 12;
  }
  if (length > size - start || length > kMostHeaderBytes)
    return reader.Bad("its header is cut short");
  // Forwards only, so that a source which checks what it reads can do so.
  std::string header(static_cast<size_t>(length), '\0');
  const size_t have = std::min(header.size(), head.size() - static_cast<size_t>(start));
  std::copy_n(head.begin() + static_cast<ptrdiff_t>(start), have, header.begin());
  CMLC_RETURN_IF_ERROR(reader.source_->Read(start + have, std::span(header).subspan(have)));
  reader.start_ = start + length;
  const std::optional<std::string> descr = Field(header, "descr");
  const std::optional<std::string> order = Field(header, "fortran_order");
  const std::optional<std::string> shape = Field(header, "shape");
  if (!descr || !order || !shape)
    return reader.Bad("its header lacks descr, fortran_order or shape");

  uint64_t number = 0;
  bool in_number = false;
  for (const char c : *shape) {
    if (c >= '0' && c <= '9') {
      if (number > (uint64_t{1} << 40))
        return reader.Bad(fmt::format("shape {} is too large", *shape));
      number = number * 10 + static_cast<uint64_t>(c - '0');
      in_number = true;
      continue;
    }
    if (std::string_view("(), L").find(c) == std::string_view::npos)
      return reader.Bad(fmt::format("shape {} is none", *shape));
    if (in_number) reader.shape_.push_back(static_cast<int64_t>(number));
    number = 0;
    in_number = false;
  }
  if (reader.shape_.size() > 32) return reader.Bad("has more than 32 axes");
  const std::optional<uint64_t> count = ElementCount(reader.shape_);
  if (!count) return reader.Bad(fmt::format("shape {} overflows", *shape));
  if (*order != "False" && *order != "True")
    return reader.Bad(fmt::format("fortran_order is {}, expected True or False", *order));
  // Of one axis both orders are the same.
  const auto longer = std::count_if(reader.shape_.begin(), reader.shape_.end(),
                                    [](int64_t axis) { return axis != 1; });
  reader.fortran_ = *order == "True" && longer > 1;

  const bool quoted = descr->size() == 5 && (*descr)[0] == '\'' && (*descr)[4] == '\'';
  const char endian = quoted ? (*descr)[1] : '\0';
  for (const ElementType& type : kTypes)
    if (quoted && descr->compare(2, 2, type.code) == 0 &&
        std::string_view("<>=|").find(endian) != std::string_view::npos)
      reader.dtype_ = type.dtype;
  if (reader.dtype_ == DataType::kUnused)
    return reader.Bad(fmt::format(
        "holds elements of type {}, expected fp16, fp32, fp64, integers or booleans", *descr));
  reader.width_ = WidthOf(reader.dtype_);
  reader.big_endian_ = endian == '>' && reader.width_ > 1;
  const uint64_t available = size - reader.start_;
  if (*count > available / reader.width_)
    return reader.Bad(
        fmt::format("is cut short: {} values do not fit in {} bytes", *count, available));
  return reader;
}

Status NpyReader::ReadElements(uint64_t first, uint64_t count, std::string& bytes) {
  if (count > kMostBytes / width_)
    return Bad(fmt::format("needs {} values at a time, which is too much to hold", count));
  bytes.resize(static_cast<size_t>(count * width_));
  CMLC_RETURN_IF_ERROR(source_->Read(start_ + first * width_, bytes));
  if (big_endian_)
    for (size_t at = 0; at < bytes.size(); at += width_)
      std::reverse(bytes.data() + at, bytes.data() + at + width_);
  if (dtype_ == DataType::kBool)
    for (char& flag : bytes) flag = flag != 0 ? 1 : 0;
  return Ok();
}

Result<Array> NpyReader::ReadAll() {
  Array array = {dtype_, shape_, {}};
  CMLC_RETURN_IF_ERROR(ReadElements(0, *ElementCount(shape_), array.bytes));
  if (fortran_) array.bytes = RowMajor(array.bytes, shape_, width_);
  return array;
}

Result<Array> NpyReader::ReadRow(uint64_t row) {
  Array array = {dtype_, Shape(shape_.begin() + 1, shape_.end()), {}};
  const uint64_t count = *ElementCount(array.shape);
  if (!fortran_) {
    CMLC_RETURN_IF_ERROR(ReadElements(row * count, count, array.bytes));
    return array;
  }
  // The first axis varies fastest, so a row lies all over the file: it is turned around once.
  if (!have_reversed_) {
    CMLC_ASSIGN_OR_RETURN(Array all, ReadAll());
    reversed_ = std::move(all.bytes);
    have_reversed_ = true;
  }
  array.bytes = reversed_.substr(static_cast<size_t>(row * count * width_),
                                 static_cast<size_t>(count * width_));
  return array;
}

std::string NpyDescr(DataType dtype) {
  for (const ElementType& type : kTypes)
    if (type.dtype == dtype) return (WidthOf(dtype) == 1 ? "|" : "<") + std::string(type.code);
  return "";
}

std::string NpyHeader(std::string_view descr, const Shape& shape) {
  std::string sizes;
  for (const int64_t size : shape) sizes += fmt::format("{}, ", size);
  if (shape.size() > 1) sizes.resize(sizes.size() - 2);
  if (shape.size() == 1) sizes.pop_back();
  std::string header =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", descr, sizes);
  // Elements start at a multiple of 64.
  header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(header.size() & 0xff);
  bytes += static_cast<char>(header.size() >> 8);
  return bytes + header;
}

Result<NpyArray> ReadNpy(const std::filesystem::path& path) {
  CMLC_ASSIGN_OR_RETURN(NpyReader reader, NpyReader::Open(path));
  CMLC_ASSIGN_OR_RETURN(const Array in, reader.ReadAll());
  NpyArray array;
  array.shape = in.shape;
  std::vector<double>& values = array.values;
  switch (in.dtype) {
    case DataType::kFloat16:
      for (size_t at = 0; at < in.bytes.size(); at += 2) {
        uint16_t half = 0;
        std::memcpy(&half, in.bytes.data() + at, 2);
        values.push_back(HalfToDouble(half));
      }
      break;
    case DataType::kFloat32:
      Append<float>(in.bytes, values);
      break;
    case DataType::kFloat64:
      Append<double>(in.bytes, values);
      break;
    case DataType::kInt8:
      Append<int8_t>(in.bytes, values);
      break;
    case DataType::kInt16:
      Append<int16_t>(in.bytes, values);
      break;
    case DataType::kInt32:
      Append<int32_t>(in.bytes, values);
      break;
    case DataType::kInt64:
      Append<int64_t>(in.bytes, values);
      break;
    case DataType::kUInt16:
      Append<uint16_t>(in.bytes, values);
      break;
    case DataType::kUInt32:
      Append<uint32_t>(in.bytes, values);
      break;
    case DataType::kUInt64:
      Append<uint64_t>(in.bytes, values);
      break;
    default:
      Append<uint8_t>(in.bytes, values);
      break;
  }
  return array;
}

}  // namespace cmlc
