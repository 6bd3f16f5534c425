// The model message: read, held as a graph, and written again. What no pass touches must come out
// equal, and what is broken must be refused without harm.
#include "format/spec.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/unknown_field_set.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>

#include "cmlc/package.h"
#include "support/model_compare.h"
#include "support/network_builder.h"
#include "support/package_builder.h"
#include "support/sample_models.h"
#include "support/test_util.h"

namespace cmlc::format {
namespace {

using test::BlockBuilder;
using test::CanonicalBytes;
using test::Fails;
using test::Int32Value;
using test::PackageBuilder;
using test::ParseWire;
using test::SameModel;
using test::Succeeds;
using test::TempDir;
using test::TensorType;
namespace pb = google::protobuf;

// Reads model messages by themselves. Blobs are whatever the values that name them say.
class SpecTest : public ::testing::Test {
 protected:
  Result<Model> Parse(std::string_view bytes) {
    const auto message_file = [&]() -> Result<WeightsFile> {
      const std::string name = fmt::format("message{}", parsed_++);
      test::WriteFile(dir_ / name, std::string(bytes));
      const WeightsFile message = store_.AddFile(name, name);
      CMLC_RETURN_IF_ERROR(store_.OpenMessage(message, dir_ / name));
      return message;
    };
    return ParseModel({.path = "model.mlmodel", .bytes = bytes, .file = message_file}, store_,
                      [&](const std::string& name, uint64_t offset) -> Result<TensorId> {
                        const WeightsFile file = store_.AddFile(name, "weights/weight.bin");
                        return store_.AddMissing(file, offset);
                      });
  }

  std::string Serialize(const Model& model) {
    const Result<WireMessage> message =
        SerializeModel(model, store_, [&](TensorId id) -> BlobPlace {
          return {store_.FileName(store_.info(id).file), store_.info(id).offset};
        });
    EXPECT_TRUE(Succeeds(message));
    return message.ok() ? *ToBytes(*message, store_) : "";
  }

  // Whether a message survives being read and written.
  ::testing::AssertionResult Survives(const wire::Model& message) {
    const Result<Model> model = Parse(CanonicalBytes(message));
    if (!model.ok()) return Succeeds(model);
    const std::string bytes = Serialize(*model);
    if (bytes != Serialize(*model)) return ::testing::AssertionFailure() << "written differently";
    return SameModel(message, ParseWire(bytes));
  }

