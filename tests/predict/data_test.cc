// Samples from every kind of file, and what of them a model's inputs take.
#include "predict/data.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/zip.h"
#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::predict {
namespace {

using test::BytesOf;
using test::Fails;
using test::Succeeds;
using test::TempDir;
using test::WriteFile;
namespace fs = std::filesystem;

std::string NpyBytes(DataType dtype, const Shape& shape, const std::string& elements) {
  return NpyHeader(NpyDescr(dtype), shape) + elements;
}

void Put(std::string& bytes, uint64_t value, size_t width) {
  for (size_t i = 0; i < width; ++i) {
    bytes += static_cast<char>(value & 0xff);
    value >>= 8;
  }
}

// A zip file by the format's own rules, deflated or stored, with zip64 records or not.
std::string ZipBytes(const std::vector<std::pair<std::string, std::string>>& entries, bool deflate,
                     bool zip64) {
  std::string bytes, directory;
  for (const auto& [name, content] : entries) {
    std::string stored = content;
    if (deflate) {
      z_stream stream = {};
      EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY), Z_OK);
      stored.resize(deflateBound(&stream, content.size()));
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
      stream.avail_in = static_cast<uInt>(content.size());
      stream.next_out = reinterpret_cast<Bytef*>(stored.data());
      stream.avail_out = static_cast<uInt>(stored.size());
      EXPECT_EQ(::deflate(&stream, Z_FINISH), Z_STREAM_END);
      stored.resize(stream.total_out);
      deflateEnd(&stream);
    }
    const auto crc = static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(content.data()),
                                                 static_cast<uInt>(content.size())));
    const uint64_t offset = bytes.size();
    const auto common = [&](std::string& out) {
      Put(out, 20, 2);
      Put(out, 0, 2);
      Put(out, deflate ? 8 : 0, 2);
      Put(out, 0, 4);
      Put(out, crc, 4);
      Put(out, zip64 ? 0xffffffff : stored.size(), 4);
      Put(out, zip64 ? 0xffffffff : content.size(), 4);
      Put(out, name.size(), 2);
    };
    Put(bytes, 0x04034b50, 4);
    common(bytes);
    Put(bytes, 0, 2);
    bytes += name + stored;
    Put(directory, 0x02014b50, 4);
    Put(directory, 20, 2);
    common(directory);
    Put(directory, zip64 ? 28 : 0, 2);
    Put(directory, 0, 10);
    Put(directory, zip64 ? 0xffffffff : offset, 4);
    directory += name;
    if (zip64) {
      Put(directory, 1, 2);
      Put(directory, 24, 2);
      Put(directory, content.size(), 8);
      Put(directory, stored.size(), 8);
      Put(directory, offset, 8);
    }
  }
  const uint64_t at = bytes.size();
  bytes += directory;
  if (zip64) {
    const uint64_t record = bytes.size();
    Put(bytes, 0x06064b50, 4);
    Put(bytes, 44, 8);
    Put(bytes, 0, 12);
    Put(bytes, entries.size(), 8);
    Put(bytes, entries.size(), 8);
    Put(bytes, directory.size(), 8);
    Put(bytes, at, 8);
    Put(bytes, 0x07064b50, 4);
    Put(bytes, 0, 4);
    Put(bytes, record, 8);
    Put(bytes, 1, 4);
  }
  Put(bytes, 0x06054b50, 4);
  Put(bytes, 0, 4);
  Put(bytes, zip64 ? 0xffff : entries.size(), 2);
  Put(bytes, zip64 ? 0xffff : entries.size(), 2);
  Put(bytes, zip64 ? 0xffffffff : directory.size(), 4);
  Put(bytes, zip64 ? 0xffffffff : at, 4);
  Put(bytes, 0, 2);
  return bytes;
}

