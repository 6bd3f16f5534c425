// Comparing packages by meaning: two packages are equal if their model messages are, once every
// reference to a weights file is replaced by the blob that is there.
#ifndef CMLC_TESTS_SUPPORT_MODEL_COMPARE_H_
#define CMLC_TESTS_SUPPORT_MODEL_COMPARE_H_

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "mil.pb.h"
#include "model.pb.h"

namespace cmlc::test {

// Parses a model message of any depth; a failure of the test if it is none.
wire::Model ParseWire(std::string_view bytes);

// Serialized so that equal messages are equal bytes.
std::string CanonicalBytes(const wire::Model& model);

// The file of the root model.
std::filesystem::path ModelFile(const std::filesystem::path& package);

// The model message of a package; with the contents of blobs in place of their offsets.
wire::Model ReadWire(const std::filesystem::path& package);
wire::Model ReadWireWithBlobs(const std::filesystem::path& package);

// Calls visit(message) for a message and, depth first, everything in it.
void ForEachMessage(google::protobuf::Message& message,
                    const std::function<void(google::protobuf::Message&)>& visit);

// Whether two messages are equal, unknown fields and presence included; says where they differ.
::testing::AssertionResult SameModel(const wire::Model& expected, const wire::Model& actual);
::testing::AssertionResult SamePackageContents(const std::filesystem::path& expected,
                                               const std::filesystem::path& actual);

}  // namespace cmlc::test

#endif  // CMLC_TESTS_SUPPORT_MODEL_COMPARE_H_
