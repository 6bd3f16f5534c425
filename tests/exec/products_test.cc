// Convolutions and products against plain loops in double over many geometries, and the promise
// that neither the number of threads nor the form of a weight changes a bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "cmlc/package.h"
#include "exec/executable.h"
#include "exec/isa/kernels.h"
#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

constexpr DataType kFloat = DataType::kFloat32;

std::vector<int8_t> Codes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int8_t> codes(count);
  for (int8_t& code : codes) code = static_cast<int8_t>(random() >> 24);
  return codes;
}

std::vector<float> Values(const std::vector<int8_t>& codes) {
  std::vector<float> values;
  for (const int8_t code : codes) values.push_back(static_cast<float>(code) / 64);
  return values;
}

size_t Count(const Shape& shape) { return static_cast<size_t>(*ElementCount(shape)); }

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

struct Case {
  std::string op, x = "x", weight = "weight";
  Shape x_shape, weight_shape, out_shape;
  Inputs more;
};

// Output of the op with the weight stored as fp32, or as int8 codes behind a constexpr.
std::vector<float> Compute(const Case& one, bool compressed, int threads) {
  PackageBuilder package(7);
  BlockBuilder main = package.Function("main");
  package.FunctionInput("main", "x", TensorType(kFloat, one.x_shape));
  const std::vector<int8_t> codes = Codes(Count(one.weight_shape), 1);
  if (compressed)
    main.Op("constexpr_affine_dequantize", "w", {}, TensorType(kFloat, one.weight_shape),
            {{"quantized_data", main.Blob(DataType::kInt8, one.weight_shape, BytesOf(codes))},
             {"zero_point", BytesValue(DataType::kInt8, {}, std::string(1, '\0'))},
             {"scale", FloatsValue({}, {1.0f / 64})},
             {"axis", Int32Value(0)}});
  else
    main.BlobConst("w", kFloat, one.weight_shape, BytesOf(Values(codes)));
  Inputs inputs = {{one.x, "x"}, {one.weight, "w"}};
  inputs.insert(inputs.end(), one.more.begin(), one.more.end());
  main.Op(one.op, "y", inputs, TensorType(kFloat, one.out_shape));
  main.Output("y");
  const TempDir folder(FolderInMemory());
  const auto opened = Package::Open(package.Write(folder / "op.mlpackage"));
  EXPECT_TRUE(Succeeds(opened));
  const auto executable = exec::Executable::Prepare(*(*opened)->model().program, "main",
                                                    (*opened)->tensors(), "op.mlpackage");
  EXPECT_TRUE(Succeeds(executable));
  if (!executable.ok()) return {};
  ThreadPool pool(threads);
  exec::Runner runner(**executable, pool);
  Result<exec::Value> x = exec::MakeTensor(kFloat, one.x_shape, runner.memory());
  EXPECT_TRUE(Succeeds(x));
  const std::string bytes = BytesOf(Values(Codes(Count(one.x_shape), 2)));
  std::memcpy(x->storage->data(), bytes.data(), bytes.size());
  const auto outputs = runner.Run({{"x", *x}});
  EXPECT_TRUE(Succeeds(outputs));
  if (!outputs.ok()) return {};
  std::vector<float> y(Count(one.out_shape));
  EXPECT_TRUE(Succeeds(exec::ReadFloats((*outputs)[0], 0, y)));
  return y;
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  const auto conv = [&](Shape x, Shape weight, Shape out, int32_t groups) {
    cases.push_back({"conv",
                     "x",
                     "weight",
                     std::move(x),
                     std::move(weight),
                     std::move(out),
                     {{"pad_type", StringValue("same")},
                      {"strides", Int32sValue({1, 1})},
                      {"groups", Int32Value(groups)}}});
  };
  conv({1, 64, 40, 41}, {72, 64, 3, 3}, {1, 72, 40, 41}, 1);      // several bands
  conv({1, 160, 7, 7}, {480, 160, 3, 3}, {1, 480, 7, 7}, 1);      // one band, blocks of rows
  conv({2, 256, 7, 7}, {520, 256, 3, 3}, {2, 520, 7, 7}, 1);      // more than one block, samples
  conv({1, 512, 14, 14}, {600, 512, 1, 1}, {1, 600, 14, 14}, 1);  // the image is the matrix
  conv({2, 96, 9, 8}, {192, 24, 3, 2}, {2, 192, 9, 8}, 4);        // groups
  conv({2, 70, 30, 31}, {70, 1, 3, 3}, {2, 70, 30, 31}, 70);      // depthwise
  cases.push_back({"conv_transpose",
                   "x",
                   "weight",
                   {1, 192, 14, 13},
                   {192, 96, 4, 4},
                   {1, 96, 28, 26},
                   {{"pad_type", StringValue("same")}, {"strides", Int32sValue({2, 2})}}});
  cases.push_back({"linear", "x", "weight", {1, 37, 700}, {1300, 700}, {1, 37, 1300}, {}});
  cases.push_back({"linear", "x", "weight", {1, 1500}, {900, 1500}, {1, 900}, {}});
  cases.push_back({"matmul", "x", "y", {3, 20, 600}, {600, 1100}, {3, 20, 1100}, {}});
  cases.push_back({"matmul",
                   "x",
                   "y",
                   {2, 20, 600},
                   {2, 1100, 600},
                   {2, 20, 1100},
                   {{"transpose_y", BoolValue(true)}}});
  cases.push_back({"matmul", "y", "x", {700, 50}, {900, 700}, {900, 50}, {}});
  cases.push_back(
      {"matmul", "y", "x", {700, 50}, {700, 900}, {900, 50}, {{"transpose_x", BoolValue(true)}}});
  return cases;
}

