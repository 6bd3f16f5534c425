#include "predict/data.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/file.h"
#include "base/zip.h"
#include "ir/graph_index.h"
#include "predict/image.h"

namespace cmlc::predict {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr uint64_t kMostJsonBytes = uint64_t{1} << 30;
constexpr int kMostJsonLevels = 64;

Error Bad(std::string_view name, std::string_view what) {
  return Error{ErrorKind::kBadInput, fmt::format("{}: {}", name, what)};
}

// --- Arrays -------------------------------------------------------------------------------------

// One input's array, whole or a row for each sample.
class NpyProvider final : public Provider {
 public:
  NpyProvider(const InputSpec& input, NpyReader reader, std::string name, bool batched)
      : input_(input), reader_(std::move(reader)), name_(std::move(name)), batched_(batched) {}

  Status Check() const {
    if (batched_ && reader_.shape().empty())
      return Bad(name_, "has no axes, expected one of samples (--batched)");
    return Ok();
  }
  uint64_t count() const override {
    return batched_ ? static_cast<uint64_t>(reader_.shape()[0]) : 1;
  }
  std::string Name(uint64_t sample) const override {
    return batched_ ? fmt::format("{}, sample {}", name_, sample) : name_;
  }
  Result<std::vector<Arrays>> Read(uint64_t sample) override {
    Array array;
    if (batched_) {
      CMLC_ASSIGN_OR_RETURN(array, reader_.ReadRow(sample));
      // Most models have an axis of size 1 for samples themselves.
      if (input_.rank && *input_.rank == array.shape.size() + 1)
        array.shape.insert(array.shape.begin(), 1);
    } else {
      CMLC_ASSIGN_OR_RETURN(array, reader_.ReadAll());
    }
    std::vector<Arrays> steps(1);
    steps[0].emplace(input_.name, std::move(array));
    return steps;
  }

 private:
  const InputSpec& input_;
  NpyReader reader_;
  std::string name_;
  bool batched_;
};

// Elements without a header.
struct RawForm {
  DataType dtype = DataType::kUnused;
  Shape shape;
  uint64_t bytes = 0;  // of one sample
};

class RawProvider final : public Provider {
 public:
  RawProvider(const InputSpec& input, std::unique_ptr<ByteSource> source, RawForm form,
              std::string name, bool batched)
      : input_(input),
        source_(std::move(source)),
        form_(std::move(form)),
        name_(std::move(name)),
        batched_(batched) {}

  Status Check() const {
    if (batched_ ? source_->size() % form_.bytes == 0 : source_->size() == form_.bytes) return Ok();
    return Bad(name_, fmt::format("has {} bytes, expected {}{} for {} {}", source_->size(),
                                  batched_ ? "a multiple of " : "", form_.bytes,
                                  NameOf(form_.dtype), ToString(form_.shape)));
  }
  uint64_t count() const override { return source_->size() / form_.bytes; }
  std::string Name(uint64_t sample) const override {
    return batched_ ? fmt::format("{}, sample {}", name_, sample) : name_;
  }
  Result<std::vector<Arrays>> Read(uint64_t sample) override {
    Array array = {form_.dtype, form_.shape, std::string(static_cast<size_t>(form_.bytes), '\0')};
    CMLC_RETURN_IF_ERROR(source_->Read(sample * form_.bytes, array.bytes));
    std::vector<Arrays> steps(1);
    steps[0].emplace(input_.name, std::move(array));
    return steps;
  }

