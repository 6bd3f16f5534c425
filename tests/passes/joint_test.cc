// Joint compression: a second pass over weights that a first one has compressed. Every chain that
// comes out is decoded by hand, element by element.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "numeric/half.h"
#include "numeric/kmeans1d.h"
#include "support/pass_run.h"

namespace cmlc::test {
namespace {

constexpr DataType kHalf = DataType::kFloat16;
constexpr DataType kFloat = DataType::kFloat32;

PassSpec Spec(std::string pass, OptionValues options) {
  PassSpec spec;
  spec.pass = std::move(pass);
  spec.options = std::move(options);
  return spec;
}

// --- Decoding by hand ----------------------------------------------------------------------------

class HandDecoder {
 public:
  struct Tensor {
    DataType dtype = DataType::kUnused;
    Shape shape;
    std::vector<double> values;
  };

  explicit HandDecoder(const Opened& model) : model_(model) {}

  Tensor Output(const std::string& name) const {
    const Operation* op = model_.Find(name);
    EXPECT_NE(op, nullptr) << name;
    if (op->type == "const") return Literal(op->attributes.at("val"));
    if (op->type == "constexpr_blockwise_shift_scale") {
      const Tensor data = Get(*op, "data");
      return Scaled(*op, data.shape, data.values, nullptr);
    }
    if (op->type == "constexpr_lut_to_dense") {
      const Tensor indices = Get(*op, "indices");
      return LookedUp(*op, indices, nullptr).second;
    }
    if (op->type == "constexpr_lut_to_sparse") {
      const Tensor mask = Get(*op, "indices_mask");
      const auto both = LookedUp(*op, Get(*op, "indices_nonzero_data"), &mask);
      return op->outputs[0].name == name ? both.first : both.second;
    }
    if (op->type == "constexpr_sparse_blockwise_shift_scale") {
      const Tensor mask = Get(*op, "data_mask");
      if (op->outputs[0].name == name) return mask;
      return Scaled(*op, mask.shape, Get(*op, "nonzero_data").values, &mask);
    }
    EXPECT_EQ(op->type, "constexpr_sparse_to_dense");
    const Tensor mask = Get(*op, "mask"), there = Get(*op, "nonzero_data");
    Tensor dense{there.dtype, mask.shape, {}};
    size_t next = 0;
    for (const double bit : mask.values)
      dense.values.push_back(bit != 0 ? there.values[next++] : 0);
    EXPECT_EQ(next, there.values.size());
    return dense;
  }

  Tensor Literal(const Value& value) const {
    Tensor tensor{value.type.tensor.dtype, *StaticShape(value.type), {}};
    if (FindDataType(tensor.dtype)->is_float) {
      for (const float number : model_.Floats(value)) tensor.values.push_back(number);
      return tensor;
    }
    const int bits = BitsOf(tensor.dtype);
    for (int code : model_.Codes(value, *ElementCount(tensor.shape), bits)) {
      if (bits < 32 && FindDataType(tensor.dtype)->is_signed && code >= 1 << (bits - 1))
        code -= 1 << bits;
      tensor.values.push_back(code);
    }
    return tensor;
  }

  Tensor Get(const Operation& op, const std::string& parameter) const {
    const Binding& binding = op.inputs.at(parameter).bindings.at(0);
    if (const auto* name = std::get_if<std::string>(&binding.target)) return Output(*name);
    return Literal(std::get<Value>(binding.target));
  }

 private:
  static double Rounded(DataType dtype, double value) {
    const auto narrow = static_cast<float>(value);
    return dtype == kHalf ? numeric::HalfToFloat(numeric::FloatToHalf(narrow)) : narrow;
  }
  static std::vector<size_t> Coordinates(size_t position, const Shape& shape) {
    std::vector<size_t> at(shape.size());
    for (size_t d = shape.size(); d-- > 0;) {
      at[d] = position % static_cast<size_t>(shape[d]);
      position /= static_cast<size_t>(shape[d]);
    }
    return at;
  }
  static size_t BlockOf(const std::vector<size_t>& at, const Shape& shape, const Shape& blocks) {
    size_t block = 0;
    for (size_t d = 0; d < shape.size(); ++d) {
      EXPECT_EQ(shape[d] % blocks[d], 0);
      block = block * static_cast<size_t>(blocks[d]) +
              at[d] / static_cast<size_t>(shape[d] / blocks[d]);
    }
    return block;
  }

  Tensor Scaled(const Operation& op, const Shape& shape, const std::vector<double>& data,
                const Tensor* mask) const {
    const Tensor scale = Get(op, "scale");
    Tensor offset{scale.dtype, scale.shape, std::vector<double>(scale.values.size(), 0)};
    if (op.inputs.contains("offset")) offset = Get(op, "offset");
    EXPECT_EQ(offset.shape, scale.shape);
    Tensor scaled{scale.dtype, shape, {}};
    size_t next = 0;
    for (size_t i = 0; i < (mask == nullptr ? data.size() : mask->values.size()); ++i) {
      if (mask != nullptr && mask->values[i] == 0) continue;
      const size_t block = BlockOf(Coordinates(i, shape), shape, scale.shape);
      scaled.values.push_back(
          Rounded(scale.dtype, scale.values[block] * (data[next++] - offset.values[block])));
    }
    EXPECT_EQ(next, data.size());
    if (mask != nullptr) scaled.shape = {static_cast<int64_t>(next)};
    return scaled;
  }

  // The mask and the values that come out of a look-up.
  std::pair<Tensor, Tensor> LookedUp(const Operation& op, const Tensor& indices,
                                     const Tensor* mask) const {
    const Tensor lut = Get(op, "lut");
    const Shape& index_shape = mask == nullptr ? indices.shape : mask->shape;
    const size_t rank = index_shape.size();
    EXPECT_EQ(lut.shape.size(), rank + 2);
    const auto entries = static_cast<size_t>(lut.shape[rank]);
    const auto width = static_cast<size_t>(lut.shape[rank + 1]);
    const auto axis =
        width > 1 ? static_cast<size_t>(Get(op, "vector_axis").values.at(0)) : size_t{0};
    const Shape blocks(lut.shape.begin(), lut.shape.end() - 2);
    // The codes of a dense index tensor, or those behind the mask in its order.
    std::vector<double> codes(*ElementCount(index_shape), -1);
    size_t next = 0;
    for (size_t i = 0; i < codes.size(); ++i)
      if (mask == nullptr || mask->values[i] != 0) codes[i] = indices.values[next++];
    Shape shape = index_shape;
    shape[axis] *= static_cast<int64_t>(width);
    Tensor out_mask{DataType::kUInt1, shape, {}}, values{lut.dtype, shape, {}};
    for (size_t i = 0; i < *ElementCount(shape); ++i) {
      std::vector<size_t> at = Coordinates(i, shape);
      const size_t part = at[axis] % width;
      at[axis] /= width;
      size_t position = 0;
      for (size_t d = 0; d < rank; ++d)
        position = position * static_cast<size_t>(index_shape[d]) + at[d];
      out_mask.values.push_back(codes[position] >= 0);
      if (codes[position] < 0) continue;
      const size_t block = BlockOf(at, index_shape, blocks);
      values.values.push_back(
          lut.values[(block * entries + static_cast<size_t>(codes[position])) * width + part]);
    }
    return {out_mask, values};
  }

