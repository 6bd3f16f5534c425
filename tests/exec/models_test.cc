// Real models, where the folder of them lies beside the source: every ML Program runs, gives the
// same bits however it is run, and the same bits with its weights compressed as with the values
// that they stand for.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "cmlc/package.h"
#include "cmlc/pipeline.h"
#include "exec/executable.h"
#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

using Arguments = std::map<std::string, exec::Value>;

// "silero-vad" for .../silero-vad/silero-vad-unified-v6.0.0.mlpackage
std::string NameOf(const fs::path& package) { return package.parent_path().filename().string(); }

// The sizes of inputs that may have several.
Shape InputShape(const std::string& model, const NamedValueType& input) {
  if (model == "espcn-keras") return {1, 64, 48, 1};
  if (model == "face-detect-short") return {1, 3, 128, 128};
  Shape shape;
  for (const Dimension& dimension : input.type->tensor.dimensions)
    shape.push_back(
        dimension.kind == Dimension::Kind::kConstant ? static_cast<int64_t>(dimension.size) : 1);
  return shape;
}

bool OneOf(const std::string& name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Pixels from 0 to 255, sound from -0.5 to 0.5, other things from 0 to 1; the same for every form
// of a model.
exec::Value InputValue(const std::string& model, const NamedValueType& input, uint64_t seed) {
  const Shape shape = InputShape(model, input);
  std::vector<float> numbers(*ElementCount(shape));
  const std::vector<uint8_t> codes = RandomCodes(numbers.size(), seed, 256);
  const bool pixels = input.name == "image" || model.starts_with("face-");
  const bool sound = OneOf(input.name, {"input_2", "audio_input", "estimated_frame", "lpb_time"});
  for (size_t i = 0; i < numbers.size(); ++i)
    numbers[i] = static_cast<float>(codes[i]) / (pixels ? 1.0F : 255.0F) - (sound ? 0.5F : 0.0F);
  exec::Memory memory;
  exec::Value value = *exec::MakeTensor(input.type->tensor.dtype, shape, memory);
  const std::string bytes = FloatBytes(value.dtype, numbers);
  std::memcpy(value.storage->data(), bytes.data(), bytes.size());
  return value;
}

// Keeps every value that is made, so that no op can work in place.
class KeepsAll final : public exec::Observer {
 public:
  bool Wants(const Operation&) const override { return true; }
  void After(const Operation&, std::span<const exec::Value> outputs) override {
    kept_.insert(kept_.end(), outputs.begin(), outputs.end());
  }

 private:
  std::vector<exec::Value> kept_;
};

struct Outcome {
  std::vector<std::string> names;
  std::vector<exec::Value> outputs;
  uint64_t peak_bytes = 0;
  double seconds = 0;
};

// Runs the function "main" of every ML Program in a package (a pipeline may have several).
Result<std::vector<Outcome>> RunModel(const fs::path& path, const std::string& model, int threads,
                                      exec::Observer* observer = nullptr) {
  CMLC_ASSIGN_OR_RETURN(std::unique_ptr<Package> package, Package::Open(path));
  std::vector<Program*> programs;
  if (package->model().program) programs.push_back(&*package->model().program);
  for (Model& member : package->model().members)
    if (member.program) programs.push_back(&*member.program);
  std::vector<Outcome> outcomes;
  for (Program* program : programs) {
    CMLC_ASSIGN_OR_RETURN(const std::unique_ptr<exec::Executable> executable,
                          exec::Executable::Prepare(*program, "main", package->tensors(),
                                                    path.filename().string(), observer));
    Arguments arguments;
    for (const NamedValueType& input : executable->inputs())
      arguments.emplace(input.name, InputValue(model, input, arguments.size() + 1));
    ThreadPool pool(threads);
    exec::Runner runner(*executable, pool);
    Outcome& outcome = outcomes.emplace_back();
    const auto start = std::chrono::steady_clock::now();
    CMLC_ASSIGN_OR_RETURN(outcome.outputs, runner.Run(std::move(arguments)));
    outcome.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    outcome.names = executable->outputs();
    outcome.peak_bytes = runner.memory().peak_bytes();
  }
  return outcomes;
}

std::vector<float> NumbersOf(const exec::Value& value) {
  std::vector<float> numbers(static_cast<size_t>(value.element_count()));
  EXPECT_TRUE(Succeeds(exec::ReadFloats(value, 0, numbers)));
  return numbers;
}

void ExpectSameBits(const std::vector<Outcome>& a, const std::vector<Outcome>& b,
                    const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].outputs.size(), b[i].outputs.size()) << what;
    for (size_t o = 0; o < a[i].outputs.size(); ++o) {
      EXPECT_EQ(a[i].outputs[o].shape, b[i].outputs[o].shape) << what;
      const std::vector<float> left = NumbersOf(a[i].outputs[o]),
                               right = NumbersOf(b[i].outputs[o]);
      ASSERT_EQ(left.size(), right.size());
      EXPECT_EQ(std::memcmp(left.data(), right.data(), left.size() * sizeof(float)), 0)
          << what << ": output '" << a[i].names[o] << "' differs";
    }
  }
}

// Complete packages with an ML Program in them.
std::vector<fs::path> Programs() {
  std::vector<fs::path> found;
  for (const fs::path& path : RealModels())
    if (NameOf(path) != "face-mesh-nn-package") found.push_back(path);
  return found;
}

class RealPrograms : public ::testing::TestWithParam<fs::path> {
 protected:
  std::string model() const { return NameOf(GetParam()); }
};