 private:
  const InputSpec& input_;
  std::unique_ptr<ByteSource> source_;
  RawForm form_;
  std::string name_;
  bool batched_;
};

Result<RawForm> ParseRaw(const std::string& text) {
  const auto bad = [&] {
    return Error{ErrorKind::kUsage,
                 fmt::format("--raw '{}': expected NAME=DTYPE:SIZES, as x=f32:1x3x224x224, with "
                             "f16, f32, f64, i8 to i64, u8 to u64 or bool",
                             text)};
  };
  const size_t equals = text.rfind('=');
  const std::string form = equals == std::string::npos ? text : text.substr(equals + 1);
  const size_t colon = form.find(':');
  if (colon == std::string::npos) return bad();
  const std::string_view code = std::string_view(form).substr(0, colon);
  constexpr std::pair<std::string_view, DataType> kCodes[] = {
      {"f16", DataType::kFloat16}, {"f32", DataType::kFloat32}, {"f64", DataType::kFloat64},
      {"i8", DataType::kInt8},     {"i16", DataType::kInt16},   {"i32", DataType::kInt32},
      {"i64", DataType::kInt64},   {"u8", DataType::kUInt8},    {"u16", DataType::kUInt16},
      {"u32", DataType::kUInt32},  {"u64", DataType::kUInt64},  {"bool", DataType::kBool}};
  RawForm raw;
  for (const auto& [name, dtype] : kCodes)
    if (name == code) raw.dtype = dtype;
  if (raw.dtype == DataType::kUnused) return bad();
  std::string number;
  for (const char c : form.substr(colon + 1) + "x") {
    if (c >= '0' && c <= '9' && number.size() < 12) {
      number += c;
    } else if (c == 'x' && !number.empty()) {
      raw.shape.push_back(std::stoll(number));
      number.clear();
    } else {
      return bad();
    }
  }
  const std::optional<uint64_t> count = ElementCount(raw.shape);
  if (!count || *count == 0 || *count > uint64_t{1} << 34) return bad();
  raw.bytes =
      *count * (raw.dtype == DataType::kBool ? 1 : static_cast<uint64_t>(BitsOf(raw.dtype)) / 8);
  return raw;
}

// --- JSON ---------------------------------------------------------------------------------------

bool IsNumberText(const Json& json) {
  return json.is_string() && (json == "nan" || json == "inf" || json == "-inf");
}

// Collects the numbers of nested lists, whose sizes must agree level by level.
struct Nested {
  std::string_view name;
  Shape shape;
  bool whole = true;
  std::vector<double> numbers;
  std::vector<int64_t> integers;

  Status Visit(const Json& json, size_t level) {
    if (json.is_array()) {
      if (level == shape.size()) {
        if (!numbers.empty() || level > 31)
          return Bad(name, "its nested lists have no common depth");
        shape.push_back(static_cast<int64_t>(json.size()));
      }
      if (shape[level] != static_cast<int64_t>(json.size()))
        return Bad(name, fmt::format("has lists of {} and of {} elements at one level",
                                     shape[level], json.size()));
      for (const Json& element : json) CMLC_RETURN_IF_ERROR(Visit(element, level + 1));
      return Ok();
    }
    if (level != shape.size()) return Bad(name, "its nested lists have no common depth");
    if (json.is_number_integer()) {
      if (json.is_number_unsigned() &&
          json.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        return Bad(name, fmt::format("has the integer {}, beyond 64 bits", json.get<uint64_t>()));
      integers.push_back(json.get<int64_t>());
      numbers.push_back(json.get<double>());
    } else if (json.is_boolean()) {
      integers.push_back(json.get<bool>() ? 1 : 0);
      numbers.push_back(json.get<bool>() ? 1 : 0);
    } else if (json.is_number_float() || IsNumberText(json)) {
      whole = false;
      numbers.push_back(json.is_number() ? json.get<double>()
                        : json == "nan"  ? std::numeric_limits<double>::quiet_NaN()
                        : json == "inf"  ? std::numeric_limits<double>::infinity()
                                         : -std::numeric_limits<double>::infinity());
    } else {
      return Bad(name, fmt::format("has a {} where a number was expected", json.type_name()));
    }
    return Ok();
  }
};

Result<Array> ToArray(const Json& json, std::string_view name) {
  Nested nested{name, {}, true, {}, {}};
  CMLC_RETURN_IF_ERROR(nested.Visit(json, 0));
  Array array;
  // A list of nothing has no elements to stop at: its level is the last one.
  array.shape = nested.shape;
  if (!ElementCount(array.shape) || *ElementCount(array.shape) != nested.numbers.size())
    return Bad(name, "its nested lists have no common depth");
  array.dtype = nested.whole ? DataType::kInt64 : DataType::kFloat64;
  const size_t bytes = nested.numbers.size() * 8;
  array.bytes.resize(bytes);
  if (bytes != 0)
    std::memcpy(array.bytes.data(),
                nested.whole ? static_cast<const void*>(nested.integers.data())
                             : static_cast<const void*>(nested.numbers.data()),
                bytes);
  return array;
}

// The parser works by recursion: how deep a text nests is looked at first.
bool NestsTooDeep(std::string_view text) {
  int level = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      if (++level > kMostJsonLevels) return true;
    } else if (c == ']' || c == '}') {
      --level;
    }
  }
  return false;
}

Result<Json> Parse(std::string_view text, std::string_view name) {
  if (NestsTooDeep(text)) return Bad(name, "nests too deeply");
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Bad(name, "is not valid JSON");
  return json;
}

// All samples of a file; of a file of lines one is parsed at a time.
class JsonProvider final : public Provider {
 public:
  JsonProvider(const Target& target, const InputSpec* input, std::string name)
      : target_(target), input_(input), name_(std::move(name)) {}