  const Opened& model_;
};

::testing::AssertionResult DecodesByHand(const PassRun& run, const std::string& name = "weight") {
  if (!run.ok()) return ::testing::AssertionFailure() << run.error();
  const auto expected = HandDecoder(run.after()).Output(name);
  const std::vector<float> values = run.after().Values(name);
  if (expected.shape != run.weight(name).shape)
    return ::testing::AssertionFailure() << "another shape";
  if (expected.values.size() != values.size())
    return ::testing::AssertionFailure() << "another size";
  for (size_t i = 0; i < values.size(); ++i)
    if (expected.values[i] != static_cast<double>(values[i]))
      return ::testing::AssertionFailure()
             << "at " << i << " " << values[i] << ", by hand " << expected.values[i];
  // The error in the report is that of the formulas; what comes out is rounded to the weight's
  // type.
  const double noise = std::sqrt(SquaredDistance(run.before().Values(name), values));
  const double reported = std::sqrt(run.weight(name).quality.noise);
  const double rounding = run.weight(name).dtype == "fp16" ? 0x1p-11 : 0x1p-22;
  if (std::abs(reported - noise) > rounding * std::sqrt(SumOfSquares(values)) + 1e-6 * noise)
    return ::testing::AssertionFailure()
           << "reported an error of " << reported << ", found " << noise;
  return ::testing::AssertionSuccess();
}

std::vector<std::string> Chain(const PassRun& run) {
  std::vector<std::string> chain;
  for (const std::string& op : run.after().Ops())
    if (op.starts_with("constexpr_")) chain.push_back(op.substr(10, op.find(' ') - 10));
  return chain;
}
using Types = std::vector<std::string>;

std::string Bytes(const PassRun& run, const std::string& op, const std::string& operand) {
  return run.after().Bytes(run.after().Operand(op, operand));
}

size_t Zeros(const std::vector<float>& values) {
  return static_cast<size_t>(std::count(values.begin(), values.end(), 0.0f));
}

const OptionValues kJoint = {{"joint", "true"}};
OptionValues Joint(OptionValues options) {
  options.emplace_back("joint", "true");
  return options;
}

// --- Palettize, then quantize the LUT ------------------------------------------------------------

TEST(Joint, LutThenCodes) {
  const PassRun first(OneConv(kHalf, 32, 16, 3, 9), Palettize({{"nbits", "4"}}));
  const PassRun run(first.output(), Spec("quantize", kJoint));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(Chain(run), (Types{"blockwise_shift_scale", "lut_to_dense"}));
  EXPECT_EQ(run.after().Print("weight_lut"),
            "constexpr_blockwise_shift_scale(data: int8 [1, 1, 1, 1, 16, 1] file, scale: fp16 [1, "
            "1, 1, 1, 1, 1] spec) -> fp16 [1, 1, 1, 1, 16, 1]");
  EXPECT_EQ(run.after().Print("weight"),
            "constexpr_lut_to_dense(indices: uint4 [32, 16, 3, 3] file, lut: weight_lut) -> fp16 "
            "[32, 16, 3, 3]");
  EXPECT_EQ(Bytes(run, "weight", "indices"), Bytes(first, "weight", "indices"));
  EXPECT_TRUE(DecodesByHand(run));
  EXPECT_EQ(run.weight().form, "4-bit LUT of int8 entries");
}

TEST(Joint, LutThenCodesOfEveryTypeAndMode) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* nbits : {"1", "2", "3", "4", "6", "8"}) {
      const PassRun first(OneLinear(dtype, 32, 128, 9),
                          Palettize({{"nbits", nbits}, {"group_size", "8"}}));
      for (const char* codes : {"int8", "uint8", "int4", "uint4"})
        for (const char* mode : {"linear", "linear_symmetric"}) {
          SCOPED_TRACE(NameOf(dtype) + " " + nbits + " " + codes + " " + mode);
          const PassRun run(first.output(),
                            Spec("quantize", Joint({{"dtype", codes}, {"mode", mode}})));
          ASSERT_TRUE(IsDone(run));
          EXPECT_TRUE(DecodesByHand(run));
          const Value& data = run.after().Operand("weight_lut", "data");
          EXPECT_EQ(NameOf(data.type.tensor.dtype), codes);
          const bool has_offset = run.after().Find("weight_lut")->inputs.contains("offset");
          EXPECT_EQ(has_offset, codes[0] == 'u' || std::string(mode) == "linear");
          EXPECT_EQ(Bytes(run, "weight", "indices"), Bytes(first, "weight", "indices"));
        }
    }
}

// A scale for each LUT, or one for all: an outlier in one group then costs the others.
TEST(Joint, EachLutHasAScaleUnlessPerTensor) {
  std::vector<float> values = Gaussian(64 * 64, 3, 0.1f);
  for (size_t i = 0; i < 64 * 16; ++i) values[i] *= 100;
  const PassRun first(LinearOf(kHalf, {64, 64}, values, 9),
                      Palettize({{"nbits", "4"}, {"group_size", "16"}}));
  const PassRun each(first.output(), Spec("quantize", kJoint));
  const PassRun all(first.output(), Spec("quantize", Joint({{"granularity", "per_tensor"}})));
  ASSERT_TRUE(IsDone(each) && IsDone(all));
  EXPECT_EQ(StaticShape(each.after().Operand("weight_lut", "scale").type), (Shape{4, 1, 1, 1}));
  EXPECT_EQ(StaticShape(all.after().Operand("weight_lut", "scale").type), (Shape{1, 1, 1, 1}));
  EXPECT_TRUE(DecodesByHand(each));
  EXPECT_TRUE(DecodesByHand(all));
  const auto noise = [&](const PassRun& run) {  // of the small groups
    const std::vector<float> before = run.before().Values("weight");
    const std::vector<float> after = run.after().Values("weight");
    return SquaredDistance({before.begin() + 1024, before.end()},
                           {after.begin() + 1024, after.end()});
  };
  EXPECT_LT(noise(each), 0.01 * noise(all));
}

