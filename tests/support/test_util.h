// What tests share: folders that clean up after themselves, random weights, bytes of typed values,
// a Diagnostics that remembers, checks of results, and the real models that may lie beside the
// source.
#ifndef CMLC_TESTS_SUPPORT_TEST_UTIL_H_
#define CMLC_TESTS_SUPPORT_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cmlc/diagnostics.h"
#include "cmlc/status.h"
#include "cmlc/tensor.h"

namespace cmlc::test {

namespace fs = std::filesystem;

// A new folder, removed with everything in it at the end of the test.
class TempDir {
 public:
  TempDir() : TempDir(fs::temp_directory_path()) {}
  explicit TempDir(const fs::path& parent);
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const fs::path& path() const { return path_; }
  fs::path operator/(const fs::path& name) const { return path_ / name; }

 private:
  fs::path path_;
};

// A folder in memory where the system has one, else the usual one for temporary files: for small
// files that are written thousands of times and flushed to the disk each time.
fs::path FolderInMemory();

std::string ReadFile(const fs::path& path);
// Makes the folders above it as well.
void WriteFile(const fs::path& path, const std::string& bytes);

// Everything below a folder: bytes by path relative to it. Folders end in '/' and have no bytes;
// links are "-> target".
std::map<std::string, std::string> ReadTree(const fs::path& path);

// --- Values -------------------------------------------------------------------------------------

// The same seed gives the same values on every platform.
std::vector<float> Gaussian(size_t count, uint64_t seed, float deviation = 1.0f);
// Student's t: heavy tails, like the weights of many trained layers. Four degrees of freedom have a
// finite variance but not much more.
std::vector<float> StudentT(size_t count, uint64_t seed, int degrees_of_freedom = 4);
// Whole numbers below `bound`.
std::vector<uint8_t> RandomCodes(size_t count, uint64_t seed, int bound);

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}
std::string Fp16Bytes(const std::vector<float>& values);
std::string Fp32Bytes(const std::vector<float>& values);
// Values in fp16 or fp32.
std::string FloatBytes(DataType dtype, const std::vector<float>& values);
// Packs integers into `bits` bits each, from the low bit up, one bit at a time.
std::string PackedInts(const std::vector<int>& values, int bits);
// "e8 20 07" as bytes.
std::string FromHex(std::string_view text);

// --- Results ------------------------------------------------------------------------------------

// Whether `result` is an error of this kind whose message is one line and has all the fragments.
::testing::AssertionResult IsError(const Error& error, ErrorKind kind,
                                   std::initializer_list<std::string_view> fragments);

template <typename ResultOrStatus>
::testing::AssertionResult Fails(const ResultOrStatus& result, ErrorKind kind,
                                 std::initializer_list<std::string_view> fragments = {}) {
  if (result.ok()) return ::testing::AssertionFailure() << "succeeded, expected an error";
  return IsError(result.error(), kind, fragments);
}

template <typename ResultOrStatus>
::testing::AssertionResult Succeeds(const ResultOrStatus& result) {
  if (result.ok()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << result.error().message;
}

// A message as Error promises it: not empty, one line, no period at the end.
bool IsOneLine(const std::string& message);

// --- Diagnostics --------------------------------------------------------------------------------

class TestDiagnostics final : public Diagnostics {
 public:
  struct Step {
    std::string stage;
    int64_t weights_done = 0;
    int64_t weights_total = 0;
    uint64_t bytes_done = 0;
    uint64_t bytes_total = 0;
  };
  void Note(std::string message) override { notes.push_back(std::move(message)); }
  void Warning(std::string message) override { warnings.push_back(std::move(message)); }
  void Report(const Progress& progress) override {
    steps.push_back({std::string(progress.stage), progress.weights_done, progress.weights_total,
                     progress.bytes_done, progress.bytes_total});
  }

  std::vector<std::string> notes;
  std::vector<std::string> warnings;
  std::vector<Step> steps;
};

// --- Real models --------------------------------------------------------------------------------

// Complete packages in the folder of models beside the source tree, sorted; none where it is not.
std::vector<fs::path> RealModels();
// Packages without their weights files.
std::vector<fs::path> RealSpecs();
// Single-file models.
std::vector<fs::path> RealModelFiles();

}  // namespace cmlc::test

#endif  // CMLC_TESTS_SUPPORT_TEST_UTIL_H_
