// Entry points for libFuzzer (clang, -DCMLC_FUZZ=ON): one program for each file of a package. The
// input takes the place of that file in a small package that is otherwise whole.
//
//   mkdir corpus
//   build/fuzz/tests/fuzz_model corpus -max_len=65536
//
// On the first run the whole file goes into the corpus by itself.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "support/exercise.h"
#include "support/model_compare.h"
#include "support/package_builder.h"
#include "support/test_util.h"

namespace {

using cmlc::DataType;
namespace fs = std::filesystem;

struct Ground {
  Ground() {
    package = cmlc::test::OneLinear(DataType::kFloat16, 16, 24).Write(dir / "in.mlpackage");
#if defined(CMLC_FUZZ_MANIFEST)
    file = package / "Manifest.json";
#elif defined(CMLC_FUZZ_MODEL)
    file = cmlc::test::ModelFile(package);
#elif defined(CMLC_FUZZ_WEIGHTS)
    file = cmlc::test::ModelFile(package).parent_path() / "weights" / "weight.bin";
#else
#error "one of CMLC_FUZZ_MANIFEST, CMLC_FUZZ_MODEL and CMLC_FUZZ_WEIGHTS"
#endif
    whole = cmlc::test::ReadFile(file);
  }
  cmlc::test::TempDir dir{cmlc::test::FolderInMemory()};
  fs::path package;
  fs::path file;
  std::string whole;
};

Ground& TheGround() {
  static Ground ground;
  return ground;
}

}  // namespace

// Inputs start from nothing but the whole file.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned) {
  const std::string& whole = TheGround().whole;
  if (size <= 1 && whole.size() <= most) {
    whole.copy(reinterpret_cast<char*>(data), whole.size());
    size = whole.size();
  }
  return LLVMFuzzerMutate(data, size, most);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Ground& ground = TheGround();
  cmlc::test::WriteFile(ground.file, std::string(reinterpret_cast<const char*>(data), size));
  const cmlc::test::Exercise result =
      cmlc::test::ExercisePackage(ground.package, ground.dir / "out.mlpackage", 1);
  if (!result.broken.empty()) {
    std::fprintf(stderr, "%s\n", result.broken.c_str());
    std::abort();
  }
  return 0;
}
