#include "support/test_util.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <numbers>
#include <random>

#include "numeric/half.h"

namespace cmlc::test {

TempDir::TempDir(const fs::path& parent) {
  std::string pattern = (parent / "cmlc-test-XXXXXX").string();
  // Canonical, so that a path in a message can be compared with one made here.
  if (mkdtemp(pattern.data()) != nullptr) path_ = fs::canonical(pattern);
}

TempDir::~TempDir() {
  std::error_code code;
  if (!path_.empty()) fs::remove_all(path_, code);
}

fs::path FolderInMemory() {
  const fs::path memory = "/dev/shm";
  return access(memory.c_str(), W_OK | X_OK) == 0 ? memory : fs::temp_directory_path();
}

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void WriteFile(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  EXPECT_TRUE(file) << path;
}

std::map<std::string, std::string> ReadTree(const fs::path& path) {
  std::map<std::string, std::string> tree;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    const std::string name = entry.path().lexically_relative(path).generic_string();
    if (entry.is_symlink())
      tree[name] = "-> " + fs::read_symlink(entry.path()).string();
    else if (entry.is_directory())
      tree[name + "/"] = "";
    else
      tree[name] = ReadFile(entry.path());
  }
  return tree;
}

namespace {

// The generators of <random> are specified to the bit, its distributions are not.
double Uniform(std::mt19937_64& random) {
  return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53;
}

double Normal(std::mt19937_64& random) {
  const double radius = std::sqrt(-2 * std::log(Uniform(random)));
  return radius * std::cos(2 * std::numbers::pi * Uniform(random));
}

}  // namespace

std::vector<float> Gaussian(size_t count, uint64_t seed, float deviation) {
  std::mt19937_64 random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = deviation * static_cast<float>(Normal(random));
  return values;
}

std::vector<float> StudentT(size_t count, uint64_t seed, int degrees_of_freedom) {
  std::mt19937_64 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    const double numerator = Normal(random);
    double chi_squared = 0;
    for (int i = 0; i < degrees_of_freedom; ++i) chi_squared += std::pow(Normal(random), 2);
    value = static_cast<float>(numerator / std::sqrt(chi_squared / degrees_of_freedom));
  }
  return values;
}

std::vector<uint8_t> RandomCodes(size_t count, uint64_t seed, int bound) {
  std::mt19937_64 random(seed);
  std::vector<uint8_t> codes(count);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % static_cast<uint64_t>(bound));
  return codes;
}

std::string Fp16Bytes(const std::vector<float>& values) {
  std::vector<uint16_t> halves;
  for (const float value : values) halves.push_back(numeric::FloatToHalf(value));
  return BytesOf(halves);
}

std::string Fp32Bytes(const std::vector<float>& values) { return BytesOf(values); }

std::string FloatBytes(DataType dtype, const std::vector<float>& values) {
  return dtype == DataType::kFloat16 ? Fp16Bytes(values) : Fp32Bytes(values);
}

std::string PackedInts(const std::vector<int>& values, int bits) {
  std::string bytes((values.size() * static_cast<size_t>(bits) + 7) / 8, '\0');
  size_t position = 0;
  for (const int value : values)
    for (int bit = 0; bit < bits; ++bit, ++position)
      if (((static_cast<unsigned>(value) >> bit) & 1u) != 0)
        bytes[position / 8] = static_cast<char>(bytes[position / 8] | (1 << (position % 8)));
  return bytes;
}

std::string FromHex(std::string_view text) {
  const std::string_view digits = "0123456789abcdef";
  std::string bytes;
  int high = -1;
  for (const char c : text) {
    const size_t digit = digits.find(c);
    if (digit == std::string_view::npos) continue;
    if (high < 0) {
      high = static_cast<int>(digit);
    } else {
      bytes.push_back(static_cast<char>(high * 16 + static_cast<int>(digit)));
      high = -1;
    }
  }
  return bytes;
}

bool IsOneLine(const std::string& message) {
  return !message.empty() && message.back() != '.' &&
         std::none_of(message.begin(), message.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20; });
}

::testing::AssertionResult IsError(const Error& error, ErrorKind kind,
                                   std::initializer_list<std::string_view> fragments) {
  if (error.kind != kind)
    return ::testing::AssertionFailure()
           << "kind is " << static_cast<int>(error.kind) << ", expected " << static_cast<int>(kind)
           << ": " << error.message;
  if (!IsOneLine(error.message))
    return ::testing::AssertionFailure() << "not one line without a period: " << error.message;
  for (const std::string_view fragment : fragments)
    if (error.message.find(fragment) == std::string::npos)
      return ::testing::AssertionFailure() << "no '" << fragment << "' in: " << error.message;
  return ::testing::AssertionSuccess();
}

namespace {

fs::path ModelsFolder() { return fs::path(CMLC_SOURCE_DIR).parent_path() / "shared" / "models"; }

std::vector<fs::path> FindModels(bool specs_only, const std::string& extension) {
  std::vector<fs::path> found;
  std::error_code code;
  for (const auto& folder : fs::directory_iterator(ModelsFolder(), code)) {
    if (!folder.is_directory()) continue;
    const bool is_specs = folder.path().filename() == "spec-only";
    if (is_specs != specs_only) continue;
    if (is_specs) {
      for (const auto& inner : fs::directory_iterator(folder.path()))
        for (const auto& entry : fs::directory_iterator(inner.path()))
          if (entry.path().extension() == extension) found.push_back(entry.path());
    } else {
      for (const auto& entry : fs::directory_iterator(folder.path()))
        if (entry.path().extension() == extension) found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

std::vector<fs::path> RealModels() { return FindModels(false, ".mlpackage"); }
std::vector<fs::path> RealSpecs() { return FindModels(true, ".mlpackage"); }
std::vector<fs::path> RealModelFiles() { return FindModels(false, ".mlmodel"); }

}  // namespace cmlc::test