// How often an entry is used decides how much its error counts: one far entry that few values have
// does not make the grid coarse for all.
TEST(Joint, EntriesThatAreNotUsedDoNotMatter) {
  std::vector<float> values(4096);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 15) - 7;
  values[100] = 7.25f;
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  std::vector<int> indices;
  for (size_t i = 0; i < 4096; ++i) indices.push_back(static_cast<int>(i % 3));
  main.Op("constexpr_lut_to_dense", "weight",
          {{"indices", main.Blob(DataType::kUInt2, {64, 64}, PackedInts(indices, 2))},
           {"lut", FloatsValue({1, 1, 4, 1}, {1, 2, 3, 60000})}},
          TensorType(kFloat, {64, 64}));
  AddLinear(main, "y", "weight", kFloat, {64, 64});
  main.Output("y");
  const PassRun run(package, Spec("quantize", kJoint));
  ASSERT_TRUE(IsDone(run));
  EXPECT_LT(run.weight().quality.noise, 1e-3 * run.weight().quality.signal);
  EXPECT_TRUE(DecodesByHand(run));
}

// iOS 26 looks codes up and dequantizes what comes out.
TEST(Joint, OnIos26TheLookUpComesFirst) {
  for (const char* group_size : {"0", "8"}) {
    const PassRun first(OneConv(kHalf, 32, 16, 3, 10),
                        Palettize({{"nbits", "4"}, {"group_size", group_size}}));
    const PassRun run(first.output(), Spec("quantize", Joint({{"mode", "linear"}})));
    ASSERT_TRUE(IsDone(run));
    const std::string groups = group_size[0] == '0' ? "1" : "4";
    EXPECT_EQ(run.after().Print("weight_looked_up"),
              "constexpr_lut_to_dense(indices: uint4 [32, 16, 3, 3] file, lut: int8 [" + groups +
                  ", 1, 1, 1, 16, 1] file) -> int8 [32, 16, 3, 3]");
    EXPECT_EQ(run.after().Print("weight"),
              "constexpr_blockwise_shift_scale(data: weight_looked_up, offset: int8 [" + groups +
                  ", 1, 1, 1] spec, scale: fp16 [" + groups +
                  ", 1, 1, 1] spec) -> fp16 [32, 16, 3, 3]");
    EXPECT_TRUE(DecodesByHand(run));
    EXPECT_EQ(run.report().version_after, 10);
  }
}

TEST(Joint, BothOrdersOfALutsScaleStandForTheSame) {
  for (const char* dtype : {"int8", "uint8"}) {
    std::vector<std::vector<float>> values;
    for (const int32_t version : {9, 10}) {
      const PassRun first(OneLinear(kFloat, 32, 128, version),
                          Palettize({{"nbits", "4"}, {"group_size", "8"}}));
      const PassRun run(first.output(), Spec("quantize", Joint({{"dtype", dtype}})));
      ASSERT_TRUE(IsDone(run));
      EXPECT_TRUE(DecodesByHand(run));
      values.push_back(run.after().Values("weight"));
    }
    EXPECT_EQ(values[0], values[1]);
  }
}

TEST(Joint, LutsOfVectorsAreQuantized) {
  for (const int32_t version : {9, 10}) {
    const PassRun first(OneConv(kHalf, 32, 16, 3, version),
                        Palettize({{"nbits", "4"}, {"cluster_dim", "4"}}));
    const PassRun run(first.output(), Spec("quantize", kJoint));
    ASSERT_TRUE(IsDone(run));
    EXPECT_TRUE(DecodesByHand(run));
    const std::string last = version == 9 ? "weight" : "weight_looked_up";
    EXPECT_EQ(ImmediateInts(run.after().Operand(last, "vector_axis")), std::vector<int64_t>{0});
  }
}

// --- Prune, then quantize; quantize, then prune --------------------------------------------------

TEST(Joint, SparseThenCodes) {
  const PassRun first(OneConv(kHalf, 32, 16, 3, 9), Spec("prune", {{"target_sparsity", "0.5"}}));
  const PassRun run(first.output(), Spec("quantize", kJoint));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(Chain(run), (Types{"sparse_blockwise_shift_scale", "sparse_to_dense"}));
  EXPECT_EQ(run.after().Print("weight_scaled"),
            "constexpr_sparse_blockwise_shift_scale(data_mask: uint1 [32, 16, 3, 3] file, "
            "nonzero_data: int8 [2304] file, scale: fp16 [32, 1, 1, 1] file) -> uint1 [32, 16, 3, "
            "3], fp16 [2304]");
  EXPECT_EQ(run.after().Print("weight"),
            "constexpr_sparse_to_dense(mask: weight_scaled_mask, nonzero_data: weight_scaled) -> "
            "fp16 [32, 16, 3, 3]");
  EXPECT_EQ(Bytes(run, "weight_scaled", "data_mask"), Bytes(first, "weight", "mask"));
  EXPECT_TRUE(DecodesByHand(run));
  EXPECT_EQ(run.weight().form, "sparse, int8 symmetric, 32 scales");
}

TEST(Joint, SparseAndCodesInBothOrdersAndEveryFormat) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* codes : {"int8", "uint8", "int4", "uint4"})
      for (const OptionValues& sizes :
           {OptionValues{{"granularity", "per_tensor"}}, {}, {{"block_size", "4"}}})
        for (const bool prune_first : {false, true}) {
          OptionValues quantize = sizes;
          quantize.emplace_back("dtype", codes);
          quantize.emplace_back("mode", "linear");
          OptionValues prune = {{"target_sparsity", "0.6"}};
          (prune_first ? quantize : prune).emplace_back("joint", "true");
          const PassSpec a = prune_first ? Spec("prune", prune) : Spec("quantize", quantize);
          const PassSpec b = prune_first ? Spec("quantize", quantize) : Spec("prune", prune);
          SCOPED_TRACE(NameOf(dtype) + " " + codes + (prune_first ? " pruned first" : ""));
          const PassRun first(OneConvTranspose(dtype, 16, 20, 3, 9), a);
          ASSERT_TRUE(IsDone(first));
          const PassRun run(first.output(), b);
          ASSERT_TRUE(IsDone(run));
          EXPECT_EQ(Chain(run), (Types{"sparse_blockwise_shift_scale", "sparse_to_dense"}));
          EXPECT_TRUE(DecodesByHand(run));
          EXPECT_GE(Zeros(run.after().Values("weight")), 1728u);  // of 2880
          const Shape scale = *StaticShape(run.after().Operand("weight_scaled", "scale").type);
          EXPECT_EQ(scale, sizes.empty()                     ? (Shape{1, 16, 1, 1})
                           : sizes[0].first == "granularity" ? (Shape{1, 1, 1, 1})
                                                             : (Shape{5, 16, 1, 1}));
        }
}