InputSpec ArrayInput(const std::string& name, DataType dtype, const Shape& shape) {
  InputSpec input;
  input.name = name;
  input.dtype = dtype;
  input.rank = shape.size();
  input.feature.name = name;
  input.feature.kind = Feature::Kind::kArray;
  input.feature.dtype = dtype;
  input.feature.shape = shape;
  input.feature.type = NameOf(dtype) + " " + ToString(shape);
  return input;
}

InputSpec ImageInput(Feature::Colors colors, int64_t width, int64_t height) {
  InputSpec input;
  input.name = "image";
  input.dtype = DataType::kFloat32;
  input.rank = 4;
  input.feature.kind = Feature::Kind::kImage;
  input.feature.colors = colors;
  input.feature.size = {width, height};
  input.feature.type = "image";
  return input;
}

class Data : public ::testing::Test {
 protected:
  Data() {
    target_.place = "m.mlpackage";
    target_.function = "main";
    target_.inputs = {ArrayInput("x", DataType::kFloat32, {1, 2})};
  }
  std::string File(const std::string& name, const std::string& bytes) {
    WriteFile(dir_ / name, bytes);
    return (dir_ / name).string();
  }
  Result<std::vector<Sample>> Read(const DataOptions& options) {
    CMLC_ASSIGN_OR_RETURN(const auto reader, DataReader::Open(target_, options, diagnostics_));
    std::vector<Sample> samples;
    for (uint64_t i = 0; i < reader->sample_count(); ++i) {
      CMLC_ASSIGN_OR_RETURN(samples.emplace_back(), reader->Next());
    }
    return samples;
  }
  // All elements of an input, sample by sample, as the program gets them.
  std::vector<std::vector<float>> Values(const Result<std::vector<Sample>>& samples,
                                         const std::string& name = "x") {
    std::vector<std::vector<float>> all;
    if (!samples.ok()) {
      ADD_FAILURE() << samples.error().message;
      return all;
    }
    for (const Sample& sample : *samples)
      for (const Arrays& step : sample.steps) {
        const auto bound = BindAll(target_, step, sample.name, memory_);
        if (!bound.ok()) {
          ADD_FAILURE() << bound.error().message;
          return all;
        }
        const exec::Value& value = bound->at(name);
        all.emplace_back(value.element_count());
        EXPECT_TRUE(exec::ReadFloats(value, 0, all.back()).ok());
      }
    return all;
  }
  using Lists = std::vector<std::vector<float>>;

  TempDir dir_;
  Target target_;
  test::TestDiagnostics diagnostics_;
  exec::Memory memory_;
};

TEST_F(Data, ReadsAnArrayWithAndWithoutItsName) {
  const std::string file =
      File("a.npy", NpyBytes(DataType::kFloat32, {1, 2}, BytesOf<float>({3, 4})));
  EXPECT_EQ(Values(Read({.inputs = {file}})), (Lists{{3, 4}}));
  EXPECT_EQ(Values(Read({.inputs = {"x=" + file}})), (Lists{{3, 4}}));
  EXPECT_TRUE(Fails(Read({.inputs = {"z=" + file}}), ErrorKind::kUsage, {"no input 'z'", "'x'"}));
}

TEST_F(Data, TakesTheFirstAxisForSamplesWhenAsked) {
  const std::string file =
      File("a.npy", NpyBytes(DataType::kFloat64, {3, 2}, BytesOf<double>({1, 2, 3, 4, 5, 6})));
  EXPECT_EQ(Values(Read({.inputs = {file}, .batched = true})), (Lists{{1, 2}, {3, 4}, {5, 6}}));
  const auto samples = Read({.inputs = {file}});
  ASSERT_TRUE(Succeeds(samples));
  EXPECT_TRUE(Fails(BindAll(target_, (*samples)[0].steps[0], "a.npy", memory_),
                    ErrorKind::kBadInput, {"input 'x'", "[3, 2]", "fp32 [1, 2]", "--batched"}));
}

