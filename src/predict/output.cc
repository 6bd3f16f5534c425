#include "predict/output.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/npy.h"
#include "base/staged_file.h"
#include "base/zip.h"

namespace cmlc::predict {
namespace {

namespace fs = std::filesystem;
using exec::Value;

std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string Number(float number) {
  if (std::isnan(number)) return "\"nan\"";
  if (std::isinf(number)) return number < 0 ? "\"-inf\"" : "\"inf\"";
  return fmt::format("{}", number);
}

// The elements of a tensor or of strings, one after the other, as JSON.
class Elements {
 public:
  explicit Elements(const Value& value) : value_(value) {
    if (value.kind == Value::Kind::kStrings) return;
    const auto count = static_cast<size_t>(value.element_count());
    if (exec::IsFloat(value.dtype)) {
      floats_.resize(count);
      CMLC_CHECK(exec::ReadFloats(value, 0, floats_).ok());
    } else {
      auto read = exec::ReadInts(value);
      CMLC_CHECK(read.ok());
      integers_ = std::move(*read);
    }
  }
  std::string At(size_t i) const {
    if (value_.kind == Value::Kind::kStrings) return Quoted((*value_.strings)[i]);
    if (exec::IsFloat(value_.dtype)) return Number(floats_[i]);
    if (value_.dtype == DataType::kBool) return integers_[i] != 0 ? "true" : "false";
    return fmt::format("{}", integers_[i]);
  }

 private:
  const Value& value_;
  std::vector<float> floats_;
  std::vector<int64_t> integers_;
};

void Append(const Elements& elements, const Shape& shape, size_t axis, size_t& at,
            std::string& text) {
  if (axis == shape.size()) {
    text += elements.At(at++);
    return;
  }
  text += '[';
  for (int64_t i = 0; i < shape[axis]; ++i) {
    if (i > 0) text += ", ";
    Append(elements, shape, axis + 1, at, text);
  }
  text += ']';
}

// --- JSON ---------------------------------------------------------------------------------------

class JsonWriter final : public OutputWriter {
 public:
  JsonWriter(std::vector<std::string> names, bool sequences)
      : names_(std::move(names)), sequences_(sequences) {}

  Status Open(const fs::path& path, const PredictReport& report) {
    if (!path.empty()) {
      CMLC_ASSIGN_OR_RETURN(staged_, StagedFile::Start(path, ""));
      CMLC_ASSIGN_OR_RETURN(file_, File::Create(staged_->path()));
    }
    text_ = fmt::format("{{\"function\": {}, \"data\": {}, \"samples\": [", Quoted(report.function),
                        Quoted(report.data));
    return Ok();
  }
  Status StartSample(bool continues) override {
    if (continues) return Ok();
    if (samples_++ > 0) text_ += sequences_ ? "\n  ]," : ",";
    text_ += sequences_ ? "\n  [" : "\n  ";
    steps_ = 0;
    return Ok();
  }
  Status Add(const std::vector<Value>& values) override {
    if (steps_++ > 0) text_ += ",";
    if (sequences_) text_ += "\n    ";
    text_ += '{';
    for (size_t i = 0; i < values.size(); ++i)
      text_ += fmt::format("{}{}: {}", i > 0 ? ", " : "", Quoted(names_[i]), ToJson(values[i]));
    text_ += '}';
    constexpr size_t kFlushBytes = 1 << 20;
    return text_.size() > kFlushBytes ? Flush() : Ok();
  }
  Status Finish(PredictReport& report) override {
    if (samples_ > 0 && sequences_) text_ += "\n  ]";
    text_ += "\n]}\n";
    if (!staged_) {
      report.json = std::move(text_);
      return Ok();
    }
    CMLC_RETURN_IF_ERROR(Flush());
    CMLC_RETURN_IF_ERROR(file_.Sync());
    CMLC_RETURN_IF_ERROR(staged_->Place());
    ForgetRemovals();
    return Ok();
  }