  Status Open(const fs::path& path, bool lines, bool batched) {
    CMLC_ASSIGN_OR_RETURN(text_, ReadWholeFile(path, kMostJsonBytes));
    if (lines) {
      for (size_t at = 0; at < text_.size();) {
        const size_t end = std::min(text_.find('\n', at), text_.size());
        const std::string_view line = std::string_view(text_).substr(at, end - at);
        if (line.find_first_not_of(" \t\r") != std::string_view::npos) lines_.push_back(line);
        at = end + 1;
      }
      if (lines_.empty()) return Bad(name_, "has no samples");
      CMLC_ASSIGN_OR_RETURN(const Json first, Parse(lines_[0], Name(0)));
      CMLC_ASSIGN_OR_RETURN(const std::vector<Arrays> steps, StepsOf(first, Name(0)));
      Remember(steps);
      return Ok();
    }
    CMLC_ASSIGN_OR_RETURN(Json root, Parse(text_, name_));
    text_.clear();
    if (root.is_array() && !root.empty() && (root[0].is_object() || ListOfObjects(root[0]))) {
      // Samples; a flat list of objects is one sequence of steps where there are states.
      if (root[0].is_object() && target_.has_states)
        samples_.push_back(std::move(root));
      else
        for (Json& sample : root) samples_.push_back(std::move(sample));
    } else if (batched && input_ != nullptr && root.is_array() && !root.empty()) {
      for (Json& sample : root) samples_.push_back(std::move(sample));
      wrap_ = true;
    } else {
      samples_.push_back(std::move(root));
    }
    CMLC_ASSIGN_OR_RETURN(const std::vector<Arrays> steps, StepsOf(samples_[0], Name(0)));
    Remember(steps);
    return Ok();
  }

  const std::set<std::string>& names() const { return names_; }
  uint64_t count() const override { return lines_.empty() ? samples_.size() : lines_.size(); }
  std::string Name(uint64_t sample) const override {
    if (!lines_.empty()) return fmt::format("{}, line {}", name_, sample + 1);
    return samples_.size() > 1 ? fmt::format("{}, sample {}", name_, sample) : name_;
  }
  Result<std::vector<Arrays>> Read(uint64_t sample) override {
    if (lines_.empty()) return StepsOf(samples_[static_cast<size_t>(sample)], Name(sample));
    CMLC_ASSIGN_OR_RETURN(const Json json,
                          Parse(lines_[static_cast<size_t>(sample)], Name(sample)));
    return StepsOf(json, Name(sample));
  }

 private:
  static bool ListOfObjects(const Json& json) {
    return json.is_array() && !json.empty() && json[0].is_object();
  }
  void Remember(const std::vector<Arrays>& steps) {
    for (const auto& [name, array] : steps[0]) names_.insert(name);
  }
  Result<std::vector<Arrays>> StepsOf(const Json& json, const std::string& name) const {
    std::vector<Arrays> steps;
    if (ListOfObjects(json)) {
      for (const Json& step : json) {
        CMLC_ASSIGN_OR_RETURN(steps.emplace_back(), StepOf(step, name));
      }
      if (steps.size() > 1 && !target_.has_states)
        return Bad(name, fmt::format("is a sequence of {} steps, but the model has no states",
                                     steps.size()));
      return steps;
    }
    CMLC_ASSIGN_OR_RETURN(steps.emplace_back(), StepOf(json, name));
    return steps;
  }
  Result<Arrays> StepOf(const Json& json, const std::string& name) const {
    Arrays arrays;
    if (!json.is_object()) {
      if (input_ == nullptr)
        return Bad(name, fmt::format("holds a {}, expected an object with the names of inputs",
                                     json.type_name()));
      CMLC_ASSIGN_OR_RETURN(Array array, ToArray(json, name));
      if (wrap_ && input_->rank && *input_->rank == array.shape.size() + 1)
        array.shape.insert(array.shape.begin(), 1);
      arrays.emplace(input_->name, std::move(array));
      return arrays;
    }
    for (const auto& [key, value] : json.items()) {
      CMLC_ASSIGN_OR_RETURN(arrays[key], ToArray(value, fmt::format("{}, '{}'", name, key)));
    }
    return arrays;
  }

  const Target& target_;
  const InputSpec* input_;  // that nested lists without a name are for; may be null
  std::string name_;
  std::string text_;
  std::vector<std::string_view> lines_;
  std::vector<Json> samples_;
  std::set<std::string> names_;  // of the first sample's inputs
  bool wrap_ = false;
};