TEST_F(Data, ReadsSeveralFilesAsSamples) {
  const std::string a = File("a.npy", NpyBytes(DataType::kInt8, {1, 2}, BytesOf<int8_t>({-1, 2})));
  const std::string b = File("b.json", "[[0.5, \"inf\"]]");
  EXPECT_EQ(Values(Read({.inputs = {a, b}})),
            (Lists{{-1, 2}, {0.5f, std::numeric_limits<float>::infinity()}}));
}

TEST_F(Data, ReadsArchivesOfEveryForm) {
  target_.inputs.push_back(ArrayInput("y", DataType::kInt32, {2}));
  const std::string x = NpyBytes(DataType::kFloat32, {2, 2}, BytesOf<float>({1, 2, 3, 4}));
  const std::string y = NpyBytes(DataType::kInt64, {2, 2}, BytesOf<int64_t>({5, 6, 7, 8}));
  for (const bool deflate : {false, true})
    for (const bool zip64 : {false, true}) {
      const std::string file =
          File("a.npz", ZipBytes({{"x.npy", x}, {"y.npy", y}}, deflate, zip64));
      const auto samples = Read({.inputs = {file}, .batched = true});
      EXPECT_EQ(Values(samples, "x"), (Lists{{1, 2}, {3, 4}})) << deflate << zip64;
      EXPECT_EQ(Values(samples, "y"), (Lists{{5, 6}, {7, 8}})) << deflate << zip64;
    }
  const std::string file = File("b.npz", ZipBytes({{"z.npy", x}}, true, false));
  EXPECT_TRUE(Fails(Read({.inputs = {file}}), ErrorKind::kBadInput, {"array 'z'", "'x', 'y'"}));
}

TEST_F(Data, ChecksTheSumsOfArchives) {
  const std::string x = NpyBytes(DataType::kFloat32, {1, 2}, BytesOf<float>({1.2345f, 2.3456f}));
  std::string bytes = ZipBytes({{"x.npy", x}}, false, false);
  bytes[30 + 5 + x.size() - 1] ^= 1;
  EXPECT_TRUE(Fails(Read({.inputs = {File("a.npz", bytes)}}), ErrorKind::kBadInput,
                    {"'x.npy'", "checksum"}));
}

TEST_F(Data, ReadsItsOwnArchives) {
  auto zip = ZipWriter::Create(dir_ / "own.npz");
  ASSERT_TRUE(Succeeds(zip));
  for (const char* name : {"x.npy", "deep/er.npy"}) {
    const std::string bytes = NpyBytes(DataType::kFloat32, {1, 2}, BytesOf<float>({1, 2}));
    ASSERT_TRUE(Succeeds(zip->Begin(name, bytes.size())));
    ASSERT_TRUE(Succeeds(zip->Append(bytes)));
  }
  ASSERT_TRUE(Succeeds(zip->Finish()));
  const auto reader = ZipReader::Open(dir_ / "own.npz");
  ASSERT_TRUE(Succeeds(reader));
  ASSERT_EQ(reader->entries().size(), 2u);
  EXPECT_EQ(reader->entries()[1].name, "deep/er.npy");
  EXPECT_EQ(Values(Read({.inputs = {"x=" + (dir_ / "own.npz").string()}})), (Lists{{1, 2}}));
}

TEST_F(Data, ReadsRawElements) {
  const std::string file = File("a.bin", BytesOf<int16_t>({1, -2, 3, -4}));
  EXPECT_EQ(Values(Read({.inputs = {file}, .raw = {"x=i16:1x2"}, .batched = true})),
            (Lists{{1, -2}, {3, -4}}));
  EXPECT_TRUE(Fails(Read({.inputs = {file}, .raw = {"i16:1x2"}}), ErrorKind::kBadInput,
                    {"8 bytes", "expected 4"}));
  EXPECT_TRUE(Fails(Read({.inputs = {file}}), ErrorKind::kUsage, {"unknown form", "--raw"}));
  for (const char* raw : {"x", "x=f32", "x=f32:", "x=f9:1", "x=f32:1x", "x=f32:0", "x=f32:-1"})
    EXPECT_TRUE(Fails(Read({.inputs = {file}, .raw = {raw}}), ErrorKind::kUsage, {"--raw"})) << raw;
}

