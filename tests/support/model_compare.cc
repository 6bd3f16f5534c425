#include "support/model_compare.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/util/message_differencer.h>

#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "support/test_util.h"

namespace cmlc::test {

namespace pb = google::protobuf;

wire::Model ParseWire(std::string_view bytes) {
  wire::Model model;
  pb::io::CodedInputStream stream(reinterpret_cast<const uint8_t*>(bytes.data()),
                                  static_cast<int>(bytes.size()));
  stream.SetRecursionLimit(10000);
  EXPECT_TRUE(model.ParseFromCodedStream(&stream) && stream.ConsumedEntireMessage());
  return model;
}

std::string CanonicalBytes(const wire::Model& model) {
  std::string bytes;
  pb::io::StringOutputStream sink(&bytes);
  {
    pb::io::CodedOutputStream stream(&sink);
    stream.SetSerializationDeterministic(true);
    model.SerializeToCodedStream(&stream);
  }
  return bytes;
}

fs::path ModelFile(const fs::path& package) {
  const auto manifest = nlohmann::json::parse(ReadFile(package / "Manifest.json"));
  const std::string root = manifest["rootModelIdentifier"];
  return package / "Data" / manifest["itemInfoEntries"][root]["path"].get<std::string>();
}

wire::Model ReadWire(const fs::path& package) { return ParseWire(ReadFile(ModelFile(package))); }

void ForEachMessage(pb::Message& message, const std::function<void(pb::Message&)>& visit) {
  visit(message);
  const pb::Reflection& reflection = *message.GetReflection();
  std::vector<const pb::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const pb::FieldDescriptor* field : fields) {
    if (field->cpp_type() != pb::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (!field->is_repeated()) {
      ForEachMessage(*reflection.MutableMessage(&message, field), visit);
      continue;
    }
    for (int i = 0; i < reflection.FieldSize(message, field); ++i)
      ForEachMessage(*reflection.MutableRepeatedMessage(&message, field, i), visit);
  }
}

wire::Model ReadWireWithBlobs(const fs::path& package) {
  wire::Model model = ReadWire(package);
  const fs::path folder = ModelFile(package).parent_path();
  std::map<std::string, std::string> files;
  ForEachMessage(model, [&](pb::Message& message) {
    if (message.GetDescriptor() != wire::BlobFileValue::GetDescriptor()) return;
    auto& blob = static_cast<wire::BlobFileValue&>(message);
    const std::string prefix = "@model_path/";
    ASSERT_EQ(blob.filename().substr(0, prefix.size()), prefix);
    auto [file, is_new] = files.try_emplace(blob.filename());
    if (is_new) file->second = ReadFile(folder / blob.filename().substr(prefix.size()));
    const std::string& bytes = file->second;
    ASSERT_LE(blob.offset() + 64, bytes.size());
    uint32_t type = 0;
    uint64_t size = 0, begin = 0, padding = 0;
    std::memcpy(&type, bytes.data() + blob.offset() + 4, 4);
    std::memcpy(&size, bytes.data() + blob.offset() + 8, 8);
    std::memcpy(&begin, bytes.data() + blob.offset() + 16, 8);
    std::memcpy(&padding, bytes.data() + blob.offset() + 24, 8);
    ASSERT_LE(begin + size, bytes.size());
    const bool sub_byte = type >= 8 && type <= 13;
    std::string text = fmt::format("{} type {} padding {} size {} hash {}", blob.filename(), type,
                                   sub_byte ? padding : 0, size,
                                   std::hash<std::string>()(bytes.substr(begin, size)));
    blob.set_filename(std::move(text));
    blob.clear_offset();
  });
  return model;
}

::testing::AssertionResult SameModel(const wire::Model& expected, const wire::Model& actual) {
  if (CanonicalBytes(expected) == CanonicalBytes(actual)) return ::testing::AssertionSuccess();
  pb::util::MessageDifferencer differencer;
  std::string report;
  differencer.ReportDifferencesToString(&report);
  if (differencer.Compare(expected, actual))
    report = "equal messages with different bytes: presence of an empty message?";
  if (report.size() > 2000) report.resize(2000);
  return ::testing::AssertionFailure() << report;
}

::testing::AssertionResult SamePackageContents(const fs::path& expected, const fs::path& actual) {
  return SameModel(ReadWireWithBlobs(expected), ReadWireWithBlobs(actual));
}

}  // namespace cmlc::test
