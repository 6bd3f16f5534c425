#include "passes/activations.h"

#include <fmt/format.h>

#include "activations/ops.h"

namespace cmlc {
namespace {

const std::vector<std::string>& OptionalOps() {
  static const std::vector<std::string> ops = [] {
    std::vector<std::string> names;
    for (const activations::QuantizableOp& op : activations::QuantizableOps())
      if (!op.by_default) names.emplace_back(op.type);
    return names;
  }();
  return ops;
}

}  // namespace

void ActivationPass::VisitOptions(OptionVisitor& visitor) {
  visitor.Choice({"mode", "symmetric to 0, or any range with 0 in it"}, mode_,
                 {"linear_symmetric", "linear"});
  visitor.Choice({"dtype", "type of the codes"}, dtype_, {"int8", "uint8"});
  visitor.Choice(
      {"ranges",
       "how ranges are found from statistics: the least mean squared error, all that was "
       "seen, a moving average over samples, all but a share at each end, or the least "
       "Kullback-Leibler divergence"},
      ranges_, {"mse", "minmax", "ema", "percentile", "kl"});
  visitor.Number({"percentile", "of --ranges percentile: what is kept at each end (default 99.99)"},
                 percentile_, 50, 100);
  visitor.Number({"ema_weight", "of --ranges ema: what a new sample weighs (default 0.1)"},
                 ema_weight_, 0, 1);
  visitor.Words({"ops", "ops to quantize besides conv, linear, avg_pool, max_pool and add"}, ops_,
                OptionalOps());
  visitor.Choice({"tied",
                  "which values share a range: those of a concat and those before and behind ops "
                  "that only move data, those of a concat, or none"},
                 tied_, {"all", "concat", "none"});
  visitor.Flag({"keep_io", "leave the first and the last layers in float"}, keep_io_);
  visitor.Choice({"normalize_scales",
                  "between quantized operands and result of add and sub, make the scale of one "
                  "operand 1, as coremltools does for speed"},
                 normalize_scales_, {"true", "false"});
}

Status ActivationPass::CheckOptions() {
  if (percentile_ && ranges_ != "percentile")
    return Error{
        ErrorKind::kUsage,
        fmt::format("activations: percentile: goes with ranges percentile, got {}", ranges_)};
  if (ema_weight_ && ranges_ != "ema")
    return Error{ErrorKind::kUsage,
                 fmt::format("activations: ema_weight: goes with ranges ema, got {}", ranges_)};
  return Ok();
}

activations::Settings ActivationPass::settings() const {
  using activations::Method;
  activations::Settings settings;
  settings.method = ranges_ == "minmax"       ? Method::kMinMax
                    : ranges_ == "ema"        ? Method::kEma
                    : ranges_ == "percentile" ? Method::kPercentile
                    : ranges_ == "kl"         ? Method::kKl
                                              : Method::kMse;
  settings.symmetric = mode_ == "linear_symmetric";
  settings.dtype = dtype_ == "int8" ? DataType::kInt8 : DataType::kUInt8;
  settings.percentile = percentile_.value_or(settings.percentile);
  settings.ema_weight = ema_weight_.value_or(settings.ema_weight);
  return settings;
}

activations::PlacementOptions ActivationPass::placement() const {
  using activations::Tied;
  return {.more_ops = {ops_.begin(), ops_.end()},
          .tied = tied_ == "all"      ? Tied::kAll
                  : tied_ == "concat" ? Tied::kConcat
                                      : Tied::kNone,
          .keep_io = keep_io_};
}

PassInfo ActivationsPass() {
  return {.name = "activations",
          .summary = "quantize the values between ops to 8 bits, by statistics of sample data",
          .description =
              "Puts pairs of quantize and dequantize in front of and behind conv, linear, pooling "
              "and add ops (more with --ops), so that devices can compute in integers. Ranges come "
              "from --data, which the model is run over, or from a file of `cmlc calibrate` "
              "(--stats). Needs iOS 17. For integer compute weights have to have 8 bits or fewer, "
              "too: `cmlc run --preset w8a8`.",
          .suffix = "a8",
          .kind = PassKind::kActivations,
          .make = MakePass<ActivationPass>};
}

}  // namespace cmlc