// The values that the codes stand for decide; the codes that stay are the same.
TEST(Joint, CodesThatStayAreNotTouched) {
  for (const char* dtype : {"int8", "uint4"}) {
    const PassRun first(OneLinear(kHalf, 32, 128, 9), Spec("quantize", {{"dtype", dtype}}));
    const PassRun run(first.output(), Spec("prune", Joint({{"target_sparsity", "0.5"}})));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(Bytes(run, "weight_scaled", "scale"), Bytes(first, "weight", "scale"));
    const std::vector<float> before = run.before().Values("weight");
    const std::vector<float> after = run.after().Values("weight");
    float least_kept = INFINITY, greatest_gone = 0;
    std::vector<double> codes;
    const auto all = HandDecoder(first.after()).Literal(first.after().Operand("weight", "data"));
    for (size_t i = 0; i < before.size(); ++i) {
      ASSERT_TRUE(after[i] == before[i] || after[i] == 0) << "at " << i;
      float& bound = after[i] == 0 ? greatest_gone : least_kept;
      bound = after[i] == 0 ? std::max(bound, std::fabs(before[i]))
                            : std::min(bound, std::fabs(before[i]));
      if (after[i] != 0) codes.push_back(all.values[i]);
    }
    EXPECT_LE(greatest_gone, least_kept);
    EXPECT_EQ(HandDecoder(run.after())
                  .Literal(run.after().Operand("weight_scaled", "nonzero_data"))
                  .values,
              codes);
  }
}

// What is zero already goes with the rest, and is not counted twice.
TEST(Joint, PruningCodesCountsTheirZeros) {
  const PassRun first(OneLinear(kHalf, 32, 128, 9), Spec("quantize", {}));
  const size_t zeros = Zeros(first.after().Values("weight"));
  ASSERT_LT(zeros, 1000u);
  const PassRun run(first.output(), Spec("prune", Joint({{"target_sparsity", "0.25"}})));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(Zeros(run.after().Values("weight")), 1024u);
  EXPECT_EQ(run.weight().form, "sparse, 25.00 % zeros");
}

// --- Prune, then palettize; palettize, then prune ------------------------------------------------

TEST(Joint, SparseThenLut) {
  const PassRun first(OneConv(kHalf, 32, 16, 3, 9), Spec("prune", {{"target_sparsity", "0.5"}}));
  const PassRun run(first.output(), Palettize(Joint({{"nbits", "4"}})));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(Chain(run), (Types{"lut_to_sparse", "sparse_to_dense"}));
  EXPECT_EQ(run.after().Print("weight_kept"),
            "constexpr_lut_to_sparse(indices_mask: uint1 [32, 16, 3, 3] file, "
            "indices_nonzero_data: uint4 [2304] file, lut: fp16 [1, 1, 1, 1, 16, 1] file) -> uint1 "
            "[32, 16, 3, 3], fp16 [2304]");
  EXPECT_EQ(run.after().Print("weight"),
            "constexpr_sparse_to_dense(mask: weight_mask, nonzero_data: weight_kept) -> fp16 [32, "
            "16, 3, 3]");
  EXPECT_TRUE(DecodesByHand(run));
  EXPECT_EQ(run.weight().form, "sparse, 4-bit LUT");
}

// Zeros take no part: the table is the best one for the values that are there.
TEST(Joint, TheZerosOfASparseWeightTakeNoPart) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* nbits : {"1", "2", "3", "4"}) {
      const PassRun first(OneLinear(dtype, 40, 101, 9),
                          Spec("prune", {{"target_sparsity", "0.7"}}));
      const PassRun run(first.output(), Palettize(Joint({{"nbits", nbits}})));
      ASSERT_TRUE(IsDone(run));
      EXPECT_TRUE(DecodesByHand(run));
      std::map<double, double> counts;
      for (const float value : run.before().Values("weight"))
        if (value != 0) counts[value] += 1;
      std::vector<double> points, weights;
      for (const auto& [point, weight] : counts) {
        points.push_back(point);
        weights.push_back(weight);
      }
      numeric::KMeans1d solver;
      const double bound = solver.Solve(points, weights, 1 << (nbits[0] - '0')).lower_bound;
      EXPECT_GE(run.weight().quality.noise, bound * (1 - 1e-6));
      EXPECT_LE(run.weight().quality.noise, bound * 1.001) << nbits;
      std::set<float> used;
      for (const float value : run.after().Values("weight"))
        if (value != 0) used.insert(value);
      EXPECT_EQ(used.size(), size_t{1} << (nbits[0] - '0'));
    }
}

TEST(Joint, SparseAndLutsInBothOrdersWithGroups) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* nbits : {"3", "4", "8"})
      for (const char* groups : {"0", "1", "2"})
        for (const bool prune_first : {false, true}) {
          OptionValues palettize = {{"nbits", nbits}, {"group_size", groups}};
          OptionValues prune = {{"target_sparsity", "0.6"}};
          (prune_first ? palettize : prune).emplace_back("joint", "true");
          const PassSpec a = prune_first ? Spec("prune", prune) : Palettize(palettize);
          const PassSpec b = prune_first ? Palettize(palettize) : Spec("prune", prune);
          SCOPED_TRACE(std::string(nbits) + " " + groups + (prune_first ? " pruned first" : ""));
          // Groups lie along axis 1: they alternate in memory.
          const PassRun first(OneConvTranspose(dtype, 8, 36, 4, 9), a);
          ASSERT_TRUE(IsDone(first));
          const PassRun run(first.output(), b);
          ASSERT_TRUE(IsDone(run));
          EXPECT_EQ(Chain(run), (Types{"lut_to_sparse", "sparse_to_dense"}));
          EXPECT_TRUE(DecodesByHand(run));
          EXPECT_NEAR(static_cast<double>(Zeros(run.after().Values("weight"))), 0.6 * 4608, 0.6);
          EXPECT_EQ(StaticShape(run.after().Operand("weight_kept", "lut").type)->at(1),
                    groups[0] == '0' ? 1 : 8 / (groups[0] - '0'));
        }
}

// 16 distinct values are all ties: exactly half go all the same.
TEST(Joint, PruningAPalettizedWeightIsExact) {
  const PassRun first(OneLinear(kHalf, 64, 64, 9), Palettize({{"nbits", "4"}}));
  const PassRun run(first.output(), Spec("prune", Joint({{"target_sparsity", "0.5"}})));
  ASSERT_TRUE(IsDone(run));
  const std::vector<float> after = run.after().Values("weight");
  EXPECT_EQ(Zeros(after), 2048u);
  EXPECT_EQ(Bytes(run, "weight_kept", "lut"), Bytes(first, "weight", "lut"));
  EXPECT_TRUE(DecodesByHand(run));
}