// --- Images -------------------------------------------------------------------------------------

class ImageProvider final : public Provider {
 public:
  ImageProvider(const InputSpec& input, std::vector<fs::path> files, const DataOptions& options)
      : input_(input),
        files_(std::move(files)),
        resize_(options.resize),
        interpolation_(options.interpolation) {}

  uint64_t count() const override { return files_.size(); }
  std::string Name(uint64_t sample) const override {
    return files_[static_cast<size_t>(sample)].string();
  }
  Result<std::vector<Arrays>> Read(uint64_t sample) override {
    const Feature& feature = input_.feature;
    const std::string name = Name(sample);
    CMLC_ASSIGN_OR_RETURN(Image image, ReadImage(files_[static_cast<size_t>(sample)]));
    image = WithChannels(std::move(image), input_.channels());
    if (!TakesImageSize(feature, image.width, image.height)) {
      const Feature::ImageSize& size = feature.size;
      if (resize_ == Resize::kNone || size.width < 1 || size.height < 1 || size.width > 1 << 15 ||
          size.height > 1 << 15)
        return Bad(name, fmt::format("has {}x{} pixels, expected {} for input '{}' (--resize makes "
                                     "it fit)",
                                     image.width, image.height, feature.type, input_.name));
      Result<Image> fitted = Fitted(image, size.width, size.height, resize_, interpolation_);
      if (!fitted.ok())
        return Error{fitted.error().kind, fmt::format("{}: {}", name, fitted.error().message)};
      image = std::move(*fitted);
    }
    Array array;
    array.dtype = DataType::kUInt8;
    array.shape = {1, image.channels, image.height, image.width};
    const size_t plane = static_cast<size_t>(image.width * image.height);
    const auto channels = static_cast<size_t>(image.channels);
    array.bytes.resize(plane * channels);
    for (size_t c = 0; c < channels; ++c) {
      const size_t from = feature.colors == Feature::Colors::kBgr ? channels - 1 - c : c;
      for (size_t i = 0; i < plane; ++i)
        array.bytes[c * plane + i] = static_cast<char>(image.pixels[i * channels + from]);
    }
    std::vector<Arrays> steps(1);
    steps[0].emplace(input_.name, std::move(array));
    return steps;
  }

 private:
  const InputSpec& input_;
  std::vector<fs::path> files_;
  Resize resize_;
  Interpolation interpolation_;
};

// --- Random numbers -----------------------------------------------------------------------------

class Numbers {
 public:
  explicit Numbers(uint64_t state) : state_(state) {}
  uint64_t Next() {  // SplitMix64
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint64_t Below(uint64_t bound) { return (Next() >> 32) * bound >> 32; }
  // The sum of twelve uniform numbers: near enough to a normal distribution, and without functions
  // whose last bits differ between systems.
  float Normal() {
    int32_t sum = 0;
    for (int i = 0; i < 4; ++i) {
      const uint64_t bits = Next();
      sum += static_cast<int32_t>((bits & 0x1fffff) + ((bits >> 21) & 0x1fffff) +
                                  ((bits >> 42) & 0x1fffff));
    }
    return static_cast<float>(sum - (6 << 21)) * 0x1p-21f;
  }

 private:
  uint64_t state_;
};

// Of an integer input: how many rows the smallest table has that it looks up, directly or through
// ops that leave its elements alone. Nothing if it looks up none.
std::optional<int64_t> TableSize(const Block& block, const std::string& input) {
  std::set<std::string> same = {input};
  std::map<std::string, Shape> shapes;
  std::map<std::string, int64_t> axes;
  std::optional<int64_t> least;
  const auto name_of = [](const Operation& op, const char* parameter) -> const std::string* {
    const auto found = op.inputs.find(parameter);
    if (found == op.inputs.end() || found->second.bindings.size() != 1) return nullptr;
    return std::get_if<std::string>(&found->second.bindings[0].target);
  };
  for (const Operation& op : block.operations) {
    for (const NamedValueType& output : op.outputs)
      if (output.type)
        if (const std::optional<Shape> shape = StaticShape(*output.type))
          shapes.emplace(output.name, *shape);
    if (IsConst(op) && op.outputs.size() == 1) {
      const auto value = op.attributes.find("val");
      if (value != op.attributes.end())
        if (const auto ints = ImmediateInts(value->second); ints && ints->size() == 1)
          axes.emplace(op.outputs[0].name, (*ints)[0]);
    }
    static const std::set<std::string> kKeeps = {"cast",           "identity", "expand_dims",
                                                 "squeeze",        "reshape",  "transpose",
                                                 "slice_by_index", "split",    "concat"};
    const std::string* x = name_of(op, "x");
    if (x != nullptr && same.contains(*x) && kKeeps.contains(op.type))
      for (const NamedValueType& output : op.outputs) same.insert(output.name);
    if (op.type != "gather") continue;
    const std::string* indices = name_of(op, "indices");
    if (x == nullptr || indices == nullptr || !same.contains(*indices)) continue;
    const auto table = shapes.find(*x);
    if (table == shapes.end() || table->second.empty()) continue;
    int64_t axis = 0;
    if (const std::string* name = name_of(op, "axis"); name != nullptr && axes.contains(*name))
      axis = axes[*name];
    const auto rank = static_cast<int64_t>(table->second.size());
    if (axis < 0) axis += rank;
    if (axis < 0 || axis >= rank) continue;
    const int64_t size = table->second[static_cast<size_t>(axis)];
    if (size > 0) least = std::min(least.value_or(size), size);
  }
  return least;
}

class RandomProvider final : public Provider {
 public:
  RandomProvider(const Target& target, const DataOptions& options)
      : target_(target), count_(options.random_samples), seed_(options.seed) {}

