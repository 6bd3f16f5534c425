#include "support/pass_run.h"

#include <cmath>
#include <cstring>

#include "ir/decode.h"
#include "numeric/half.h"

namespace cmlc::test {

// --- Opened -------------------------------------------------------------------------------------

Opened::Opened(const fs::path& path) {
  auto package = Package::Open(path);
  EXPECT_TRUE(Succeeds(package));
  if (!package.ok()) return;
  package_ = std::move(*package);
  AddParts(package_->model(), "");
}

void Opened::AddParts(Model& model, const std::string& prefix) {
  for (const ProgramBlock& block : BlocksOf(model, prefix))
    parts_.push_back({block, std::make_unique<GraphIndex>(*block.block)});
  for (size_t i = 0; i < model.members.size(); ++i)
    AddParts(model.members[i], prefix + std::to_string(i) + ":");
}

const Definition* Opened::Define(const std::string& name, const std::string& program) const {
  for (const Part& part : parts_) {
    if (part.block.label != program) continue;
    for (const Definition& definition : part.index->definitions())
      if (definition.op->outputs[definition.output].name == name) return &definition;
  }
  return nullptr;
}

const Operation* Opened::Find(const std::string& name, const std::string& program) const {
  const Definition* definition = Define(name, program);
  return definition == nullptr ? nullptr : definition->op;
}

namespace {

std::string TextOf(const Value& value) {
  return ToString(value.type) +
         (std::holds_alternative<TensorId>(value.content) ? " file" : " spec");
}

template <typename Map, typename Text>
std::string Listed(const Map& map, const char* open, const char* close, const Text& text) {
  std::string all;
  for (const auto& [key, element] : map)
    if (key != "name") all += (all.empty() ? "" : ", ") + key + ": " + text(element);
  return all.empty() ? "" : open + all + close;
}

}  // namespace

std::string Opened::Print(const std::string& name, const std::string& program) const {
  const Operation* op = Find(name, program);
  if (op == nullptr) return "(no '" + name + "')";
  std::string text = op->type;
  text += Listed(op->inputs, "(", ")", [](const Argument& argument) {
    std::string all;
    for (const Binding& binding : argument.bindings) {
      const auto* source = std::get_if<std::string>(&binding.target);
      all += (all.empty() ? "" : " ") +
             (source != nullptr ? *source : TextOf(std::get<Value>(binding.target)));
    }
    return all;
  });
  text += Listed(op->attributes, "[", "]", TextOf);
  const char* arrow = " -> ";
  for (const NamedValueType& output : op->outputs) {
    text += arrow + (output.type ? ToString(*output.type) : "(no type)");
    arrow = ", ";
  }
  return text;
}

std::vector<std::string> Opened::Ops(const std::string& program) const {
  std::vector<std::string> ops;
  const auto visit = [&](auto&& self, const Block& block) -> void {
    for (const Operation& op : block.operations) {
      ops.push_back(op.type + " " + NameOf(op));
      for (const Block& inner : op.blocks) self(self, inner);
    }
  };
  for (const Part& part : parts_)
    if (part.block.label == program) visit(visit, *part.block.block);
  return ops;
}

std::vector<float> Opened::Values(const std::string& name, const std::string& program) const {
  for (const Part& part : parts_) {
    if (part.block.label != program) continue;
    for (const Definition& definition : part.index->definitions()) {
      if (definition.op->outputs[definition.output].name != name) continue;
      const auto reader =
          MakeReader(*definition.op, definition.output, *part.index, package_->tensors());
      EXPECT_TRUE(Succeeds(reader));
      if (!reader.ok()) return {};
      auto values = ReadAll(**reader);
      EXPECT_TRUE(Succeeds(values));
      return values.ok() ? *values : std::vector<float>();
    }
  }
  ADD_FAILURE() << "no '" << name << "' in '" << program << "'";
  return {};
}

const Value& Opened::Operand(const std::string& name, const std::string& operand,
                             const std::string& program) const {
  static const Value none;
  const Operation* op = Find(name, program);
  const Value* value = op == nullptr ? nullptr : FindOperand(*op, operand);
  EXPECT_NE(value, nullptr) << operand << " of " << name;
  return value == nullptr ? none : *value;
}

std::string Opened::Bytes(const Value& value) const {
  if (const auto* id = std::get_if<TensorId>(&value.content)) {
    const auto view = package_->tensors().View(*id, 0, package_->tensors().info(*id).size_bytes);
    EXPECT_TRUE(Succeeds(view));
    if (!view.ok()) return {};
    return {reinterpret_cast<const char*>(view->bytes().data()), view->bytes().size()};
  }
  return ImmediateBytes(value).value_or("");
}

std::vector<int> Opened::Codes(const Value& value, uint64_t count, int bits) const {
  const std::string bytes = Bytes(value);
  EXPECT_EQ(bytes.size(), (count * static_cast<uint64_t>(bits) + 7) / 8);
  std::vector<int> codes(static_cast<size_t>(count));
  for (size_t i = 0; i < codes.size(); ++i)
    for (int bit = 0; bit < bits; ++bit) {
      const size_t at = i * static_cast<size_t>(bits) + static_cast<size_t>(bit);
      codes[i] |= ((bytes.at(at / 8) >> (at % 8)) & 1) << bit;
    }
  return codes;
}

std::vector<float> Opened::Floats(const Value& value) const {
  const std::string bytes = Bytes(value);
  std::vector<float> floats;
  if (value.type.tensor.dtype == DataType::kFloat32) {
    floats.resize(bytes.size() / 4);
    if (!floats.empty()) std::memcpy(floats.data(), bytes.data(), bytes.size());
    return floats;
  }
  EXPECT_EQ(value.type.tensor.dtype, DataType::kFloat16);
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    uint16_t half = 0;
    std::memcpy(&half, bytes.data() + i, 2);
    floats.push_back(numeric::HalfToFloat(half));
  }
  return floats;
}