// --- Quantize, then palettize --------------------------------------------------------------------

TEST(Joint, CodesThenLutOfCodes) {
  const PassRun first(OneConv(kHalf, 32, 16, 3, 9),
                      Spec("quantize", {{"granularity", "per_tensor"}}));
  const PassRun run(first.output(), Palettize(Joint({{"nbits", "4"}})));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(Chain(run), (Types{"blockwise_shift_scale", "lut_to_dense"}));
  EXPECT_EQ(run.after().Print("weight_lut"),
            "constexpr_blockwise_shift_scale(data: int8 [1, 1, 1, 1, 16, 1] file, scale: fp16 [1, "
            "1, 1, 1, 1, 1] spec) -> fp16 [1, 1, 1, 1, 16, 1]");
  // The scale that was there is kept.
  EXPECT_EQ(Bytes(run, "weight_lut", "scale"), Bytes(first, "weight", "scale"));
  EXPECT_TRUE(DecodesByHand(run));
}

// Codes are rounded to the nearest, not cut off: the table is nearly as good as a free one.
TEST(Joint, ALutOfCodesIsNearlyAsGoodAsAFreeOne) {
  const PassRun codes(OneLinear(kHalf, 64, 128, 9),
                      Spec("quantize", {{"granularity", "per_tensor"}}));
  const PassRun joint(codes.output(), Palettize(Joint({{"nbits", "4"}})));
  const PassRun decoded(codes.output(), Decompress());
  const PassRun free(decoded.output(), Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(IsDone(joint) && IsDone(free));
  EXPECT_LE(joint.weight().quality.noise, 1.02 * free.weight().quality.noise);
}

TEST(Joint, CodesOfEveryTypeThenLut) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* codes : {"int8", "uint8", "int4", "uint4"})
      for (const OptionValues& sizes :
           {OptionValues{{"granularity", "per_tensor"}}, {}, {{"block_size", "256"}}}) {
        OptionValues quantize = sizes;
        quantize.emplace_back("dtype", codes);
        quantize.emplace_back("mode", "linear");
        SCOPED_TRACE(NameOf(dtype) + " " + codes + " " + std::to_string(sizes.size()));
        const PassRun first(OneLinear(dtype, 8, 1024, 9), Spec("quantize", quantize));
        ASSERT_TRUE(IsDone(first));
        const PassRun run(first.output(), Palettize(Joint({{"nbits", "2"}})));
        ASSERT_TRUE(IsDone(run));
        EXPECT_TRUE(DecodesByHand(run));
        // A LUT for each scale.
        const Shape lut = *StaticShape(run.after().Operand("weight_lut", "data").type);
        EXPECT_EQ(lut, sizes.empty()                     ? (Shape{8, 1, 4, 1})
                       : sizes[0].first == "granularity" ? (Shape{1, 1, 4, 1})
                                                         : (Shape{8, 4, 4, 1}));
        EXPECT_EQ(Bytes(run, "weight_lut", "scale"), Bytes(first, "weight", "scale"));
      }
}

TEST(Joint, LutsThatWouldCostMoreThanTheySaveAreLeftOut) {
  const PassRun first(OneLinear(kHalf, 64, 64, 9), Spec("quantize", {{"dtype", "int4"}}));
  const PassRun run(first.output(), Palettize(Joint({{"nbits", "4"}})));
  EXPECT_TRUE(Left(run, "weight", "2048 bytes of codes, 3072 of indices and 64 LUTs"));
  EXPECT_EQ(run.weight().category, "smaller without LUTs");
}

// --- Three passes --------------------------------------------------------------------------------

PassRun Third(const PassRun& second, const std::string& pass) {
  if (pass == "palettize") return PassRun(second.output(), Palettize(Joint({{"nbits", "4"}})));
  if (pass == "prune")
    return PassRun(second.output(), Spec("prune", Joint({{"target_sparsity", "0.5"}})));
  return PassRun(second.output(), Spec("quantize", kJoint));
}

// All orders of three passes end in one chain: codes of entries, indices of what is there.
TEST(Joint, AllOrdersOfThreePasses) {
  std::vector<std::string> order = {"palettize", "prune", "quantize"};
  do {
    SCOPED_TRACE(order[0] + " " + order[1] + " " + order[2]);
    const PassRun source(OneLinear(kHalf, 16, 512, 9), NullPass());
    const PassRun first = Third(source, order[0]);
    const PassRun second = Third(first, order[1]);
    const PassRun run = Third(second, order[2]);
    ASSERT_TRUE(IsDone(first) && IsDone(second) && IsDone(run));
    EXPECT_EQ(Chain(run), (Types{"blockwise_shift_scale", "lut_to_sparse", "sparse_to_dense"}));
    EXPECT_TRUE(DecodesByHand(run));
    const std::vector<float> values = run.after().Values("weight");
    EXPECT_GE(Zeros(values), 4096u);
    EXPECT_LT(Zeros(values), 4250u);
    const double noise = SquaredDistance(source.before().Values("weight"), values);
    // Half of a Gaussian below its median is 7.1 % of its energy; the rest costs little more.
    EXPECT_LT(noise, 0.10 * SumOfSquares(source.before().Values("weight")));
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(Joint, ThreePassesOnIos26) {
  const PassRun source(OneConv(kHalf, 16, 32, 3, 10), NullPass());
  const PassRun first = Third(source, "prune");
  const PassRun second = Third(first, "palettize");
  const PassRun run = Third(second, "quantize");
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(Chain(run),
            (Types{"lut_to_sparse", "sparse_blockwise_shift_scale", "sparse_to_dense"}));
  EXPECT_TRUE(DecodesByHand(run));
  const PassRun plain(run.output(), Decompress());
  ASSERT_TRUE(plain.ok()) << plain.error();
  EXPECT_EQ(plain.after().Values("weight"), run.after().Values("weight"));
  EXPECT_EQ(plain.after().Find("weight")->type, "const");
}

TEST(Joint, SparseThenScaledLut) {
  for (const DataType dtype : {kHalf, kFloat}) {
    const PassRun first(OneConv(dtype, 16, 32, 3, 9), Spec("prune", {{"target_sparsity", "0.5"}}));
    const PassRun run(first.output(),
                      Palettize(Joint({{"nbits", "4"}, {"per_channel_scale", "true"}})));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(Chain(run),
              (Types{"lut_to_sparse", "sparse_blockwise_shift_scale", "sparse_to_dense"}));
    EXPECT_TRUE(DecodesByHand(run));
    const PassRun without(first.output(), Palettize(Joint({{"nbits", "4"}})));
    EXPECT_LE(run.weight().quality.noise, without.weight().quality.noise * 1.0001);
  }
}

TEST(Joint, SparseThenIntegerLut) {
  const PassRun first(OneLinear(kHalf, 16, 512, 9), Spec("prune", {{"target_sparsity", "0.5"}}));
  const PassRun run(first.output(), Palettize(Joint({{"nbits", "4"}, {"lut_dtype", "int8"}})));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(Chain(run), (Types{"blockwise_shift_scale", "lut_to_sparse", "sparse_to_dense"}));
  EXPECT_TRUE(DecodesByHand(run));
}

// --- Integer LUTs in one step --------------------------------------------------------------------

TEST(IntegerLut, HasCodesAndAScaleForEachTable) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* codes : {"int8", "uint8", "int4", "uint4"})
      for (const char* nbits : {"1", "3", "4", "8"})
        for (const char* groups : {"0", "4"}) {
          SCOPED_TRACE(NameOf(dtype) + " " + codes + " " + nbits + " " + groups);
          const PassRun run(
              OneConvTranspose(dtype, 8, 64, 3, 9),
              Palettize({{"nbits", nbits}, {"group_size", groups}, {"lut_dtype", codes}}));
          ASSERT_TRUE(IsDone(run));
          EXPECT_EQ(Chain(run), (Types{"blockwise_shift_scale", "lut_to_dense"}));
          EXPECT_TRUE(DecodesByHand(run));
          const Value& data = run.after().Operand("weight_lut", "data");
          EXPECT_EQ(NameOf(data.type.tensor.dtype), codes);
          const int64_t tables = *groups == '0' ? 1 : 2;
          EXPECT_EQ(StaticShape(data.type),
                    (Shape{1, tables, 1, 1, int64_t{1} << (*nbits - '0'), 1}));
          EXPECT_EQ(StaticShape(run.after().Operand("weight_lut", "scale").type),
                    (Shape{1, tables, 1, 1, 1, 1}));
          EXPECT_EQ(run.after().Find("weight_lut")->inputs.contains("offset"), *codes == 'u');
        }
}