TEST(ExecProducts, NeitherThreadsNorTheFormOfAWeightChangeABit) {
  for (const exec::IsaKernels* level : exec::SupportedKernels()) {
    exec::PinKernels(level->name);
    for (const Case& one : Cases()) {
      SCOPED_TRACE(one.op + " " + ToString(one.x_shape) + " " + ToString(one.weight_shape) + " " +
                   level->name);
      const std::vector<float> expected = Compute(one, false, 1);
      ASSERT_FALSE(expected.empty());
      EXPECT_EQ(Compute(one, false, 3), expected);
      EXPECT_EQ(Compute(one, true, 1), expected);
      EXPECT_EQ(Compute(one, true, 5), expected);
    }
  }
}

// The plain seven loops, for two spatial dimensions.
TEST(ExecProducts, ConvIsItsDefinitionOverManyGeometries) {
  std::mt19937 random(3);
  const auto number = [&](int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random() % static_cast<uint32_t>(most - least + 1));
  };
  for (int round = 0; round < 60; ++round) {
    const int64_t groups = number(1, 3), ci = number(1, round % 4 == 0 ? 40 : 4), co = number(1, 5),
                  n = number(1, 2);
    int64_t size[2], kernel[2], stride[2], dilation[2], pad[4], out[2];
    for (int d = 0; d < 2; ++d) {
      kernel[d] = number(1, 4);
      stride[d] = number(1, 3);
      dilation[d] = number(1, 2);
      pad[2 * d] = number(0, 3);
      pad[2 * d + 1] = number(0, 3);
      size[d] = (kernel[d] - 1) * dilation[d] + number(1, round % 5 == 0 ? 45 : 12);
      out[d] =
          (size[d] + pad[2 * d] + pad[2 * d + 1] - (kernel[d] - 1) * dilation[d] - 1) / stride[d] +
          1;
    }
    const auto narrow = [](std::initializer_list<int64_t> values) {
      return Int32sValue(std::vector<int32_t>(values.begin(), values.end()));
    };
    const Case one = {"conv",
                      "x",
                      "weight",
                      {n, groups * ci, size[0], size[1]},
                      {groups * co, ci, kernel[0], kernel[1]},
                      {n, groups * co, out[0], out[1]},
                      {{"pad_type", StringValue("custom")},
                       {"pad", narrow({pad[0], pad[1], pad[2], pad[3]})},
                       {"strides", narrow({stride[0], stride[1]})},
                       {"dilations", narrow({dilation[0], dilation[1]})},
                       {"groups", Int32Value(static_cast<int32_t>(groups))}}};
    SCOPED_TRACE(ToString(one.x_shape) + " " + ToString(one.weight_shape) + " " +
                 ToString(one.out_shape));
    const std::vector<float> got = Compute(one, false, 2);
    ASSERT_EQ(got.size(), Count(one.out_shape));
    const std::vector<float> x = Values(Codes(Count(one.x_shape), 2)),
                             w = Values(Codes(Count(one.weight_shape), 1));
    size_t at = 0;
    for (int64_t sample = 0; sample < n; ++sample)
      for (int64_t c = 0; c < groups * co; ++c)
        for (int64_t oy = 0; oy < out[0]; ++oy)
          for (int64_t ox = 0; ox < out[1]; ++ox, ++at) {
            double sum = 0;
            for (int64_t i = 0; i < ci; ++i)
              for (int64_t ky = 0; ky < kernel[0]; ++ky)
                for (int64_t kx = 0; kx < kernel[1]; ++kx) {
                  const int64_t y = oy * stride[0] - pad[0] + ky * dilation[0];
                  const int64_t z = ox * stride[1] - pad[2] + kx * dilation[1];
                  if (y < 0 || y >= size[0] || z < 0 || z >= size[1]) continue;
                  const int64_t channel = sample * groups * ci + c / co * ci + i;
                  sum +=
                      static_cast<double>(
                          x[static_cast<size_t>((channel * size[0] + y) * size[1] + z)]) *
                      static_cast<double>(
                          w[static_cast<size_t>(((c * ci + i) * kernel[0] + ky) * kernel[1] + kx)]);
                }
            // Codes of 8 bits: all products and sums here are exact in fp32.
            ASSERT_EQ(got[at], static_cast<float>(sum)) << at;
          }
  }
}

}  // namespace
}  // namespace cmlc::test