TensorId Opened::Tensor(const Value& value) const {
  const auto* id = std::get_if<TensorId>(&value.content);
  EXPECT_NE(id, nullptr) << "not in a weights file";
  return id == nullptr ? TensorId{} : *id;
}

// --- PassRun ------------------------------------------------------------------------------------

namespace {

RunOptions WithPaths(RunOptions options, const fs::path& input, const fs::path& output) {
  options.input = input;
  options.output = output;
  if (options.threads == 0) options.threads = 2;
  return options;
}

fs::path Written(const ModelBytes& model, const fs::path& path) {
  WriteFile(path, model.bytes);
  return path;
}

}  // namespace

PassRun::PassRun(PackageBuilder package, const PassSpec& spec, RunOptions options)
    : options_(WithPaths(std::move(options), package.Write(dir_ / "in.mlpackage"),
                         dir_ / "out.mlpackage")),
      result_(Run(spec, options_, diagnostics_)) {}

PassRun::PassRun(const ModelBytes& model, const PassSpec& spec, RunOptions options)
    : options_(
          WithPaths(std::move(options), Written(model, dir_ / "in.mlmodel"), dir_ / "out.mlmodel")),
      result_(Run(spec, options_, diagnostics_)) {}

PassRun::PassRun(const fs::path& input, const PassSpec& spec, RunOptions options)
    : options_(WithPaths(std::move(options), input, dir_ / ("out" + input.extension().string()))),
      result_(Run(spec, options_, diagnostics_)) {}

bool PassRun::lists(const std::string& name, const std::string& program) const {
  for (const WeightReport& weight : report().weights)
    if (weight.name == name && weight.function == program) return true;
  return false;
}

const WeightReport& PassRun::weight(const std::string& name, const std::string& program) const {
  static const WeightReport none;
  for (const WeightReport& weight : report().weights)
    if (weight.name == name && weight.function == program) return weight;
  ADD_FAILURE() << "no report on '" << name << "' of '" << program << "'";
  return none;
}

const Opened& PassRun::before() const {
  if (!before_) before_ = std::make_unique<Opened>(input());
  return *before_;
}

const Opened& PassRun::after() const {
  if (!after_) after_ = std::make_unique<Opened>(output());
  return *after_;
}

bool PassRun::wrote_nothing() const {
  for (const auto& entry : fs::directory_iterator(dir_.path()))
    if (entry.path() != options_.input) return false;
  return true;
}

// --- Passes and rules ---------------------------------------------------------------------------

PassSpec Palettize(OptionValues options, std::vector<Rule> rules) {
  return {"palettize", std::move(options), std::move(rules)};
}
PassSpec Decompress(OptionValues options, std::vector<Rule> rules) {
  return {"decompress", std::move(options), std::move(rules)};
}
PassSpec NullPass(OptionValues options, std::vector<Rule> rules) {
  return {"null", std::move(options), std::move(rules)};
}

namespace {

Rule MakeRule(Rule::Kind kind, std::string pattern, bool leave_alone, OptionValues options) {
  Rule rule;
  rule.kind = kind;
  rule.pattern = std::move(pattern);
  rule.leave_alone = leave_alone;
  rule.options = std::move(options);
  return rule;
}

}  // namespace