TEST(IntegerLut, OfUniformUniqueAndOwnEntries) {
  std::vector<float> values(4096);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 16) - 7.5f;
  TempDir dir;
  WriteFile(dir / "lut.json", "[-7.5, -2.5, 2.5, 7.5]");
  for (OptionValues options : {OptionValues{{"mode", "uniform"}, {"nbits", "4"}},
                               {{"mode", "unique"}},
                               {{"mode", "custom"}, {"lut_file", (dir / "lut.json").string()}}}) {
    const bool custom = options.size() == 2 && options[1].first == "lut_file";
    options.emplace_back("lut_dtype", "int8");
    const PassRun run(LinearOf(kFloat, {64, 64}, values, 9), Palettize(options));
    ASSERT_TRUE(IsDone(run));
    EXPECT_TRUE(DecodesByHand(run));
    EXPECT_LE(run.weight().quality.noise, (custom ? 0.15 : 1e-4) * run.weight().quality.signal);
  }
}

TEST(IntegerLut, RaisesAnOlderModel) {
  const OptionValues options = {{"nbits", "4"}, {"lut_dtype", "int8"}};
  const PassRun run(OneLinear(kHalf, 16, 256), Palettize(options));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().version_after, 9);
  EXPECT_EQ(run.weight().form, "4-bit LUT of int8 entries");
  const PassRun refused(OneLinear(kHalf, 16, 256), Palettize(options), {.target = "iOS16"});
  EXPECT_TRUE(Fails(refused.result(), ErrorKind::kUsage,
                    {"'weight' needs iOS18 for integer LUT entries (lut_dtype)"}));
}

// One step must be at least as good as rounding the finished entries, which the second of two
// commands does.
void ExpectNoWorseThanTwoSteps(const PackageBuilder& package, const OptionValues& options,
                               const char* codes) {
  OptionValues together = options;
  together.emplace_back("lut_dtype", codes);
  const PassRun one(package, Palettize(together));
  ASSERT_TRUE(IsDone(one));
  EXPECT_TRUE(DecodesByHand(one));
  const PassRun plain(package, Palettize(options));
  ASSERT_TRUE(IsDone(plain));
  const PassRun two(plain.output(),
                    Spec("quantize", Joint({{"dtype", codes},
                                            {"mode", *codes == 'u' ? "linear" : "linear_symmetric"},
                                            {"scales", "minmax"},
                                            {"granularity", "per_tensor"}})));
  ASSERT_TRUE(IsDone(two));
  const std::vector<float> exact = plain.before().Values("weight");
  EXPECT_LE(SquaredDistance(exact, one.after().Values("weight")),
            SquaredDistance(exact, two.after().Values("weight")) * (1 + 1e-9));
}