  Status Check() {
    const Function& function = target_.program->functions.at(target_.function);
    for (const InputSpec& input : target_.inputs) {
      if (input.feature.optional && input.feature.default_value) continue;
      const std::optional<Shape> shape = DefaultShape(input);
      const uint64_t most = uint64_t{1} << 31;
      if (!shape || *ElementCount(*shape) > most)
        return Error{ErrorKind::kUsage,
                     fmt::format("{}: input '{}' ({}) has no size that random numbers could have, "
                                 "expected --input",
                                 target_.place, input.name, input.feature.type)};
      One& one = inputs_.emplace_back();
      one.input = &input;
      one.shape = *shape;
      if (input.dtype == DataType::kBool || exec::IsInteger(input.dtype)) {
        const Block* block = ActiveBlock(function);
        const std::optional<int64_t> size =
            block == nullptr ? std::nullopt : TableSize(*block, input.name);
        one.bound = static_cast<uint64_t>(
            std::min<int64_t>(size.value_or(2), input.dtype == DataType::kBool ? 2
                                                : BitsOf(input.dtype) == 8     ? 127
                                                                               : 32767));
        if (BitsOf(input.dtype) == 32) one.bound = static_cast<uint64_t>(size.value_or(2));
      }
    }
    return Ok();
  }
  uint64_t count() const override { return count_; }
  std::string Name(uint64_t sample) const override {
    return fmt::format("random sample {}", sample);
  }
  Result<std::vector<Arrays>> Read(uint64_t sample) override {
    std::vector<Arrays> steps(1);
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const One& one = inputs_[i];
      Numbers seeds(seed_ ^ (sample * 0x2545f4914f6cdd1du) ^ (i << 56));
      Numbers numbers(seeds.Next());
      const size_t count = static_cast<size_t>(*ElementCount(one.shape));
      Array array;
      array.shape = one.shape;
      if (one.input->is_image() || one.bound != 0) {
        array.dtype = one.input->is_image() ? DataType::kUInt8 : DataType::kInt32;
        const size_t width = one.input->is_image() ? 1 : 4;
        array.bytes.resize(count * width);
        for (size_t k = 0; k < count; ++k) {
          const uint64_t number = numbers.Below(one.input->is_image() ? 256 : one.bound);
          std::memcpy(array.bytes.data() + k * width, &number, width);
        }
      } else {
        array.dtype = DataType::kFloat32;
        array.bytes.resize(count * 4);
        for (size_t k = 0; k < count; ++k) {
          const float number = numbers.Normal();
          std::memcpy(array.bytes.data() + k * 4, &number, 4);
        }
      }
      steps[0].emplace(one.input->name, std::move(array));
    }
    return steps;
  }

 private:
  struct One {
    const InputSpec* input = nullptr;
    Shape shape;
    uint64_t bound = 0;  // of integers; 0: others
  };
  const Target& target_;
  uint64_t count_;
  uint64_t seed_;
  std::vector<One> inputs_;
};

// --- Putting them together ----------------------------------------------------------------------