Rule ByName(std::string pattern, OptionValues options) {
  return MakeRule(Rule::Kind::kOpName, std::move(pattern), false, std::move(options));
}
Rule ByType(std::string pattern, OptionValues options) {
  return MakeRule(Rule::Kind::kOpType, std::move(pattern), false, std::move(options));
}
Rule LeaveName(std::string pattern) {
  return MakeRule(Rule::Kind::kOpName, std::move(pattern), true, {});
}
Rule LeaveType(std::string pattern) {
  return MakeRule(Rule::Kind::kOpType, std::move(pattern), true, {});
}

// --- Checks -------------------------------------------------------------------------------------

::testing::AssertionResult Left(const PassRun& run, const std::string& weight,
                                std::string_view reason, const std::string& program) {
  if (!run.ok()) return ::testing::AssertionFailure() << run.error();
  const WeightReport& report = run.weight(weight, program);
  if (report.fate != WeightReport::Fate::kLeft)
    return ::testing::AssertionFailure() << "'" << weight << "' was not left: " << report.form;
  if (report.reason.find(reason) == std::string::npos)
    return ::testing::AssertionFailure() << "left for: " << report.reason;
  if (report.category.empty() || report.bytes_after != report.bytes_before)
    return ::testing::AssertionFailure() << "no category, or other bytes than before";
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult IsDone(const PassRun& run, const std::string& weight,
                                  const std::string& program) {
  if (!run.ok()) return ::testing::AssertionFailure() << run.error();
  const WeightReport& report = run.weight(weight, program);
  if (report.fate == WeightReport::Fate::kDone) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "left: " << report.category << ": " << report.reason;
}

::testing::AssertionResult QualityAgrees(const PassRun& run, const std::string& weight,
                                         const std::string& program) {
  const std::vector<float> before = run.before().Values(weight, program);
  const std::vector<float> after = run.after().Values(weight, program);
  const double signal = SumOfSquares(before), noise = SquaredDistance(before, after);
  const Quality& quality = run.weight(weight, program).quality;
  const auto near = [](double a, double b) { return std::abs(a - b) <= 1e-6 * std::abs(b); };
  if (near(quality.signal, signal) && near(quality.noise, noise))
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "reported " << quality.signal << " / " << quality.noise
                                       << ", found " << signal << " / " << noise;
}

::testing::AssertionResult SamePackage(const fs::path& a, const fs::path& b, bool manifest) {
  auto left = ReadTree(a), right = ReadTree(b);
  for (auto* tree : {&left, &right})
    if (!manifest) tree->erase("Manifest.json");
  for (const auto& [name, bytes] : left)
    if (!right.contains(name) || right[name] != bytes)
      return ::testing::AssertionFailure() << name << " differs";
  for (const auto& [name, bytes] : right)
    if (!left.contains(name))
      return ::testing::AssertionFailure() << name << " is in the second only";
  return ::testing::AssertionSuccess();
}

double SquaredDistance(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += difference * difference;
  }
  return sum;
}

double SumOfSquares(const std::vector<float>& values) {
  return SquaredDistance(values, std::vector<float>(values.size()));
}

// --- Models -------------------------------------------------------------------------------------

void AddLinear(BlockBuilder& block, const std::string& name, const std::string& weight,
               DataType dtype, const Shape& shape) {
  block.Op("linear", name, {{"x", "x"}, {"weight", weight}}, TensorType(dtype, {1, shape[0]}));
}

PackageBuilder Linears(DataType dtype, const Shape& shape, const std::vector<std::string>& weights,
                       int32_t spec_version) {
  PackageBuilder package(spec_version);
  package.FunctionInput("main", "x", TensorType(dtype, {1, shape.back()}));
  BlockBuilder main = package.Function("main");
  for (size_t i = 0; i < weights.size(); ++i) {
    const std::string number = std::to_string(i);
    main.BlobConst("w" + number, dtype, shape, weights[i]);
    AddLinear(main, "y" + number, "w" + number, dtype, shape);
    main.Output("y" + number);
  }
  return package;
}

PackageBuilder LinearOf(DataType dtype, const Shape& shape, const std::vector<float>& values,
                        int32_t spec_version) {
  PackageBuilder package(spec_version);
  package.FunctionInput("main", "x", TensorType(dtype, {1, shape.back()}));
  BlockBuilder main = package.Function("main");
  main.BlobConst("weight", dtype, shape, FloatBytes(dtype, values));
  AddLinear(main, "y", "weight", dtype, shape);
  main.Output("y");
  return package;
}

}  // namespace cmlc::test