 private:
  Status Flush() {
    if (!staged_) return Ok();
    CMLC_RETURN_IF_ERROR(file_.WriteAt(at_, std::as_bytes(std::span(text_.data(), text_.size()))));
    at_ += text_.size();
    text_.clear();
    return Ok();
  }

  std::vector<std::string> names_;
  bool sequences_;
  std::optional<StagedFile> staged_;
  File file_;
  uint64_t at_ = 0;
  std::string text_;
  uint64_t samples_ = 0;
  uint64_t steps_ = 0;
};

// --- .npz ---------------------------------------------------------------------------------------

// Whether outputs can be stacked is known only at the end, so their bytes wait in a scratch file.
class NpzWriter final : public OutputWriter {
 public:
  NpzWriter(std::vector<std::string> names, bool sequences)
      : names_(std::move(names)), sequences_(sequences), pieces_(names_.size()) {}

  Status Open(const fs::path& path) {
    CMLC_ASSIGN_OR_RETURN(staged_, StagedFile::Start(path, ""));
    CMLC_ASSIGN_OR_RETURN(scratch_path_, StagedFile::Start(path, "-scratch"));
    CMLC_ASSIGN_OR_RETURN(scratch_, File::Create(scratch_path_.path()));
    return Ok();
  }
  Status StartSample(bool continues) override {
    if (!continues) steps_.push_back(0);
    return Ok();
  }
  Status Add(const std::vector<Value>& values) override {
    ++steps_.back();
    for (size_t i = 0; i < values.size(); ++i) {
      const Value& value = values[i];
      Piece& piece = pieces_[i].emplace_back();
      piece.shape = value.shape;
      piece.dtype = value.dtype;
      if (value.kind == Value::Kind::kStrings) {
        piece.strings = value.strings;
        continue;
      }
      if (value.kind == Value::Kind::kDictionary) {
        piece.strings = value.strings;
        piece.keys = value.keys;
      }
      piece.offset = at_;
      const std::span<const std::byte> bytes = value.storage->bytes();
      piece.size = bytes.size();
      CMLC_RETURN_IF_ERROR(scratch_.WriteAt(at_, bytes));
      at_ += bytes.size();
    }
    return Ok();
  }
  Status Finish(PredictReport& report) override;

 private:
  struct Piece {
    DataType dtype = DataType::kUnused;
    Shape shape;
    uint64_t offset = 0, size = 0;  // in the scratch file
    std::shared_ptr<const std::vector<std::string>>
        strings;  // all there is, or a dictionary's keys
    std::shared_ptr<const std::vector<int64_t>> keys;
    bool is_text() const { return dtype == DataType::kString; }
    bool same_keys(const Piece& other) const {
      return (strings == other.strings ||
              (strings != nullptr && other.strings != nullptr && *strings == *other.strings)) &&
             (keys == other.keys ||
              (keys != nullptr && other.keys != nullptr && *keys == *other.keys));
    }
  };

  // The shape of all pieces of an output together; nothing if they do not go together.
  std::optional<Shape> Stacked(const std::vector<Piece>& pieces) const;
  Status Write(ZipWriter& zip, const std::string& name, std::span<const Piece> pieces,
               const Shape& shape, std::string& stored);
  static Status WriteText(ZipWriter& zip, const std::string& name,
                          const std::vector<const std::string*>& texts, const Shape& shape,
                          std::string& stored);
  static Status WriteKeys(ZipWriter& zip, const std::string& name, const Piece& piece);