TEST_F(Data, ReadsJsonSamplesAndLines) {
  EXPECT_EQ(Values(Read({.inputs = {File("a.json", R"([{"x": [[1, 2]]}, {"x": [[3, 4]]}])")}})),
            (Lists{{1, 2}, {3, 4}}));
  EXPECT_EQ(Values(Read({.inputs = {File("a.jsonl", "{\"x\": [[1, 2]]}\n\n{\"x\": [[3, 4]]}")}})),
            (Lists{{1, 2}, {3, 4}}));
  const auto bad = [&](const std::string& text, std::string_view what) {
    EXPECT_TRUE(
        Fails(Read({.inputs = {File("b.json", text)}}), ErrorKind::kBadInput, {"b.json", what}))
        << text;
  };
  bad("{\"x\": [[1, 2], [3]]}", "lists of 2 and of 1");
  bad("{\"x\": [1, [2]]}", "no common depth");
  bad("{\"x\": [[]  , 1]}", "no common depth");
  bad("{\"x\": [\"one\"]}", "string where a number");
  bad("{\"q\": [1]}", "array 'q'");
  bad("{\"x\": ", "not valid JSON");
  bad(std::string(100000, '['), "nests too deeply");
}

TEST_F(Data, ReadsStepsOfSequences) {
  const std::string list = R"([{"x": [[1, 2]]}, {"x": [[3, 4]]}])";
  target_.has_states = true;
  auto samples = Read({.inputs = {File("a.json", list)}});
  ASSERT_TRUE(Succeeds(samples));
  ASSERT_EQ(samples->size(), 1u);
  EXPECT_EQ((*samples)[0].steps.size(), 2u);
  samples = Read({.inputs = {File("a.json", "[" + list + ", " + list + "]")}});
  ASSERT_TRUE(Succeeds(samples));
  ASSERT_EQ(samples->size(), 2u);
  EXPECT_EQ((*samples)[1].steps.size(), 2u);
  EXPECT_FALSE((*samples)[1].continues);
  samples = Read(
      {.inputs = {File("a.jsonl", "{\"x\": [[1, 2]]}\n{\"x\": [[3, 4]]}\n")}, .sequence = true});
  ASSERT_TRUE(Succeeds(samples));
  EXPECT_FALSE((*samples)[0].continues);
  EXPECT_TRUE((*samples)[1].continues);
  target_.has_states = false;
  EXPECT_TRUE(Fails(Read({.inputs = {File("a.json", "[" + list + "]")}}), ErrorKind::kBadInput,
                    {"2 steps", "no states"}));
}

TEST_F(Data, ChecksIntegersAndTypes) {
  target_.inputs = {ArrayInput("x", DataType::kInt32, {1})};
  const auto bind = [&](DataType dtype, const std::string& bytes) {
    return Bind(target_.inputs[0], {dtype, {1}, bytes}, "a.npy", memory_);
  };
  EXPECT_TRUE(Succeeds(bind(DataType::kInt64, BytesOf<int64_t>({INT32_MAX}))));
  EXPECT_TRUE(Fails(bind(DataType::kInt64, BytesOf<int64_t>({int64_t{1} << 31})),
                    ErrorKind::kBadInput, {"element 0 is 2147483648", "int32 cannot hold"}));
  EXPECT_TRUE(Fails(bind(DataType::kUInt64, BytesOf<uint64_t>({~uint64_t{0}})),
                    ErrorKind::kBadInput, {"cannot hold"}));
  EXPECT_TRUE(Fails(bind(DataType::kFloat32, BytesOf<float>({1})), ErrorKind::kBadInput,
                    {"holds fp32, expected int32"}));
}