// Inputs of one .npz file go together.
class GroupProvider final : public Provider {
 public:
  explicit GroupProvider(std::vector<std::unique_ptr<Provider>> parts) : parts_(std::move(parts)) {}
  uint64_t count() const override { return parts_[0]->count(); }
  std::string Name(uint64_t sample) const override { return parts_[0]->Name(sample); }
  Result<std::vector<Arrays>> Read(uint64_t sample) override {
    std::vector<Arrays> steps(1);
    for (const auto& part : parts_) {
      CMLC_ASSIGN_OR_RETURN(std::vector<Arrays> read, part->Read(sample));
      steps[0].merge(read[0]);
    }
    return steps;
  }

 private:
  std::vector<std::unique_ptr<Provider>> parts_;
};

// Files for the same inputs, one behind the other.
class Chain final : public Provider {
 public:
  void Add(std::unique_ptr<Provider> part) { parts_.push_back(std::move(part)); }
  uint64_t count() const override {
    uint64_t count = 0;
    for (const auto& part : parts_) count += part->count();
    return count;
  }
  std::string Name(uint64_t sample) const override {
    const size_t part = Locate(sample);
    return parts_[part]->Name(sample);
  }
  Result<std::vector<Arrays>> Read(uint64_t sample) override {
    const size_t part = Locate(sample);
    return parts_[part]->Read(sample);
  }

 private:
  // Which part has a sample; makes it that part's own number.
  size_t Locate(uint64_t& sample) const {
    size_t part = 0;
    while (sample >= parts_[part]->count()) sample -= parts_[part++]->count();
    return part;
  }
  std::vector<std::unique_ptr<Provider>> parts_;
};

struct Opened {
  std::unique_ptr<Provider> provider;
  std::set<std::string> names;
};

struct Opener {
  const Target& target;
  const DataOptions& options;
  Diagnostics& diagnostics;
  std::map<std::string, RawForm> raw;  // by input; "" for one without a name
  std::set<std::string> raw_used;

  std::string InputNames() const {
    std::vector<std::string> names;
    for (const InputSpec& input : target.inputs) names.push_back(fmt::format("'{}'", input.name));
    return fmt::format("{}", fmt::join(names, ", "));
  }

  Result<Opened> OpenNpz(const fs::path& path, const InputSpec* named);
  Result<Opened> OpenFolder(const fs::path& path, const InputSpec& input);
  Result<Opened> Open(const std::string& text);
};

Result<Opened> Opener::OpenNpz(const fs::path& path, const InputSpec* named) {
  CMLC_ASSIGN_OR_RETURN(const ZipReader zip, ZipReader::Open(path));
  Opened opened;
  std::vector<std::unique_ptr<Provider>> parts;
  std::vector<std::string> found;
  for (const ZipEntry& entry : zip.entries()) {
    std::string key = entry.name;
    if (key.ends_with(".npy")) key.resize(key.size() - 4);
    found.push_back(fmt::format("'{}'", key));
    const InputSpec* input = named != nullptr ? named : target.Find(key);
    // One array needs no name where there is one input.
    if (named == nullptr && input == nullptr && target.inputs.size() == 1 &&
        zip.entries().size() == 1)
      input = &target.inputs[0];
    if (named != nullptr && key != named->name && zip.entries().size() > 1) continue;
    if (input == nullptr)
      return Bad(path.string(), fmt::format("has an array '{}', but the model has no such input, "
                                            "expected {}",
                                            key, InputNames()));
    const std::string name = fmt::format("{}, '{}'", path.string(), key);
    CMLC_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, zip.OpenEntry(entry));
    CMLC_ASSIGN_OR_RETURN(NpyReader reader, NpyReader::Open(std::move(source), name));
    auto part = std::make_unique<NpyProvider>(*input, std::move(reader), name, options.batched);
    CMLC_RETURN_IF_ERROR(part->Check());
    if (!opened.names.insert(input->name).second)
      return Bad(path.string(), fmt::format("has the array '{}' twice", key));
    if (!parts.empty() && parts[0]->count() != part->count())
      return Bad(path.string(), fmt::format("has {} samples of one array and {} of '{}'",
                                            parts[0]->count(), part->count(), key));
    parts.push_back(std::move(part));
  }
  if (parts.empty())
    return Bad(path.string(), named != nullptr ? fmt::format("has no array '{}', only {}",
                                                             named->name, fmt::join(found, ", "))
                                               : std::string("has no arrays"));
  opened.provider = std::make_unique<GroupProvider>(std::move(parts));
  return opened;
}