  std::vector<std::string> names_;
  bool sequences_;
  std::vector<std::vector<Piece>> pieces_;  // by output
  std::vector<uint64_t> steps_;             // of each sample
  StagedFile staged_, scratch_path_;
  File scratch_;
  uint64_t at_ = 0;
};

std::optional<Shape> NpzWriter::Stacked(const std::vector<Piece>& pieces) const {
  const Piece& first = pieces[0];
  for (const Piece& piece : pieces)
    if (piece.dtype != first.dtype || piece.shape != first.shape ||
        (!first.is_text() && !piece.same_keys(first)))
      return std::nullopt;
  for (const uint64_t steps : steps_)
    if (steps != steps_[0]) return std::nullopt;
  Shape shape = first.shape;
  if (sequences_) {
    shape.insert(shape.begin(), static_cast<int64_t>(steps_[0]));
    if (steps_.size() > 1) shape.insert(shape.begin(), static_cast<int64_t>(steps_.size()));
  } else if (steps_.size() > 1) {
    if (shape.empty() || shape[0] != 1) shape.insert(shape.begin(), 1);
    shape[0] = static_cast<int64_t>(steps_.size());
  }
  return shape;
}

Status NpzWriter::WriteText(ZipWriter& zip, const std::string& name,
                            const std::vector<const std::string*>& texts, const Shape& shape,
                            std::string& stored) {
  // NumPy's strings are of one length, four bytes for each character.
  std::vector<std::u32string> wide;
  size_t longest = 1;
  for (const std::string* text : texts) {
    std::u32string& out = wide.emplace_back();
    for (size_t i = 0; i < text->size();) {
      const auto lead = static_cast<uint8_t>((*text)[i]);
      const size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
      char32_t point = length == 1 ? lead : lead & (0x7fu >> length);
      bool good = lead < 0x80 || (lead >= 0xc0 && lead < 0xf8 && i + length <= text->size());
      for (size_t k = 1; good && k < length; ++k) {
        const auto next = static_cast<uint8_t>((*text)[i + k]);
        good = (next & 0xc0) == 0x80;
        point = point << 6 | (next & 0x3fu);
      }
      out += good && point <= 0x10ffff ? point : U'\ufffd';
      i += good ? length : 1;
    }
    longest = std::max(longest, out.size());
  }
  const std::string descr = fmt::format("<U{}", longest);
  const std::string header = NpyHeader(descr, shape);
  CMLC_RETURN_IF_ERROR(zip.Begin(name + ".npy", header.size() + wide.size() * longest * 4));
  CMLC_RETURN_IF_ERROR(zip.Append(header));
  for (std::u32string& text : wide) {
    text.resize(longest, U'\0');
    CMLC_RETURN_IF_ERROR(zip.Append({reinterpret_cast<const char*>(text.data()), text.size() * 4}));
  }
  stored = fmt::format("string {}", ToString(shape));
  return Ok();
}

Status NpzWriter::WriteKeys(ZipWriter& zip, const std::string& name, const Piece& piece) {
  std::string stored;
  if (piece.strings != nullptr) {
    std::vector<const std::string*> texts;
    for (const std::string& text : *piece.strings) texts.push_back(&text);
    return WriteText(zip, name, texts, {static_cast<int64_t>(texts.size())}, stored);
  }
  if (piece.keys == nullptr) return Ok();
  const std::string header = NpyHeader("<i8", {static_cast<int64_t>(piece.keys->size())});
  CMLC_RETURN_IF_ERROR(zip.Begin(name + ".npy", header.size() + piece.keys->size() * 8));
  CMLC_RETURN_IF_ERROR(zip.Append(header));
  return zip.Append({reinterpret_cast<const char*>(piece.keys->data()), piece.keys->size() * 8});
}

Status NpzWriter::Write(ZipWriter& zip, const std::string& name, std::span<const Piece> pieces,
                        const Shape& shape, std::string& stored) {
  if (pieces[0].is_text()) {
    std::vector<const std::string*> texts;
    for (const Piece& piece : pieces)
      for (const std::string& text : *piece.strings) texts.push_back(&text);
    return WriteText(zip, name, texts, shape, stored);
  }
  const std::string descr = NpyDescr(pieces[0].dtype);
  const std::string header = NpyHeader(descr, shape);
  uint64_t bytes = header.size();
  for (const Piece& piece : pieces) bytes += piece.size;
  CMLC_RETURN_IF_ERROR(zip.Begin(name + ".npy", bytes));
  CMLC_RETURN_IF_ERROR(zip.Append(header));
  for (const Piece& piece : pieces) {
    if (piece.size == 0) continue;
    CMLC_ASSIGN_OR_RETURN(const FileWindow window, scratch_.Map(piece.offset, piece.size));
    CMLC_RETURN_IF_ERROR(
        zip.Append({reinterpret_cast<const char*>(window.bytes().data()), window.bytes().size()}));
  }
  stored = fmt::format("{} {}", NameOf(pieces[0].dtype), ToString(shape));
  return Ok();
}

Status NpzWriter::Finish(PredictReport& report) {
  // Opened again: what is written through one descriptor is read through another.
  CMLC_ASSIGN_OR_RETURN(scratch_, File::OpenForReading(scratch_path_.path()));
  CMLC_ASSIGN_OR_RETURN(ZipWriter zip, ZipWriter::Create(staged_.path()));
  for (size_t i = 0; i < names_.size(); ++i) {
    const std::vector<Piece>& pieces = pieces_[i];
    std::string& stored = report.outputs[i].stored;
    if (const std::optional<Shape> shape = Stacked(pieces)) {
      CMLC_RETURN_IF_ERROR(Write(zip, names_[i], pieces, *shape, stored));
      if (!pieces[0].is_text())
        CMLC_RETURN_IF_ERROR(WriteKeys(zip, names_[i] + ".labels", pieces[0]));
      continue;
    }
    size_t next = 0;
    for (size_t sample = 0; sample < steps_.size(); ++sample)
      for (uint64_t step = 0; step < steps_[sample]; ++step, ++next) {
        std::string name = fmt::format("{}.{}", names_[i], sample);
        if (sequences_) name += fmt::format(".{}", step);
        const Piece& piece = pieces[next];
        CMLC_RETURN_IF_ERROR(Write(zip, name, {&piece, 1}, piece.shape, stored));
        if (!piece.is_text()) CMLC_RETURN_IF_ERROR(WriteKeys(zip, name + ".labels", piece));
      }
    stored = fmt::format("{} entries", next);
  }
  CMLC_RETURN_IF_ERROR(zip.Finish());
  CMLC_RETURN_IF_ERROR(staged_.Place());
  std::error_code code;
  fs::remove(scratch_path_.path(), code);
  ForgetRemovals();
  return Ok();
}

}  // namespace

std::string ToJson(const Value& value) {
  std::string text;
  if (value.kind == Value::Kind::kDictionary) {
    Value numbers = value;
    numbers.kind = Value::Kind::kTensor;
    const Elements elements(numbers);
    text = "{";
    for (size_t i = 0; i < value.element_count(); ++i)
      text += fmt::format("{}{}: {}", i > 0 ? ", " : "",
                          value.strings != nullptr ? Quoted((*value.strings)[i])
                                                   : fmt::format("\"{}\"", (*value.keys)[i]),
                          elements.At(i));
    return text + "}";
  }
  const Elements elements(value);
  size_t at = 0;
  Append(elements, value.shape, 0, at, text);
  return text;
}

Result<std::unique_ptr<OutputWriter>> MakeOutputWriter(const fs::path& path,
                                                       std::vector<std::string> names,
                                                       bool sequences,
                                                       const PredictReport& report) {
  const std::string suffix = path.extension().string();
  if (suffix == ".npz") {
    auto writer = std::make_unique<NpzWriter>(std::move(names), sequences);
    CMLC_RETURN_IF_ERROR(writer->Open(path));
    return std::unique_ptr<OutputWriter>(std::move(writer));
  }
  if (!path.empty() && suffix != ".json")
    return Error{ErrorKind::kUsage,
                 fmt::format("{}: expected a name that ends in .npz or .json", path.string())};
  auto writer = std::make_unique<JsonWriter>(std::move(names), sequences);
  CMLC_RETURN_IF_ERROR(writer->Open(path, report));
  return std::unique_ptr<OutputWriter>(std::move(writer));
}

}  // namespace cmlc::predict