TEST_F(Data, RoundsToHalvesOnce) {
  target_.inputs = {ArrayInput("x", DataType::kFloat16, {1})};
  // Just above the middle between 1 and the next half: by way of fp32 it would become the middle.
  const double number = 1 + 0x1p-11 + 0x1p-40;
  const auto value =
      Bind(target_.inputs[0], {DataType::kFloat64, {1}, BytesOf<double>({number})}, "a", memory_);
  ASSERT_TRUE(Succeeds(value));
  EXPECT_EQ(value->As<uint16_t>()[0], 0x3c01);
}

TEST_F(Data, ChecksRangesAndEnumeratedShapes) {
  InputSpec input = ArrayInput("x", DataType::kFloat32, {1, 2});
  const auto takes = [&](const Shape& shape) {
    const std::string bytes(static_cast<size_t>(*ElementCount(shape)) * 4, '\0');
    return Bind(input, {DataType::kFloat32, shape, bytes}, "a", memory_).ok();
  };
  EXPECT_TRUE(takes({1, 2}));
  EXPECT_FALSE(takes({2, 1}));
  input.feature.shapes = {{1, 2}, {1, 5}};
  EXPECT_TRUE(takes({1, 5}));
  EXPECT_FALSE(takes({1, 4}));
  input.feature.shapes.clear();
  input.feature.ranges = {{1, 1}, {2, -1}};
  EXPECT_TRUE(takes({1, 99}));
  EXPECT_FALSE(takes({1, 1}));
  EXPECT_FALSE(takes({2, 2}));
}

TEST_F(Data, FillsInDefaults) {
  target_.inputs.push_back(ArrayInput("y", DataType::kFloat16, {2}));
  EXPECT_TRUE(Fails(BindAll(target_, {}, "a", memory_), ErrorKind::kUsage, {"'x'", "missing"}));
  for (InputSpec& input : target_.inputs) input.feature.optional = true;
  EXPECT_TRUE(Fails(BindAll(target_, {}, "a", memory_), ErrorKind::kUsage, {"no default"}));
  target_.inputs[0].feature.default_value = 3;
  target_.inputs[1].feature.default_value = 0.25;
  EXPECT_EQ(Values(Read({}), "x"), (Lists{{3, 3}}));
  EXPECT_EQ(Values(Read({}), "y"), (Lists{{0.25f, 0.25f}}));
}

TEST_F(Data, MakesTheSameRandomNumbersEachTime) {
  target_.inputs.push_back(ImageInput(Feature::Colors::kRgb, 9, 5));
  Program program;
  program.functions["main"];
  target_.program = &program;
  const DataOptions options = {.random_samples = 3, .seed = 7};
  const auto values = Values(Read(options));
  EXPECT_EQ(values, Values(Read(options)));
  ASSERT_EQ(values.size(), 3u);
  EXPECT_NE(values[0], values[1]);
  EXPECT_NE(values, Values(Read({.random_samples = 3, .seed = 8})));
  const auto pixels = Values(Read(options), "image");
  EXPECT_EQ(pixels[0].size(), 135u);
  for (const float pixel : pixels[0]) EXPECT_TRUE(pixel >= 0 && pixel <= 255);
  target_.inputs = {ArrayInput("x", DataType::kFloat32, {100, 1000})};
  double sum = 0, squares = 0;
  const auto many = Values(Read({.random_samples = 1}))[0];
  for (const float value : many) {
    sum += static_cast<double>(value);
    squares += static_cast<double>(value * value);
  }
  EXPECT_NEAR(sum / 1e5, 0, 0.02);
  EXPECT_NEAR(squares / 1e5, 1, 0.02);
}

