// Prune: set the values of least magnitude to zero, and store the rest with a mask.
//
// What goes is chosen by a threshold, by a share of all values (an exact number: of equal
// magnitudes those that come first go), in blocks of channels that go or stay together, or as n of
// every m channels. The sparse form costs a bit for each value, so a weight that would not get
// smaller by it is left alone.
//
// With `joint` weights that are quantized or palettized are taken too: the values that they stand
// for decide, and their codes are kept as they are. That needs iOS 18; the sparse form itself fits
// iOS 16.
#include "numeric/prune.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <mutex>

#include "base/check.h"
#include "cmlc/pass.h"
#include "ir/encoding.h"
#include "numeric/lut.h"
#include "passes/coding.h"

namespace cmlc {
namespace {

// How many values are seen at a time where they are taken out by a mask; a multiple of kStepValues.
// A view that is not at hand already costs system calls.
constexpr uint64_t kViewValues = uint64_t{1} << 20;
constexpr int32_t kSpecIos16 = 7;
constexpr int32_t kSpecIos18 = 9;

class Prune final : public WeightPass {
 public:
  Takes takes() const override { return joint_ ? Takes::kBoth : Takes::kPlain; }

  void VisitOwnOptions(OptionVisitor& v) override {
    constexpr double kMost = std::numeric_limits<double>::max();
    v.Number({"target_sparsity", "share of the values that go, from 0 to 1"}, target_sparsity_, 0,
             1);
    v.Number({"threshold", "values of this magnitude or less go (coremltools' default is 1e-12)"},
             threshold_, 0, kMost);
    v.Ints({"n_m_ratio", "n:m, as in 2:4: of every m channels the n of least magnitude go"},
           n_m_ratio_, 0);
    v.Ints(
        {"block_size", "with target_sparsity: so many neighbouring channels go or stay together"},
        block_size_, 1);
    v.Int({"dim",
           "channels that blocks and n:m run along: 0 output (default of blocks), 1 input (default "
           "of n:m)"},
          dim_, 0, {0, 1});
    v.Number({"minimum_sparsity",
              "with threshold: leave weights alone of which a smaller share would be zero (default "
              "0.5)",
              "minimum_sparsity_percentile"},
             minimum_sparsity_, 0, 1);
    v.Flag({"joint", "prune quantized and palettized weights too"}, joint_);
  }

  Status CheckFormat(ModelFormat format) const override {
    if (format == ModelFormat::kProgram) return Ok();
    return Error{ErrorKind::kUsage,
                 "prune: a NeuralNetwork has no sparse weights; `palettize` and `quantize` make it "
                 "smaller"};
  }
  Status CheckOptions() override;
  std::optional<Skipped> Skip(const Weight& weight) const override;
  Need Needs(const Weight& weight) const override {
    return weight.compressed ? Need{kSpecIos18, "joint compression"}
                             : Need{kSpecIos16, "sparse weights"};
  }
  Result<Outcome> Replace(const Weight& weight, const PassContext& context) const override {
    return weight.dtype == DataType::kFloat16 ? ReplaceAs<uint16_t>(weight, context)
                                              : ReplaceAs<float>(weight, context);
  }

 private:
  bool structured() const { return !n_m_ratio_.empty() || !block_size_.empty(); }
  int64_t dim() const { return dim_.value_or(n_m_ratio_.empty() ? 0 : 1); }
  size_t Axis(const Weight& weight) const {
    return static_cast<size_t>(dim() == 0 ? weight.output_axis.value_or(0)
                                          : weight.input_axis.value_or(1));
  }
  template <typename T>
  Result<numeric::Mask> MakeMask(const Weight& weight, ThreadPool& pool,
                                 std::vector<numeric::PrunedSquares>& squares) const;
  template <typename T>
  Result<Outcome> ReplaceAs(const Weight& weight, const PassContext& context) const;