  const TempDir dir_;
  int parsed_ = 0;
  TensorStore store_;
};

// --- Identity -----------------------------------------------------------------------------------

TEST_F(SpecTest, KeepsOneOfEverything) {
  EXPECT_TRUE(Survives(test::OneOfEverything().Finished()));
}

TEST_F(SpecTest, KeepsPipelines) {
  wire::Model pipeline = test::SmallPipeline().Finished();
  EXPECT_TRUE(Survives(pipeline));
  wire::Model classifier = pipeline;
  *classifier.mutable_pipelineclassifier()->mutable_pipeline() = pipeline.pipeline();
  EXPECT_TRUE(Survives(classifier));
  wire::Model outer;
  outer.set_specificationversion(7);
  outer.mutable_pipeline()->add_models()->CopyFrom(classifier);
  outer.mutable_pipeline()->add_models()->CopyFrom(pipeline);
  EXPECT_TRUE(Survives(outer));
}

TEST_F(SpecTest, KeepsEmptyPipelines) {
  wire::Model model;
  model.set_specificationversion(3);
  model.mutable_pipeline();
  EXPECT_TRUE(Survives(model));
  model.mutable_pipelineregressor()->mutable_pipeline();
  EXPECT_TRUE(Survives(model));
  model.mutable_pipelineclassifier();  // without even a pipeline
  EXPECT_TRUE(Survives(model));
}

TEST_F(SpecTest, KeepsModelsOfEveryOtherType) {
  const pb::OneofDescriptor* types = wire::Model::GetDescriptor()->FindOneofByName("Type");
  for (int i = 0; i < types->field_count(); ++i) {
    const pb::FieldDescriptor* field = types->field(i);
    if (field->type() != pb::FieldDescriptor::TYPE_BYTES) continue;
    wire::Model model;
    model.set_specificationversion(4);
    const bool is_network = field->name().find("neuralNetwork") == 0;
    model.GetReflection()->SetString(&model, field,
                                     is_network ? test::SmallNetwork().message() : "\x0A\x03xyz");
    EXPECT_TRUE(Survives(model)) << field->name();
    EXPECT_EQ(Parse(CanonicalBytes(model))->kind, field->name());
  }
}

TEST_F(SpecTest, KeepsAModelWithoutAType) {
  wire::Model model;
  model.set_specificationversion(1);
  EXPECT_TRUE(Survives(model));
  EXPECT_EQ(Parse(CanonicalBytes(model))->kind, "");
}

TEST_F(SpecTest, RefusesADictionaryEntryWithoutAKey) {
  PackageBuilder package(9);
  wire::Value dictionary = test::DictionaryValue({});
  dictionary.mutable_immediatevalue()->mutable_dictionary()->add_values()->mutable_value();
  package.Function("main").Const("c", dictionary);
  EXPECT_TRUE(Fails(Parse(CanonicalBytes(package.Finished())), ErrorKind::kBadInput,
                    {"op 'c'", "entry of a dictionary lacks its key"}));
}

TEST_F(SpecTest, ReadsRepeatedNumbersOneByOne) {
  // proto3 packs them, but readers have to accept both.
  PackageBuilder package(7);
  package.Function("main").Const("c", test::Int32sValue({1, 2}));
  std::string bytes = CanonicalBytes(package.Finished());
  const std::string packed = test::FromHex("0a 02 01 02");    // field 1, two bytes
  const std::string unpacked = test::FromHex("08 01 08 02");  // field 1 twice
  const size_t at = bytes.find(packed);
  ASSERT_NE(at, std::string::npos);
  bytes.replace(at, packed.size(), unpacked);
  const Result<Model> model = Parse(bytes);
  ASSERT_TRUE(Succeeds(model));
  const Operation& op = ActiveBlock(model->program->functions.at("main"))->operations[0];
  EXPECT_EQ(ImmediateInts(op.attributes.at("val")), (std::vector<int64_t>{1, 2}));
}

TEST_F(SpecTest, WritesMapsInOrder) {
  // The runtime hashes maps with a seed of its own for every map.
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  test::Inputs inputs;
  for (int i = 0; i < 50; ++i) inputs.emplace_back(fmt::format("p{}", i), Int32Value(i));
  main.Op("wide", "y", inputs, TensorType(DataType::kFloat16, {1}));
  const std::string first = CanonicalBytes(package.Finished());
  const std::string second = Serialize(*Parse(package.Finished().SerializeAsString()));
  EXPECT_TRUE(first == second);
}

// --- What the reader does not know --------------------------------------------------------------

void AddUnknownField(pb::Message& message) {
  pb::UnknownFieldSet& fields = *message.GetReflection()->MutableUnknownFields(&message);
  fields.AddVarint(9999, 7);
  fields.AddLengthDelimited(9998, "kept");
}

bool IsMapEntry(const pb::Message& message) {
  return message.GetDescriptor()->name().ends_with("Entry");
}

// Those have no place for what they do not know.
const std::set<std::string> kWrappers = {
    "ImmediateValue", "BlobFileValue", "KeyValuePair", "Constant", "Unknown", "Floats",
    "Ints",           "Bools",         "Strings",      "LongInts", "Doubles", "Bytes"};

TEST_F(SpecTest, KeepsUnknownFieldsAtEveryLevel) {
  wire::Model message = test::OneOfEverything().Finished();
  std::set<std::string> seen;
  test::ForEachMessage(message, [&](pb::Message& inner) {
    const std::string name = inner.GetDescriptor()->name();
    if (IsMapEntry(inner) || kWrappers.contains(name)) return;
    AddUnknownField(inner);
    seen.insert(name);
  });
  for (const char* name : {"Model",
                           "ModelDescription",
                           "FunctionDescription",
                           "ArrayFeatureType",
                           "Program",
                           "Function",
                           "Block",
                           "Operation",
                           "Argument",
                           "Binding",
                           "NamedValueType",
                           "ValueType",
                           "TensorType",
                           "Dimension",
                           "ListType",
                           "TupleType",
                           "DictionaryType",
                           "StateType",
                           "Value",
                           "TensorValue",
                           "TupleValue",
                           "ListValue",
                           "DictionaryValue"})
    EXPECT_TRUE(seen.contains(name)) << name;
  EXPECT_TRUE(Survives(message));
}

TEST_F(SpecTest, KeepsUnknownFieldsOfPipelines) {
  wire::Model message = test::SmallPipeline().Finished();
  test::ForEachMessage(message, [&](pb::Message& inner) {
    if (!IsMapEntry(inner) && !kWrappers.contains(inner.GetDescriptor()->name()))
      AddUnknownField(inner);
  });
  EXPECT_TRUE(Survives(message));
}

TEST_F(SpecTest, RefusesUnknownFieldsThatItWouldLose) {
  for (const std::string& wrapper : kWrappers) {
    wire::Model message = test::OneOfEverything().Finished();
    bool added = false;
    test::ForEachMessage(message, [&](pb::Message& inner) {
      if (added || inner.GetDescriptor()->name() != wrapper) return;
      AddUnknownField(inner);
      added = true;
    });
    ASSERT_TRUE(added) << wrapper;
    EXPECT_TRUE(Fails(Parse(CanonicalBytes(message)), ErrorKind::kBadInput,
                      {"model.mlmodel", wrapper, "holds a field that this version"}))
        << wrapper;
  }
}

TEST_F(SpecTest, RefusesOrKeepsUnknownGroupsOfAnyDepth) {
  // Field 9999 as a group (wire types 3 and 4) inside a group inside a group ...
  std::string begin, end;
  for (int levels : {50, 150, 450, 5000}) {
    begin.clear();
    end.clear();
    for (int i = 0; i < levels; ++i) {
      begin += test::FromHex("fb f0 04");
      end += test::FromHex("fc f0 04");
    }
    for (const bool inside : {false, true}) {
      std::string bytes = test::FromHex("08 07") + begin + end;
      if (inside) {
        const std::string program = test::FromHex("08 01") + begin + end;
        wire::Model holder;
        holder.set_specificationversion(7);
        holder.set_identity(program);  // the same wire form as field 502
        bytes = holder.SerializeAsString();
        const size_t at = bytes.find(test::FromHex("a2 38"));  // field 900
        ASSERT_NE(at, std::string::npos);
        bytes.replace(at, 2, test::FromHex("b2 1f"));  // field 502
      }
      const Result<Model> model = Parse(bytes);
      if (!model.ok()) {
        EXPECT_GT(levels, 100);
        EXPECT_TRUE(Fails(model, ErrorKind::kBadInput, {"model.mlmodel"}));
      } else {
        EXPECT_TRUE(SameModel(ParseWire(bytes), ParseWire(Serialize(*model))));
      }
    }
  }
}

// --- What is broken -----------------------------------------------------------------------------

TEST_F(SpecTest, ReportsWhatIsNoMessage) {
  EXPECT_TRUE(Fails(Parse("this is text"), ErrorKind::kBadInput,
                    {"model.mlmodel: is not a valid model message"}));
}

TEST_F(SpecTest, ReportsAVersionOfZero) {
  EXPECT_TRUE(Fails(Parse(""), ErrorKind::kBadInput, {"specification version is 0"}));
  wire::Model model;
  model.set_specificationversion(-3);
  EXPECT_TRUE(Fails(Parse(model.SerializeAsString()), ErrorKind::kBadInput, {"is -3"}));
}

TEST_F(SpecTest, ReportsAnotherProgramVersion) {
  PackageBuilder package(7);
  package.Function("main");
  package.program().set_version(2);
  EXPECT_TRUE(Fails(Parse(CanonicalBytes(package.Finished())), ErrorKind::kBadInput,
                    {"program version is 2, expected 1"}));
}

TEST_F(SpecTest, ReportsAFunctionWithoutABlockForItsOpset) {
  PackageBuilder package(7);
  package.Function("main");
  (*package.program().mutable_functions())["main"].set_opset("CoreML99");
  EXPECT_TRUE(Fails(Parse(CanonicalBytes(package.Finished())), ErrorKind::kBadInput,
                    {"function 'main'", "opset 'CoreML99'"}));
}

TEST_F(SpecTest, ReportsTextThatIsNotUtf8) {
  PackageBuilder package(7);
  package.Function("main").Const("name", Int32Value(1));
  std::string bytes = CanonicalBytes(package.Finished());
  bytes.replace(bytes.find("name"), 4, "\xFF\xFE\xFD\xFC");
  EXPECT_TRUE(Fails(Parse(bytes), ErrorKind::kBadInput, {"model.mlmodel"}));
}

TEST_F(SpecTest, ReportsBlobsOfATypeWithoutAShape) {
  for (const wire::ValueType& type :
       {TensorType(DataType::kFloat16, {test::kUnknownSize}), test::AnyRankType(DataType::kFloat16),
        test::ListType(TensorType(DataType::kFloat16, {1}), 1), wire::ValueType()}) {
    PackageBuilder package(7);
    wire::Value value = test::BlobValueAt(DataType::kFloat16, {1}, "w", 64);
    *value.mutable_type() = type;
    package.Function("main").Const("c", value);
    EXPECT_TRUE(Fails(
        Parse(CanonicalBytes(package.Finished())), ErrorKind::kBadInput,
        {"function 'main': op 'c': blob at offset 64 of 'w'", "expected a tensor of fixed shape"}));
  }
}

TEST_F(SpecTest, ReportsABlobWhoseShapeOverflows) {
  PackageBuilder package(7);
  package.Function("main").Const(
      "c", test::BlobValueAt(DataType::kFloat16, {INT64_MAX, INT64_MAX}, "w", 64));
  EXPECT_TRUE(Fails(Parse(CanonicalBytes(package.Finished())), ErrorKind::kBadInput,
                    {"op 'c'", "shape overflows"}));
}

TEST_F(SpecTest, ReportsABlobOfMoreThan63BitsAlongAnAxis) {
  PackageBuilder package(7);
  wire::Value value = test::BlobValueAt(DataType::kFloat16, {1}, "w", 64);
  value.mutable_type()->mutable_tensortype()->mutable_dimensions(0)->mutable_constant()->set_size(
      UINT64_MAX);
  package.Function("main").Const("c", value);
  EXPECT_TRUE(Fails(Parse(CanonicalBytes(package.Finished())), ErrorKind::kBadInput, {"op 'c'"}));
}

// A cond inside a cond inside a cond ...
wire::Model NestedModel(int levels) {
  PackageBuilder package(7);
  BlockBuilder block = package.Function("main");
  for (int i = 0; i < levels; ++i) {
    wire::Operation& op =
        block.Op("cond", fmt::format("c{}", i), {}, TensorType(DataType::kFloat16, {1}));
    block = block.Nested(op);
  }
  block.Const("innermost", Int32Value(1));
  return package.Finished();
}

TEST_F(SpecTest, KeepsDeeplyNestedBlocks) { EXPECT_TRUE(Survives(NestedModel(200))); }

TEST_F(SpecTest, RefusesBlocksThatNestTooDeeply) {
  for (const int levels : {300, 3000})
    EXPECT_TRUE(
        Fails(Parse(CanonicalBytes(NestedModel(levels))), ErrorKind::kBadInput, {"model.mlmodel"}))
        << levels;
}

TEST_F(SpecTest, RefusesPipelinesThatNestTooDeeply) {
  wire::Model model;
  model.set_specificationversion(7);
  for (int i = 0; i < 1000; ++i) {
    wire::Model outer;
    outer.set_specificationversion(7);
    outer.mutable_pipeline()->add_models()->Swap(&model);
    model.Swap(&outer);
  }
  EXPECT_TRUE(Fails(Parse(CanonicalBytes(model)), ErrorKind::kBadInput, {"model.mlmodel"}));
}

TEST_F(SpecTest, RefusesListsThatNestTooDeeply) {
  wire::Value value = Int32Value(1);
  for (int i = 0; i < 400; ++i) {
    wire::Value outer;
    outer.mutable_immediatevalue()->mutable_list()->add_values()->Swap(&value);
    value.Swap(&outer);
  }
  PackageBuilder package(7);
  package.Function("main").Const("c", value);
  EXPECT_TRUE(
      Fails(Parse(CanonicalBytes(package.Finished())), ErrorKind::kBadInput, {"model.mlmodel"}));
}

// --- Damage -------------------------------------------------------------------------------------

class SpecDamage : public SpecTest {
 protected:
  // Damage may leave a valid message; then that one has to survive.
  void Check(const std::string& bytes) {
    const Result<Model> model = Parse(bytes);
    if (!model.ok()) {
      ASSERT_TRUE(Fails(model, ErrorKind::kBadInput, {"model.mlmodel: "}));
      return;
    }
    const std::string written = Serialize(*model);
    ASSERT_TRUE(Succeeds(Parse(written)));
    ASSERT_TRUE(Serialize(*Parse(written)) == written);
  }
  // protobuf prints to stderr what is not UTF-8; keep the output of the tests readable.
  void SetUp() override { ::testing::internal::CaptureStderr(); }
  void TearDown() override { ::testing::internal::GetCapturedStderr(); }
  const std::string whole_ = CanonicalBytes(test::OneOfEverything().Finished());
};

TEST_F(SpecDamage, AnyTruncation) {
  for (size_t size = 0; size < whole_.size(); ++size) Check(whole_.substr(0, size));
}

TEST_F(SpecDamage, BitFlips) {
  std::string bytes = whole_;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const char before = bytes[i];
    bytes[i] = static_cast<char>(before ^ (1 << (i / 3 % 8)));
    Check(bytes);
    bytes[i] = before;
  }
}

TEST_F(SpecDamage, RandomBytesInTheMiddle) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = whole_;
    for (int j = 0; j < 4; ++j) bytes[random() % bytes.size()] = static_cast<char>(random());
    Check(bytes);
  }
}