TEST_F(Data, GivesImagesAsPlanesOfPixels) {
  const auto images =
      nlohmann::json::parse(test::ReadFile(CMLC_SOURCE_DIR "/tests/predict/images.json"));
  const auto& rgb = images["files"][0];
  const std::vector<float> pixels = rgb["pixels"];
  const std::string folder = (dir_ / "images").string();
  const std::string bytes = test::FromHex(rgb["hex"].get<std::string>());
  WriteFile(folder + "/b.png", bytes);
  WriteFile(folder + "/a.PNG", bytes);
  WriteFile(folder + "/notes.txt", "");
  target_.inputs = {ImageInput(Feature::Colors::kRgb, 18, 13)};
  const auto samples = Read({.inputs = {folder}});
  ASSERT_TRUE(Succeeds(samples));
  ASSERT_EQ(samples->size(), 2u);
  EXPECT_TRUE((*samples)[0].name.ends_with("a.PNG"));
  EXPECT_EQ(diagnostics_.notes.size(), 1u);
  const std::vector<float> red = Values(samples, "image")[0];
  target_.inputs = {ImageInput(Feature::Colors::kBgr, 18, 13)};
  const std::vector<float> blue = Values(Read({.inputs = {folder}}), "image")[0];
  ASSERT_EQ(red.size(), pixels.size());
  for (size_t c = 0; c < 3; ++c)
    for (size_t i = 0; i < 18 * 13; ++i) {
      EXPECT_EQ(red[c * 18 * 13 + i], pixels[3 * i + c]);
      EXPECT_EQ(blue[(2 - c) * 18 * 13 + i], pixels[3 * i + c]);
    }
  target_.inputs = {ImageInput(Feature::Colors::kGray, 6, 4)};
  EXPECT_TRUE(Fails(Read({.inputs = {folder}}), ErrorKind::kBadInput, {"18x13", "--resize"}));
  EXPECT_EQ(Values(Read({.inputs = {folder}, .resize = Resize::kPad}), "image")[0].size(), 24u);
  target_.inputs = {ArrayInput("x", DataType::kFloat32, {1, 3, 13, 18})};
  EXPECT_TRUE(Fails(Read({.inputs = {folder}}), ErrorKind::kUsage, {"no image"}));
}

// Bytes of every kind of file, damaged: samples, or one line and bad input.
TEST_F(Data, DamageIsOneLine) {
  target_.has_states = true;
  const std::string npy = NpyBytes(DataType::kFloat32, {2, 2}, BytesOf<float>({1, 2, 3, 4}));
  const std::vector<std::pair<std::string, std::string>> files = {
      {"a.npy", npy},
      {"a.npz", ZipBytes({{"x.npy", npy}}, false, false)},
      {"b.npz", ZipBytes({{"x.npy", npy}}, true, false)},
      {"c.npz", ZipBytes({{"x.npy", npy}}, true, true)},
      {"a.json", R"([[{"x": [[1, 2.5]]}, {"x": [[-3, "nan"]]}]])"},
      {"a.jsonl", "{\"x\": [[1, 2]]}\n[{\"x\": [[3, 4e5]]}]\n"}};
  std::mt19937_64 random(1);
  size_t failures = 0, successes = 0;
  for (const auto& [name, whole] : files)
    for (int i = 0; i < 400; ++i) {
      std::string bytes = whole;
      const uint64_t kind = random() % 4;
      if (kind == 0) bytes.resize(random() % bytes.size());
      for (uint64_t k = 0; kind != 0 && k < kind; ++k)
        bytes[random() % bytes.size()] =
            kind == 1 ? static_cast<char>(random()) : "0919-,[]{}\"()\xff"[random() % 14];
      const auto samples = Read({.inputs = {"x=" + File(name, bytes)}, .batched = i % 2 == 0});
      if (samples.ok()) {
        ++successes;
        for (const Sample& sample : *samples)
          for (const Arrays& step : sample.steps)
            for (const auto& [input, array] : step)
              EXPECT_TRUE(array.bytes.empty() ||
                          array.bytes.size() % *ElementCount(array.shape) == 0);
        continue;
      }
      ++failures;
      EXPECT_TRUE(samples.error().kind == ErrorKind::kBadInput ||
                  samples.error().message.find("--input") != std::string::npos)
          << samples.error().message;
      EXPECT_TRUE(test::IsOneLine(samples.error().message)) << samples.error().message;
    }
  EXPECT_GT(failures, 1000u);
  EXPECT_GT(successes, 10u);
}

}  // namespace
}  // namespace cmlc::predict