  std::optional<double> target_sparsity_;
  std::optional<double> threshold_;
  std::vector<int64_t> n_m_ratio_;
  std::vector<int64_t> block_size_;
  std::optional<int64_t> dim_;
  std::optional<double> minimum_sparsity_;
  bool joint_ = false;
};

Status Prune::CheckOptions() {
  const auto bad = [](std::string_view what) {
    return Error{ErrorKind::kUsage, fmt::format("prune: {}", what)};
  };
  const int ways = (target_sparsity_ ? 1 : 0) + (threshold_ ? 1 : 0) + (n_m_ratio_.empty() ? 0 : 1);
  if (ways != 1)
    return bad(fmt::format("expected one of target_sparsity, threshold and n_m_ratio, got {}",
                           ways == 0 ? "none" : "several"));
  if (!n_m_ratio_.empty() && n_m_ratio_.size() != 2)
    return bad(fmt::format("n_m_ratio: expected two numbers as in 2:4, got {}", n_m_ratio_.size()));
  if (!n_m_ratio_.empty() && (n_m_ratio_[1] < 1 || n_m_ratio_[0] > n_m_ratio_[1] ||
                              n_m_ratio_[1] > std::numeric_limits<int32_t>::max()))
    return bad(
        fmt::format("n_m_ratio: {}:{} does not have 0 <= n <= m", n_m_ratio_[0], n_m_ratio_[1]));
  if (block_size_.size() > 1) return bad("block_size: expected one number");
  if (!block_size_.empty() && !target_sparsity_)
    return bad("block_size: is only used with target_sparsity");
  if (!block_size_.empty() && block_size_[0] < 2)
    return bad(fmt::format("block_size: expected 2 or more, got {}", block_size_[0]));
  if (dim_ && !structured()) return bad("dim: is only used with block_size or n_m_ratio");
  if (minimum_sparsity_ && !threshold_) return bad("minimum_sparsity: is only used with threshold");
  return Ok();
}

std::optional<Skipped> Prune::Skip(const Weight& weight) const {
  if (weight.compressed) {
    const Encoding* encoding = weight.encoding.get();
    if (encoding == nullptr)
      return Skipped{"of a form that is not joined", "the chain of constexpr ops is not known"};
    if (encoding->sparse()) return Skipped{"already sparse", "it has a mask"};
    if (encoding->width() > 1)
      return Skipped{"palettized with vectors",
                     fmt::format("an index stands for {} values, which cannot go one by one",
                                 encoding->width())};
  }
  if (!structured()) return std::nullopt;
  // What has channels that are summed over, or that make the outputs. The name of a weight says
  // that its owner knows better.
  if (!weight.named) {
    for (const Consumer& consumer : weight.consumers) {
      const bool layer = (consumer.op_type == "conv" || consumer.op_type == "conv_transpose" ||
                          consumer.op_type == "linear") &&
                         consumer.parameter == "weight";
      const bool product =
          consumer.op_type == "matmul" && (consumer.parameter == "x" || consumer.parameter == "y");
      if (!layer && !product)
        return Skipped{"not of a layer with channels",
                       fmt::format("{} reads it; blocks and n:m are for weights of conv, "
                                   "conv_transpose, linear and matmul (--op-name {}=... forces it)",
                                   consumer.op_type, weight.name)};
    }
    if (!weight.output_axis || !weight.input_axis)
      return Skipped{"read along different axes", "its readers have channels on different axes"};
  }
  const size_t axis = Axis(weight);
  if (axis >= weight.shape.size())
    return Skipped{"without that dimension", fmt::format("shape {}", ToString(weight.shape))};
  const int64_t size = weight.shape[axis];
  const int64_t structure = n_m_ratio_.empty() ? block_size_[0] : n_m_ratio_[1];
  if (2 * structure > size)
    return Skipped{"with too few channels",
                   fmt::format("{} {} is more than half of {} channels (axis {} of {})",
                               n_m_ratio_.empty() ? "block_size" : "m of n_m_ratio", structure,
                               size, axis, ToString(weight.shape))};
  return std::nullopt;
}

// `squares` gets those of each piece if there are no structures.
template <typename T>
Result<numeric::Mask> Prune::MakeMask(const Weight& weight, ThreadPool& pool,
                                      std::vector<numeric::PrunedSquares>& squares) const {
  const WeightSource<T> source(weight, 0, weight.element_count);
  if (threshold_)
    return numeric::MaskByThreshold(source, static_cast<float>(*threshold_), pool, &squares);
  const auto count = static_cast<double>(weight.element_count);
  if (!structured())
    return numeric::MaskBySparsity(source,
                                   static_cast<uint64_t>(std::llround(*target_sparsity_ * count)),
                                   true, pool, &squares);
  const size_t axis = Axis(weight);
  numeric::AxisLayout layout;
  for (size_t d = 0; d < weight.shape.size(); ++d)
    (d < axis   ? layout.outer
     : d > axis ? layout.inner
                : layout.channels) *= static_cast<uint64_t>(weight.shape[d]);
  const WeightReader<T> reader(weight);
  if (n_m_ratio_.empty())
    return numeric::MaskByBlocks(reader, layout, static_cast<uint64_t>(block_size_[0]),
                                 *target_sparsity_, pool);
  return numeric::MaskByNm(reader, layout, static_cast<uint64_t>(n_m_ratio_[0]),
                           static_cast<uint64_t>(n_m_ratio_[1]), pool);
}

// Why a weight is left alone that holds something that is no number.
template <typename T>
Result<std::optional<Skipped>> NotFinite(const WeightSource<T>& source, ThreadPool& pool) {
  std::mutex mutex;
  Status status;
  std::optional<uint64_t> not_finite;
  pool.For(source.pieces(), [&](size_t piece, int) {
    const Status step = source.Visit(piece, [&](uint64_t first, std::span<const T> values) {
      const size_t bad = numeric::FirstNotFinite(values);
      if (bad == values.size()) return;
      const std::lock_guard lock(mutex);
      not_finite = std::min(not_finite.value_or(UINT64_MAX), first + bad);
    });
    const std::lock_guard lock(mutex);
    if (!step.ok() && status.ok()) status = step;
  });
  CMLC_RETURN_IF_ERROR(status);
  if (!not_finite) return std::optional<Skipped>();
  return std::optional<Skipped>(
      Skipped{"not finite", fmt::format("element {} is infinite or not a number", *not_finite)});
}

// The values that are there, as they are.
template <typename T>
TensorSource KeptValues(const Weight& weight, const std::shared_ptr<const Kept>& kept) {
  TensorSource source{.dtype = weight.dtype, .element_count = kept->index.ones(), .fill = nullptr};
  source.fill = [&weight, kept](uint64_t begin, std::span<std::byte> out) -> Status {
    const uint64_t first = begin / sizeof(T);
    const size_t count = out.size() / sizeof(T);
    if (count == 0) return Ok();
    const uint64_t start = kept->index.PositionOf(first) / 8 * 8;
    const uint64_t end = kept->index.PositionOf(first + count - 1) + 1;
    auto skip = static_cast<size_t>(first - kept->index.OnesBefore(start));
    size_t written = 0;
    std::vector<T> there;
    TensorView view;
    for (uint64_t at = start; at < end; at += kStepValues) {
      const auto step = static_cast<size_t>(std::min<uint64_t>(kStepValues, end - at));
      const uint64_t in_view = (at - start) % kViewValues;
      if (in_view == 0) {
        CMLC_ASSIGN_OR_RETURN(
            view, weight.View(at * sizeof(T), std::min(kViewValues, end - at) * sizeof(T)));
      }
      const std::span<const T> values(reinterpret_cast<const T*>(view.bytes().data()) + in_view,
                                      step);
      const uint8_t* bits = kept->mask.bits.data() + at / 8;
      T* to = reinterpret_cast<T*>(out.data()) + written;
      if (skip == 0 && count - written >= step) {
        written += numeric::CompressKept(values, bits, to);
        continue;
      }
      // Near the ends it would write more than there is room for.
      there.resize(kStepValues);
      const size_t found = numeric::CompressKept(values, bits, there.data());
      const size_t from = std::min(skip, found);
      skip -= from;
      const size_t some = std::min(found - from, count - written);
      std::memcpy(to, there.data() + from, some * sizeof(T));
      written += some;
    }
    CMLC_CHECK(written == count);
    return Ok();
  };
  return source;
}

template <typename T>
Result<Outcome> Prune::ReplaceAs(const Weight& weight, const PassContext& context) const {
  const WeightSource<T> source(weight, 0, weight.element_count);
  // Norms of values that are not finite mean nothing. Where magnitudes decide, the sums below say
  // whether there are any.
  if (structured()) {
    CMLC_ASSIGN_OR_RETURN(const std::optional<Skipped> skipped, NotFinite(source, context.pool));
    if (skipped) return Outcome(*skipped);
  }
  // What goes is the error.
  std::vector<numeric::PrunedSquares> pieces;
  CMLC_ASSIGN_OR_RETURN(numeric::Mask mask, MakeMask<T>(weight, context.pool, pieces));
  if (structured()) {
    CMLC_RETURN_IF_ERROR(numeric::ClearZeros(source, mask, context.pool));
    CMLC_RETURN_IF_ERROR(numeric::SquaresOfPieces(source, mask, context.pool, pieces));
  }
  const auto kept = std::make_shared<const Kept>(std::move(mask));
  Quality quality;
  for (const numeric::PrunedSquares& piece : pieces) {
    quality.signal += piece.all;
    quality.noise += piece.gone;
  }
  if (!std::isfinite(quality.signal)) {
    CMLC_ASSIGN_OR_RETURN(const std::optional<Skipped> skipped, NotFinite(source, context.pool));
    if (skipped) return Outcome(*skipped);
  }

  const uint64_t there = kept->index.ones();
  const auto count = static_cast<double>(weight.element_count);
  const double sparsity = 1 - static_cast<double>(there) / count;
  if (threshold_ && sparsity < minimum_sparsity_.value_or(0.5))
    return Outcome(Skipped{"with too few zeros",
                           fmt::format("{:.2f} % would be zero, minimum_sparsity is {:.2f} %",
                                       100 * sparsity, 100 * minimum_sparsity_.value_or(0.5))});
  const DataType data_type = weight.compressed ? weight.encoding->data.dtype : weight.dtype;
  const uint64_t dense = *PackedBytes(weight.element_count, BitsOf(data_type));
  const uint64_t sparse =
      *PackedBytes(there, BitsOf(data_type)) + *PackedBytes(weight.element_count, 1);
  if (sparse >= dense)
    return Outcome(Skipped{"smaller without a mask",
                           fmt::format("{:.2f} % would be zero: {} bytes with a mask, {} without",
                                       100 * sparsity, sparse, dense)});

  Encoding encoding;
  if (weight.compressed) encoding = *weight.encoding;
  encoding.dtype = weight.dtype;
  encoding.shape = weight.shape;
  encoding.kept = there;
  encoding.mask = Operand{
      .dtype = DataType::kUInt1,
      .shape = weight.shape,
      .content = TensorSource{.dtype = DataType::kUInt1,
                              .element_count = weight.element_count,
                              .fill = [kept](uint64_t begin, std::span<std::byte> out) {
                                std::memcpy(out.data(), kept->mask.bits.data() + begin, out.size());
                                return Ok();
                              }}};
  Operand data{.dtype = data_type, .shape = {static_cast<int64_t>(there)}, .content = {}};
  if (weight.compressed) {
    // The codes of what stays, untouched.
    const auto bits = static_cast<uint64_t>(BitsOf(data_type));
    TensorSource codes{.dtype = data_type, .element_count = there, .fill = nullptr};
    codes.fill = [&weight, kept, bits, there](uint64_t begin, std::span<std::byte> out) -> Status {
      const uint64_t first = begin * 8 / bits;
      const auto wanted =
          static_cast<size_t>(std::min<uint64_t>(out.size() * 8 / bits, there - first));
      if (wanted == 0) return Ok();
      const uint64_t start = kept->index.PositionOf(first) / 8 * 8;
      const uint64_t end = kept->index.PositionOf(first + wanted - 1) + 1;
      const auto skip = static_cast<size_t>(first - kept->index.OnesBefore(start));
      std::vector<uint8_t> step(kStepValues), found;
      for (uint64_t at = start; at < end; at += kStepValues) {
        const std::span<uint8_t> some =
            std::span(step).first(static_cast<size_t>(std::min<uint64_t>(kStepValues, end - at)));
        CMLC_ASSIGN_OR_RETURN(const TensorView view,
                              ViewOperand(weight.encoding->data, *weight.store, at * bits / 8,
                                          *PackedBytes(some.size(), static_cast<int>(bits))));
        numeric::UnpackBits(view.bytes(), static_cast<int>(bits), 0, some);
        const size_t before = found.size();
        found.resize(before + some.size());
        found.resize(before + numeric::CompressKept(some, kept->mask.bits.data() + at / 8,
                                                    found.data() + before));
      }
      numeric::PackBits(std::span(found).subspan(skip, wanted), static_cast<int>(bits), out);
      return Ok();
    };
    data.content = std::move(codes);
  } else {
    data.content = KeptValues<T>(weight, kept);
  }
  encoding.data = std::move(data);
  return Outcome(MakeReplacement(std::move(encoding), context.specification_version,
                                 fmt::format("sparse, {:.2f} % zeros", 100 * sparsity),
                                 [quality] { return quality; }));
}

}  // namespace

PassInfo PrunePass() {
  return {.name = "prune",
          .summary = "set values of least magnitude to zero and store the rest with a mask",
          .description =
              "Values go by a threshold, as a share of each weight (in blocks of channels, if "
              "wanted), or as n of every m channels. Weights that would not get smaller by it are "
              "left alone. Runs on iOS 16 and later; joint compression needs iOS 18.",
          .suffix = "pruned",
          .make = MakePass<Prune>};
}

}  // namespace cmlc