TEST(IntegerLut, OfVectors) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* codes : {"int8", "uint8", "int4", "uint4"})
      for (const char* groups : {"0", "4"}) {
        SCOPED_TRACE(NameOf(dtype) + " " + codes + " " + groups);
        const OptionValues options = {{"nbits", "4"}, {"cluster_dim", "2"}, {"group_size", groups}};
        ExpectNoWorseThanTwoSteps(OneConv(dtype, 8, 64, 3, 9), options, codes);
      }
  const PassRun run(OneConv(kHalf, 8, 64, 3, 9),
                    Palettize({{"nbits", "3"}, {"cluster_dim", "4"}, {"lut_dtype", "int8"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(Chain(run), (Types{"blockwise_shift_scale", "lut_to_dense"}));
  EXPECT_EQ(run.weight().form, "3-bit LUT of int8 entries of 4-vectors");
  EXPECT_EQ(StaticShape(run.after().Operand("weight_lut", "data").type), (Shape{1, 1, 1, 1, 8, 4}));
}

TEST(IntegerLut, OfChannelsWithScales) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* codes : {"int8", "uint8", "int4"})
      for (const char* groups : {"0", "4"}) {
        SCOPED_TRACE(NameOf(dtype) + " " + codes + " " + groups);
        const PackageBuilder package = OneConv(dtype, 8, 64, 3, 9);
        const OptionValues plain = {{"nbits", "3"}, {"group_size", groups}};
        OptionValues scaled = plain, both = plain, coded = plain;
        scaled.emplace_back("per_channel_scale", "true");
        coded.emplace_back("lut_dtype", codes);
        both.insert(both.end(), {scaled.back(), coded.back()});
        const PassRun run(package, Palettize(both));
        ASSERT_TRUE(IsDone(run));
        EXPECT_TRUE(DecodesByHand(run));
        // The scales gain something, and integer entries lose little.
        const PassRun without_scales(package, Palettize(coded));
        const PassRun with_floats(package, Palettize(scaled));
        EXPECT_LE(run.weight().quality.noise, without_scales.weight().quality.noise);
        if (std::string_view(codes) != "int4") {
          EXPECT_LE(run.weight().quality.noise, 1.01 * with_floats.weight().quality.noise);
        }
      }
  const PassRun run(
      OneConv(kHalf, 8, 64, 3, 9),
      Palettize({{"nbits", "4"}, {"per_channel_scale", "true"}, {"lut_dtype", "int8"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(Chain(run), (Types{"blockwise_shift_scale", "lut_to_dense", "blockwise_shift_scale"}));
  EXPECT_EQ(run.weight().form, "4-bit LUT of int8 entries, a scale for each output channel");
}

TEST(IntegerLut, OnIos26TheLookUpComesFirst) {
  const PassRun run(OneConv(kHalf, 16, 16, 3, 10),
                    Palettize({{"nbits", "4"}, {"group_size", "4"}, {"lut_dtype", "uint8"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(Chain(run), (Types{"lut_to_dense", "blockwise_shift_scale"}));
  EXPECT_TRUE(DecodesByHand(run));
  // A look-up cannot give 4-bit integers.
  const PassRun narrow(OneConv(kHalf, 16, 16, 3, 10),
                       Palettize({{"nbits", "4"}, {"lut_dtype", "int4"}}));
  ASSERT_TRUE(IsDone(narrow));
  EXPECT_EQ(Chain(narrow), (Types{"blockwise_shift_scale", "lut_to_dense"}));
  EXPECT_TRUE(DecodesByHand(narrow));
}

// --- What is left alone --------------------------------------------------------------------------

TEST(Joint, WithoutTheFlagCompressedWeightsStay) {
  const PassRun first(OneLinear(kHalf, 16, 512, 9), Palettize({{"nbits", "4"}}));
  for (const PassSpec& spec : {Spec("quantize", {}), Spec("prune", {{"target_sparsity", "0.5"}}),
                               Palettize({{"nbits", "2"}})}) {
    const PassRun run(first.output(), spec);
    ASSERT_TRUE(run.ok()) << run.error();
    EXPECT_EQ(run.weight().fate, WeightReport::Fate::kAlreadyCompressed);
    EXPECT_TRUE(SamePackage(run.output(), first.output(), /*manifest=*/false));
  }
}

TEST(Joint, PlainWeightsAreDoneAsWell) {
  PackageBuilder package = OneLinear(kHalf, 16, 512, 9);
  BlockBuilder main = package.Function("main");
  main.BlobConst("second", kHalf, {16, 512}, RandomWeights(kHalf, 8192, 2));
  AddLinear(main, "z", "second", kHalf, {16, 512});
  main.Output("z");
  const PassRun first(package, Spec("prune", {{"target_sparsity", "0.5"}}));
  ASSERT_TRUE(IsDone(first));
  const PassRun again(package, Palettize({{"nbits", "4"}}, {LeaveName("second")}));
  const PassRun run(again.output(), Spec("prune", Joint({{"target_sparsity", "0.5"}})));
  ASSERT_TRUE(IsDone(run) && IsDone(run, "second"));
  EXPECT_EQ(Zeros(run.after().Values("second")), 4096u);
}

struct LeftCase {
  const char* name;
  PassSpec first, second;
  const char* category;
  const char* reason;
  friend void PrintTo(const LeftCase& one, std::ostream* out) { *out << one.name; }
};

class JointLeaves : public ::testing::TestWithParam<LeftCase> {};

TEST_P(JointLeaves, WithAReason) {
  const PassRun first(OneLinear(kHalf, 32, 256, 9), GetParam().first);
  ASSERT_TRUE(IsDone(first));
  const PassRun run(first.output(), GetParam().second);
  EXPECT_TRUE(Left(run, "weight", GetParam().reason));
  EXPECT_EQ(run.weight().category, GetParam().category);
  EXPECT_TRUE(SamePackage(run.output(), first.output(), /*manifest=*/false));
}

const PassSpec kPruned = Spec("prune", {{"target_sparsity", "0.5"}});
const PassSpec kPruneAgain = Spec("prune", {{"target_sparsity", "0.9"}, {"joint", "true"}});
const PassSpec kVectors = Palettize({{"nbits", "4"}, {"cluster_dim", "2"}});
const PassSpec kScaled = Palettize({{"nbits", "4"}, {"per_channel_scale", "true"}});
const PassSpec kIntegerLut = Palettize({{"nbits", "4"}, {"lut_dtype", "int8"}});

const LeftCase kLeftCases[] = {
    {"CodesAgain", Spec("quantize", {}), Spec("quantize", kJoint), "already quantized",
     "its codes have scales"},
    {"CodesOfAScaledLut", kScaled, Spec("quantize", kJoint), "already quantized",
     "its codes have scales"},
    {"CodesOfAnIntegerLut", kIntegerLut, Spec("quantize", kJoint), "already quantized",
     "its codes have scales"},
    {"LutAgain", Palettize({{"nbits", "4"}}), Palettize(Joint({{"nbits", "2"}})),
     "already palettized", "it has a LUT"},
    {"SparseAgain", kPruned, kPruneAgain, "already sparse", "it has a mask"},
    {"SparseOfVectors", kVectors, kPruneAgain, "palettized with vectors",
     "an index stands for 2 values, which cannot go one by one"},
    {"VectorsOfSparse", kPruned, Palettize(Joint({{"nbits", "4"}, {"cluster_dim", "2"}})), "sparse",
     "a mask names single values, and with cluster_dim an index stands for several"},
    {"VectorsOfCodes", Spec("quantize", {}),
     Palettize(Joint({{"nbits", "4"}, {"cluster_dim", "2"}})), "already quantized",
     "its scales are for single channels"},
    {"ScaledLutOfCodes", Spec("quantize", {}),
     Palettize(Joint({{"nbits", "4"}, {"per_channel_scale", "true"}})), "already quantized",
     "it has scales; leave out per_channel_scale"},
};

INSTANTIATE_TEST_SUITE_P(All, JointLeaves, ::testing::ValuesIn(kLeftCases),
                         [](const auto& one) { return one.param.name; });

// fp16 in the file, fp32 in the program: no form that the passes make.
TEST(Joint, AChainOfAnotherKindIsLeft) {
  for (const PassSpec& spec :
       {Spec("quantize", kJoint), kPruneAgain, Palettize(Joint({{"nbits", "4"}}))}) {
    PackageBuilder package(9);
    BlockBuilder main = package.Function("main");
    main.Op("constexpr_cast", "weight",
            {{"source_val", main.Blob(kHalf, {16, 256}, RandomWeights(kHalf, 4096, 1))},
             {"output_dtype", StringValue("fp32")}},
            TensorType(kFloat, {16, 256}));
    AddLinear(main, "y", "weight", kFloat, {16, 256});
    main.Output("y");
    const PassRun run(package, spec);
    EXPECT_TRUE(Left(run, "weight", "the chain of constexpr ops is not known"));
    EXPECT_EQ(run.weight().category, "of a form that is not joined");
  }
}

TEST(Joint, TheThresholdCountsTheElementsOfTheWeight) {
  const PassRun first(OneLinear(kHalf, 16, 288, 9), Palettize({{"nbits", "4"}}));  // 4608
  const PassRun done(first.output(), Spec("quantize", Joint({{"weight_threshold", "4607"}})));
  EXPECT_TRUE(IsDone(done));
  const PassRun left(first.output(), Spec("quantize", Joint({{"weight_threshold", "4608"}})));
  EXPECT_TRUE(Left(left, "weight", "4608 elements, weight_threshold is 4608"));
}

// --- Older models --------------------------------------------------------------------------------

// Codes of iOS 16 have a zero point and an axis; a joint pass raises them to iOS 18.
TEST(Joint, RaisesAnOlderModel) {
  const std::pair<PassSpec, PassSpec> cases[] = {
      {Palettize({{"nbits", "4"}}), Spec("quantize", kJoint)},
      {Spec("quantize", {}), Spec("prune", Joint({{"target_sparsity", "0.5"}}))},
      {Spec("quantize", {{"dtype", "uint8"}, {"mode", "linear"}}),
       Palettize(Joint({{"nbits", "2"}}))},
      {Spec("quantize", {{"granularity", "per_tensor"}}), Palettize(Joint({{"nbits", "4"}}))},
      {Spec("prune", {{"target_sparsity", "0.5"}}), Spec("quantize", kJoint)},
      {Spec("prune", {{"target_sparsity", "0.5"}}), Palettize(Joint({{"nbits", "4"}}))},
  };
  for (const auto& [one, two] : cases) {
    SCOPED_TRACE(one.pass + " " + two.pass);
    const PassRun first(OneConvTranspose(kHalf, 8, 64, 3, 7), one);
    ASSERT_TRUE(IsDone(first));
    ASSERT_EQ(first.report().version_after, 7);
    const PassRun run(first.output(), two);
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(run.report().version_after, 9);
    EXPECT_TRUE(DecodesByHand(run));
    const PassRun refused(first.output(), two, {.target = "iOS17"});
    EXPECT_TRUE(Fails(refused.result(), ErrorKind::kUsage,
                      {"--target iOS17: 'weight' needs iOS18 for joint compression"}));
  }
}

// The LUT of iOS 16 has one axis, its entries: that does not make them vectors.
TEST(Joint, PrunesAPalettizedWeightOfAnOlderModel) {
  const PassRun first(OneLinear(kHalf, 16, 512, 7), Palettize({{"nbits", "6"}}));
  const PassRun run(first.output(), Spec("prune", Joint({{"target_sparsity", "0.5"}})));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().version_after, 9);
  EXPECT_TRUE(DecodesByHand(run));
  EXPECT_EQ(Zeros(run.after().Values("weight")), 4096u);
}

// --- Sizes and threads ---------------------------------------------------------------------------

TEST(Joint, OddSizes) {
  for (const Shape& shape : {Shape{1, 13}, Shape{3, 7}, Shape{2, 3, 5, 7}, Shape{33, 65}}) {
    const auto count = static_cast<size_t>(*ElementCount(shape));
    const PassRun first(LinearOf(kFloat, shape, Gaussian(count, 3), 9),
                        Spec("prune", {{"target_sparsity", "0.6"}, {"weight_threshold", "0"}}));
    ASSERT_TRUE(IsDone(first));
    const PassRun palettized(first.output(),
                             Palettize(Joint({{"nbits", "3"}, {"weight_threshold", "0"}})));
    ASSERT_TRUE(IsDone(palettized));
    EXPECT_TRUE(DecodesByHand(palettized));
    const PassRun quantized(
        palettized.output(),
        Spec("quantize", Joint({{"dtype", "uint4"}, {"weight_threshold", "0"}})));
    ASSERT_TRUE(IsDone(quantized));
    EXPECT_TRUE(DecodesByHand(quantized));
    const PassRun codes(first.output(),
                        Spec("quantize", Joint({{"dtype", "int4"}, {"weight_threshold", "0"}})));
    ASSERT_TRUE(IsDone(codes));
    EXPECT_TRUE(DecodesByHand(codes));
  }
}

TEST(Joint, LargeWeights) {
  static_assert(2080 * 2048 > kLargeWeight);
  const PassRun first(OneMatmul(kHalf, 2080, 2048, false, 9),
                      Spec("prune", {{"target_sparsity", "0.5"}}), {.threads = 3});
  ASSERT_TRUE(IsDone(first));
  const PassRun palettized(
      first.output(), Palettize(Joint({{"nbits", "4"}, {"group_size", "260"}})), {.threads = 3});
  ASSERT_TRUE(IsDone(palettized));
  EXPECT_TRUE(DecodesByHand(palettized));
  const PassRun quantized(first.output(), Spec("quantize", Joint({{"dtype", "int4"}})),
                          {.threads = 3});
  ASSERT_TRUE(IsDone(quantized));
  EXPECT_TRUE(DecodesByHand(quantized));
}

TEST(Joint, ThreadsDoNotChangeTheResult) {
  PackageBuilder package = OneConvTranspose(kHalf, 24, 40, 3, 9);
  BlockBuilder main = package.Function("main");
  for (int i = 0; i < 5; ++i) {
    const std::string n = std::to_string(i);
    main.BlobConst("w" + n, kFloat, {80, 101},
                   RandomWeights(kFloat, 8080, static_cast<uint64_t>(i)));
    AddLinear(main, "z" + n, "w" + n, kFloat, {80, 101});
    main.Output("z" + n);
  }
  for (const PassSpec& one : {kPruned, Spec("quantize", {}), Palettize({{"nbits", "6"}})}) {
    const PassRun first(package, one);
    for (const PassSpec& two : {Spec("quantize", kJoint), kPruneAgain,
                                Palettize(Joint({{"nbits", "2"}, {"group_size", "8"}}))}) {
      const PassRun a(first.output(), two, {.threads = 1});
      const PassRun b(first.output(), two, {.threads = 3});
      ASSERT_TRUE(a.ok() && b.ok());
      EXPECT_TRUE(SamePackage(a.output(), b.output()));
    }
  }
}

}  // namespace
}  // namespace cmlc::test