Result<Opened> Opener::OpenFolder(const fs::path& path, const InputSpec& input) {
  std::vector<fs::path> files;
  uint64_t others = 0;
  std::error_code code;
  for (fs::directory_iterator entry(path, code), end; !code && entry != end;
       entry.increment(code)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with(".")) continue;
    if (IsImageName(name))
      files.push_back(path / name);
    else
      ++others;
  }
  if (code) return Bad(path.string(), code.message());
  if (files.empty()) return Bad(path.string(), "has no images (.png, .jpg, .jpeg)");
  std::sort(files.begin(), files.end());
  if (others > 0)
    diagnostics.Note(
        fmt::format("{}: {} entries are no images and were left out", path.string(), others));
  Opened opened;
  opened.names.insert(input.name);
  opened.provider = std::make_unique<ImageProvider>(input, std::move(files), options);
  return opened;
}

Result<Opened> Opener::Open(const std::string& text) {
  const InputSpec* input = nullptr;
  fs::path path = text;
  for (const InputSpec& one : target.inputs)
    if (text.starts_with(one.name + "=") &&
        (input == nullptr || one.name.size() > input->name.size())) {
      input = &one;
      path = text.substr(one.name.size() + 1);
    }
  std::error_code code;
  if (input == nullptr && !fs::exists(path, code) && text.find('=') != std::string::npos)
    return Error{ErrorKind::kUsage,
                 fmt::format("--input '{}': the model has no input '{}', expected one of {}", text,
                             text.substr(0, text.find('=')), InputNames())};
  const std::string suffix = path.extension().string();
  if (suffix == ".npz") return OpenNpz(path, input);
  // Only these two name inputs themselves.
  const InputSpec* only = input != nullptr            ? input
                          : target.inputs.size() == 1 ? &target.inputs[0]
                                                      : nullptr;
  Opened opened;
  if (suffix == ".json" || suffix == ".jsonl") {
    auto json = std::make_unique<JsonProvider>(target, only, path.string());
    CMLC_RETURN_IF_ERROR(json->Open(path, suffix == ".jsonl", options.batched));
    opened.names = json->names();
    for (const std::string& name : opened.names)
      if (target.Find(name) == nullptr)
        return Bad(path.string(), fmt::format("has an array '{}', but the model has no such input, "
                                              "expected {}",
                                              name, InputNames()));
    if (opened.names.empty()) return Bad(path.string(), "has no arrays");
    opened.provider = std::move(json);
    return opened;
  }
  if (only == nullptr)
    return Error{
        ErrorKind::kUsage,
        fmt::format("--input '{}': which input is it for? expected NAME=FILE with one of {}", text,
                    InputNames())};
  opened.names.insert(only->name);
  if (suffix == ".npy") {
    CMLC_ASSIGN_OR_RETURN(NpyReader reader, NpyReader::Open(path));
    auto npy =
        std::make_unique<NpyProvider>(*only, std::move(reader), path.string(), options.batched);
    CMLC_RETURN_IF_ERROR(npy->Check());
    opened.provider = std::move(npy);
    return opened;
  }
  const bool folder = fs::is_directory(path, code);
  if (folder || IsImageName(path)) {
    if (!only->is_image())
      return Error{
          ErrorKind::kUsage,
          fmt::format("--input '{}': input '{}' is {}, no image: how pixels become its numbers is "
                      "not known, expected arrays (.npy, .npz, .json)",
                      text, only->name,
                      only->feature.type.empty() ? NameOf(only->dtype) : only->feature.type)};
    if (folder) return OpenFolder(path, *only);
    opened.provider = std::make_unique<ImageProvider>(*only, std::vector<fs::path>{path}, options);
    CMLC_ASSIGN_OR_RETURN(const File file, File::OpenForReading(path));
    return opened;
  }
  auto form = raw.find(only->name);
  if (form == raw.end()) form = raw.find("");
  if (form == raw.end()) {
    CMLC_ASSIGN_OR_RETURN(const File file, File::OpenForReading(path));
    return Error{ErrorKind::kUsage,
                 fmt::format("--input '{}': a file of unknown form, expected .npy, .npz, .json, "
                             ".jsonl, .png, .jpg, a folder of images, or --raw {}=DTYPE:SIZES",
                             text, only->name)};
  }
  raw_used.insert(form->first);
  CMLC_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, OpenFileSource(path));
  auto provider = std::make_unique<RawProvider>(*only, std::move(source), form->second,
                                                path.string(), options.batched);
  CMLC_RETURN_IF_ERROR(provider->Check());
  opened.provider = std::move(provider);
  return opened;
}

}  // namespace

Result<Array> ParseJsonArray(const std::string& text, const std::string& name) {
  CMLC_ASSIGN_OR_RETURN(const Json json, Parse(text, name));
  return ToArray(json, name);
}