// --- Real models --------------------------------------------------------------------------------

TEST(RealModels, AreReadAndWrittenUnchanged) {
  if (test::RealModels().empty()) GTEST_SKIP() << "no models beside the source";
  for (const auto& path : test::RealModels()) {
    SCOPED_TRACE(path);
    const auto package = Package::Open(path);
    ASSERT_TRUE(Succeeds(package));
    const Result<std::string> bytes = SerializedModel(**package);
    ASSERT_TRUE(Succeeds(bytes));
    EXPECT_TRUE(SameModel(test::ReadWire(path), ParseWire(*bytes)));
  }
}

TEST(RealModels, WithoutTheirWeightsAreReadAndWrittenUnchanged) {
  if (test::RealSpecs().empty()) GTEST_SKIP() << "no models beside the source";
  for (const auto& path : test::RealSpecs()) {
    SCOPED_TRACE(path);
    const auto package = Package::Open(path, {.allow_missing_weights = true});
    ASSERT_TRUE(Succeeds(package));
    const Result<std::string> bytes = SerializedModel(**package);
    ASSERT_TRUE(Succeeds(bytes));
    EXPECT_TRUE(SameModel(test::ReadWire(path), ParseWire(*bytes)));
    EXPECT_TRUE(Fails(Package::Open(path), ErrorKind::kBadInput, {"missing"}));
  }
}

TEST(RealModels, OfASingleFileAreReadAndWrittenUnchanged) {
  if (test::RealModelFiles().empty()) GTEST_SKIP() << "no models beside the source";
  for (const auto& path : test::RealModelFiles()) {
    SCOPED_TRACE(path);
    const auto package = Package::Open(path);
    ASSERT_TRUE(Succeeds(package));
    const Result<std::string> bytes = SerializedModel(**package);
    ASSERT_TRUE(Succeeds(bytes));
    EXPECT_TRUE(SameModel(ParseWire(test::ReadFile(path)), ParseWire(*bytes)));
  }
}

}  // namespace
}  // namespace cmlc::format
