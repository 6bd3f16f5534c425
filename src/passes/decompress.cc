// Decompress: turn compressed weights back into plain fp16 or fp32 tensors.
//
// Whatever constexpr operation, or chain of them, stands behind a weight, its values are computed
// and stored as a const of the same name, type and shape. What only fed the chain goes away with
// it. The values are those that a system computes when it loads the compressed model.
#include <memory>

#include "cmlc/pass.h"
#include "ir/decode.h"
#include "numeric/convert.h"

namespace cmlc {
namespace {

class Decompress final : public WeightPass {
 public:
  Takes takes() const override { return Takes::kCompressed; }
  Storage stores() const override { return Storage::kFloat; }

  Need Needs(const Weight&) const override { return {}; }

  Result<Outcome> Replace(const Weight& weight, const PassContext&) const override {
    const TensorReader* reader = weight.reader;
    const bool is_network = weight.format == ModelFormat::kNetwork;
    const DataType dtype = weight.dtype;
    TensorSource source{.dtype = dtype, .element_count = weight.element_count, .fill = nullptr};
    source.fill = [reader, dtype](uint64_t begin, std::span<std::byte> out) -> Status {
      const auto bits = static_cast<uint64_t>(BitsOf(dtype));
      const uint64_t first = begin * 8 / bits;
      const auto count = static_cast<size_t>(out.size() * 8 / bits);
      if (dtype == DataType::kFloat32)
        return reader->Read(first, {reinterpret_cast<float*>(out.data()), count});
      std::vector<float> values(count);
      CMLC_RETURN_IF_ERROR(reader->Read(first, values));
      if (dtype == DataType::kFloat16) {
        numeric::FloatsToHalves(values.data(), count, reinterpret_cast<uint16_t*>(out.data()));
      } else if (dtype == DataType::kInt8) {
        for (size_t i = 0; i < count; ++i)
          out[i] = static_cast<std::byte>(static_cast<int8_t>(values[i]));
      } else {
        for (size_t i = 0; i < count; ++i)
          out[i] = static_cast<std::byte>(static_cast<uint8_t>(values[i]));
      }
      return Ok();
    };

    Replacement replacement;
    replacement.form = "plain";
    replacement.tensors.push_back(
        {.dtype = dtype, .shape = weight.shape, .content = std::move(source)});
    replacement.build = [is_network](const Operation& op, const std::vector<Value>& values) {
      Operation constant;
      constant.type = "const";
      constant.outputs = op.outputs;
      if (is_network) constant.outputs[0].type = values[0].type;  // it may have been fp16
      constant.attributes["name"] = MakeString(NameOf(op));
      constant.attributes["val"] = values[0];
      return std::vector<Operation>{std::move(constant)};
    };
    replacement.quality = [] { return Quality{}; };
    return Outcome(std::move(replacement));
  }

  std::optional<Skipped> Skip(const Weight& weight) const override {
    if (IsWeightFloat(weight.dtype) || weight.dtype == DataType::kInt8 ||
        weight.dtype == DataType::kUInt8)
      return std::nullopt;
    return Skipped{"of a type that no const is decompressed to", NameOf(weight.dtype)};
  }

 protected:
  int64_t default_threshold() const override { return 0; }
};

}  // namespace

PassInfo DecompressPass() {
  return {.name = "decompress",
          .summary = "turn compressed weights back into plain fp16 or fp32 tensors",
          .description =
              "Every form that compressed weights take (LUT, linear, sparse, joint chains, of "
              "iOS 16 and of iOS 18) becomes a const with the values that it stands for. The "
              "specification version stays as it is.",
          .suffix = "decompressed",
          .make = MakePass<Decompress>};
}

}  // namespace cmlc