TEST_P(RealPrograms, Run) {
  const Result<std::vector<Outcome>> outcomes = RunModel(GetParam(), model(), 2);
  ASSERT_TRUE(Succeeds(outcomes));
  ASSERT_EQ(outcomes->size(), 1u);
  for (const Outcome& outcome : *outcomes) {
    std::printf("%s: %.3f s, values took %.2f MB at most\n", model().c_str(), outcome.seconds,
                static_cast<double>(outcome.peak_bytes) / 1e6);
    ASSERT_EQ(outcome.outputs.size(), outcome.names.size());
    for (size_t i = 0; i < outcome.outputs.size(); ++i) {
      const std::vector<float> numbers = NumbersOf(outcome.outputs[i]);
      ASSERT_FALSE(numbers.empty());
      EXPECT_TRUE(std::all_of(numbers.begin(), numbers.end(),
                              [](float number) { return std::isfinite(number); }));
      const auto [least, most] = std::minmax_element(numbers.begin(), numbers.end());
      std::printf("  %s: %s from %g to %g\n", outcome.names[i].c_str(),
                  ToString(outcome.outputs[i]).c_str(), *least, *most);
      // A net that is fed noise still answers with more than one number.
      if (numbers.size() > 1) {
        EXPECT_LT(*least, *most);
      }
    }
  }
}

TEST_P(RealPrograms, GiveTheSameBitsForAnyNumberOfThreads) {
  const Result<std::vector<Outcome>> one = RunModel(GetParam(), model(), 1);
  const Result<std::vector<Outcome>> three = RunModel(GetParam(), model(), 3);
  ASSERT_TRUE(Succeeds(one));
  ASSERT_TRUE(Succeeds(three));
  ExpectSameBits(*one, *three, model());
}

TEST_P(RealPrograms, GiveTheSameBitsWhenAllValuesAreKept) {
  KeepsAll observer;
  const Result<std::vector<Outcome>> plain = RunModel(GetParam(), model(), 2);
  const Result<std::vector<Outcome>> observed = RunModel(GetParam(), model(), 2, &observer);
  ASSERT_TRUE(Succeeds(plain));
  ASSERT_TRUE(Succeeds(observed));
  ExpectSameBits(*plain, *observed, model());
}

TEST_P(RealPrograms, GiveTheSameBitsCompressedAndDecompressed) {
  struct Form {
    const char* name;
    std::vector<PassSpec> passes;  // to get to it; none: as it is
  };
  const auto pass = [](const std::string& name, const OptionValues& options) {
    PassSpec spec;
    spec.pass = name;
    spec.options = options;
    return spec;
  };
  const std::vector<Form> forms = {
      {"as it is", {}},
      {"palettized", {pass("palettize", {{"nbits", "4"}})}},
#ifndef CMLC_SANITIZED  // they take long enough with two
      {"quantized", {pass("quantize", {})}},
      {"pruned", {pass("prune", {{"target_sparsity", "0.5"}})}},
#endif
  };
  for (const Form& form : forms) {
    SCOPED_TRACE(form.name);
    const TempDir folder(FolderInMemory());
    TestDiagnostics diagnostics;
    fs::path compressed = GetParam();
    if (!form.passes.empty()) {
      compressed = folder / "compressed.mlpackage";
      RunOptions options;
      options.input = GetParam();
      options.output = compressed;
      ASSERT_TRUE(Succeeds(RunAll(form.passes, options, diagnostics)));
    }
    RunOptions options;
    options.input = compressed;
    options.output = folder / "decompressed.mlpackage";
    ASSERT_TRUE(Succeeds(cmlc::Run(pass("decompress", {}), options, diagnostics)));
    const Result<std::vector<Outcome>> a = RunModel(compressed, model(), 2);
    const Result<std::vector<Outcome>> b = RunModel(options.output, model(), 2);
    ASSERT_TRUE(Succeeds(a));
    ASSERT_TRUE(Succeeds(b));
    ExpectSameBits(*a, *b, model());
  }
}

// A net and what compression makes of it must not be far apart: all forms of one published net.
TEST(RealModelOutputs, SileroVadAndItsCompressedFormsAgree) {
  std::map<std::string, std::vector<float>> states;
  for (const fs::path& path : Programs()) {
    if (!NameOf(path).starts_with("silero-vad")) continue;
    const Result<std::vector<Outcome>> outcomes = RunModel(path, NameOf(path), 2);
    ASSERT_TRUE(Succeeds(outcomes));
    std::vector<float>& all = states[NameOf(path)];
    for (size_t i : {1, 2}) {
      const std::vector<float> numbers = NumbersOf(outcomes->at(0).outputs.at(i));
      all.insert(all.end(), numbers.begin(), numbers.end());
    }
  }
  if (states.empty()) GTEST_SKIP() << "no models beside the source";
  const std::vector<float>& original = states.at("silero-vad");
  for (const auto& [name, values] : states) {
    double signal = 0, noise = 0;
    for (size_t i = 0; i < original.size(); ++i) {
      signal += std::pow(original[i], 2);
      noise += std::pow(original[i] - values[i], 2);
    }
    const double snr = noise == 0 ? INFINITY : 10 * std::log10(signal / noise);
    std::printf("%s: %.1f dB from the original\n", name.c_str(), snr);
    EXPECT_GT(snr, name == "silero-vad-palette4" ? 6 : 20) << name;
  }
}

TEST(RealModelOutputs, LieBesideTheSource) {
  if (Programs().empty()) GTEST_SKIP() << "no models beside the source";
  EXPECT_EQ(Programs().size(), 12u);
}

INSTANTIATE_TEST_SUITE_P(All, RealPrograms, ::testing::ValuesIn(Programs()), [](const auto& one) {
  std::string name = NameOf(one.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(RealPrograms);

}  // namespace
}  // namespace cmlc::test