Result<std::unique_ptr<DataReader>> DataReader::Open(const Target& target,
                                                     const DataOptions& options,
                                                     Diagnostics& diagnostics) {
  const auto usage = [](std::string what) { return Error{ErrorKind::kUsage, std::move(what)}; };
  std::unique_ptr<DataReader> reader(new DataReader);
  reader->sequence_ = options.sequence;
  if (options.sequence && !target.has_states)
    return usage(fmt::format("--sequence: function '{}' has no states to keep", target.function));
  if (options.random_samples > 0) {
    if (!options.inputs.empty()) return usage("--random and --input exclude each other");
    auto random = std::make_unique<RandomProvider>(target, options);
    CMLC_RETURN_IF_ERROR(random->Check());
    reader->providers_.push_back(std::move(random));
    reader->count_ = options.random_samples;
    reader->origin_ = fmt::format("random, seed {}", options.seed);
    return reader;
  }
  reader->origin_ = "given";
  Opener opener{target, options, diagnostics, {}, {}};
  for (const std::string& text : options.raw) {
    const size_t equals = text.rfind('=');
    const std::string name = equals == std::string::npos ? "" : text.substr(0, equals);
    if (!name.empty() && target.Find(name) == nullptr)
      return usage(fmt::format("--raw '{}': the model has no input '{}', expected one of {}", text,
                               name, opener.InputNames()));
    CMLC_ASSIGN_OR_RETURN(RawForm form, ParseRaw(text));
    if (!opener.raw.emplace(name, std::move(form)).second)
      return usage(fmt::format("--raw '{}': given twice for one input", text));
  }
  std::map<std::set<std::string>, Chain*> chains;
  std::map<std::string, const std::set<std::string>*> owners;
  for (const std::string& text : options.inputs) {
    CMLC_ASSIGN_OR_RETURN(Opened opened, opener.Open(text));
    if (opened.provider->count() == 0)
      return Error{ErrorKind::kBadInput, fmt::format("--input '{}': has no samples", text)};
    auto [place, made] = chains.emplace(opened.names, nullptr);
    if (made) {
      auto chain = std::make_unique<Chain>();
      place->second = chain.get();
      reader->providers_.push_back(std::move(chain));
      for (const std::string& name : opened.names)
        if (!owners.emplace(name, &place->first).second)
          return usage(
              fmt::format("--input '{}': input '{}' has samples already from a file of "
                          "other inputs",
                          text, name));
    }
    place->second->Add(std::move(opened.provider));
  }
  for (const auto& [name, form] : opener.raw)
    if (!opener.raw_used.contains(name))
      return usage(fmt::format("--raw: there is no raw file for {}",
                               name.empty() ? "it" : fmt::format("input '{}'", name)));
  if (options.inputs.empty()) {
    const bool needs = std::any_of(target.inputs.begin(), target.inputs.end(), [](const auto& one) {
      return !one.feature.optional || !one.feature.default_value;
    });
    if (needs)
      return usage(
          fmt::format("no data: expected --input FILE or --random N for {}", opener.InputNames()));
    reader->count_ = 1;
  }
  for (const auto& provider : reader->providers_) {
    const uint64_t count = provider->count();
    if (count == 1 || count == reader->count_) {
      reader->count_ = std::max(reader->count_, count);
      continue;
    }
    if (reader->count_ > 1)
      return usage(fmt::format("there are {} samples of one input and {} of another ({})",
                               reader->count_, count, provider->Name(0)));
    reader->count_ = count;
  }
  return reader;
}

Result<Sample> DataReader::Next() {
  Sample sample;
  sample.continues = sequence_ && next_ > 0;
  sample.steps.resize(1);
  for (const auto& provider : providers_) {
    const uint64_t index = provider->count() == 1 ? 0 : next_;
    CMLC_ASSIGN_OR_RETURN(std::vector<Arrays> steps, provider->Read(index));
    const std::string name = provider->Name(index);
    if (sample.name.empty() || provider->count() > 1) sample.name = name;
    if (steps.size() > 1 && sample.steps.size() > 1 && steps.size() != sample.steps.size())
      return Bad(name, fmt::format("has {} steps, other inputs have {}", steps.size(),
                                   sample.steps.size()));
    // One step goes with all steps of the others.
    if (sample.steps.size() == 1) sample.steps.resize(steps.size(), sample.steps[0]);
    for (size_t i = 0; i < sample.steps.size(); ++i)
      for (const auto& [input, array] : steps[steps.size() == 1 ? 0 : i])
        sample.steps[i].emplace(input, array);
  }
  ++next_;
  return sample;
}

}  // namespace cmlc::predict
