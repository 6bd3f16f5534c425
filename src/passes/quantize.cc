// Quantize: store each weight as small integers, value = scale * (code - zero point), with a scale
// (and in mode linear a zero point) for the whole weight, for each output channel, or for each
// block of input channels of each output channel. In a NeuralNetwork codes of 1 to 8 bits stand for
// code * scale + bias, and the bias is any number. With dtype fp16 weights of fp32 become fp16.
//
// By default scales are searched for the least squared error, which costs no bytes; `scales minmax`
// spreads the codes over the range of the values as coremltools does. All arithmetic is in fp32 or
// better, and codes are computed from the scale as it is stored.
//
// With `joint` compressed weights are taken too: of a palettized one the LUT's entries are
// quantized (one scale for each LUT, or one for all with per_tensor), of a sparse one the values
// that are there. That, blocks and 4 bits need iOS 18; int8 and uint8 with one scale or one for
// each channel fit the older form of iOS 16.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <mutex>

#include "base/check.h"
#include "cmlc/pass.h"
#include "ir/encoding.h"
#include "numeric/affine.h"
#include "numeric/convert.h"
#include "numeric/half.h"
#include "numeric/linear.h"
#include "numeric/lut.h"
#include "passes/coding.h"

namespace cmlc {
namespace {

constexpr int32_t kSpecIos11_2 = 2;
constexpr int32_t kSpecIos12 = 3;
constexpr int32_t kSpecIos16 = 7;
constexpr int32_t kSpecIos18 = 9;
constexpr int64_t kDefaultBlockSize = 32;

DataType TypeOf(std::string_view name) {
  for (const DataType type : {DataType::kInt8, DataType::kUInt8, DataType::kInt4, DataType::kUInt4})
    if (FindDataType(type)->name == name) return type;
  CMLC_CHECK(false);
}

// What the two kinds of codes are made and stored with. `Stored` keeps the parameters of all
// blocks, as small as they are stored: there may be one for each 32 values, and those of a whole
// batch of weights are held at a time. Its Get gives those of the blocks from `first` on.
constexpr size_t kMostAtOnce = 512;

// ML Programs: scale * (code - zero point).
struct LinearCodes {
  using Format = numeric::LinearFormat;
  using Parameters = numeric::LinearParameters;

  class Stored {
   public:
    Stored(std::span<const Parameters> blocks, DataType dtype, bool has_offset)
        : is_half_(dtype == DataType::kFloat16) {
      std::vector<float> scales(blocks.size());
      for (size_t i = 0; i < scales.size(); ++i) scales[i] = blocks[i].scale;
      scales_.resize(scales.size() * (is_half_ ? sizeof(uint16_t) : sizeof(float)));
      if (is_half_)
        numeric::FloatsToHalves(scales.data(), scales.size(),
                                reinterpret_cast<uint16_t*>(scales_.data()));
      else
        std::memcpy(scales_.data(), scales.data(), scales_.size());
      if (!has_offset) return;
      for (const Parameters& block : blocks)
        zeros_.push_back(static_cast<int16_t>(block.zero_point));
    }

    const std::string& ScaleBytes() const { return scales_; }
    std::string OffsetBytes(int bits) const {
      std::vector<uint8_t> codes;
      for (const int zero : zeros_) codes.push_back(static_cast<uint8_t>(zero & ((1 << bits) - 1)));
      std::string bytes(static_cast<size_t>(*PackedBytes(codes.size(), bits)), '\0');
      numeric::PackBits(codes, bits, std::as_writable_bytes(std::span(bytes)));
      return bytes;
    }
    void Get(size_t first, std::span<Parameters> blocks) const {
      std::array<float, kMostAtOnce> scales;
      if (is_half_)
        numeric::HalvesToFloats(reinterpret_cast<const uint16_t*>(scales_.data()) + first,
                                blocks.size(), scales.data());
      else
        std::memcpy(scales.data(), scales_.data() + first * sizeof(float),
                    blocks.size() * sizeof(float));
      for (size_t i = 0; i < blocks.size(); ++i)
        blocks[i] = {scales[i], zeros_.empty() ? 0 : zeros_[first + i]};
    }

   private:
    bool is_half_ = true;
    std::string scales_;
    std::vector<int16_t> zeros_;  // none if all are 0
  };

  // Codes are spread over the range of the values and 0.
  static Parameters OfRange(float least, float greatest, const Format& format) {
    return numeric::FitMinMax(std::min(least, 0.0f), std::max(greatest, 0.0f), format);
  }
  static Parameters OfPoints(const numeric::Points& points, const Format& format) {
    return numeric::FitLinear(points, format);
  }
  template <typename T>
  static bool OfBlocks(const T* values, size_t size, size_t count, const Format& format,
                       Parameters* parameters) {
    return numeric::FitLinearBlocks(values, size, count, format, parameters);
  }
  template <typename T>
  static numeric::LinearError Encode(const T* values, size_t size, size_t count,
                                     const Parameters* parameters, const Format& format,
                                     uint8_t* codes) {
    return numeric::QuantizeLinearBlocks(values, size, count, parameters, format, codes);
  }
};

// NeuralNetworks: code * scale + bias.
struct AffineCodes {
  using Format = numeric::AffineFormat;
  using Parameters = numeric::AffineParameters;

  class Stored {
   public:
    explicit Stored(std::vector<Parameters> blocks) : blocks_(std::move(blocks)) {}
    std::string Bytes(float Parameters::*member) const {
      std::string bytes(blocks_.size() * sizeof(float), '\0');
      for (size_t i = 0; i < blocks_.size(); ++i)
        std::memcpy(bytes.data() + i * sizeof(float), &(blocks_[i].*member), sizeof(float));
      return bytes;
    }
    void Get(size_t first, std::span<Parameters> blocks) const {
      std::copy_n(blocks_.begin() + static_cast<std::ptrdiff_t>(first), blocks.size(),
                  blocks.begin());
    }

   private:
    std::vector<Parameters> blocks_;
  };

  static Parameters OfRange(float least, float greatest, const Format& format) {
    return numeric::AffineOfRange(least, greatest, format);
  }
  static Parameters OfPoints(const numeric::Points& points, const Format& format) {
    return numeric::FitAffine(points, format);
  }
  template <typename T>
  static bool OfBlocks(const T* values, size_t size, size_t count, const Format& format,
                       Parameters* parameters) {
    return numeric::FitAffineBlocks(values, size, count, format, parameters);
  }
  template <typename T>
  static numeric::LinearError Encode(const T* values, size_t size, size_t count,
                                     const Parameters* parameters, const Format& format,
                                     uint8_t* codes) {
    return numeric::QuantizeAffineBlocks(values, size, count, parameters, format, codes);
  }
};

// Which block an element is in, without a division where blocks follow each other.
class BlockFinder {
 public:
  BlockFinder(const Shape& shape, const Shape& blocks)
      : layout_(shape, blocks), grid_(shape, blocks) {}
  bool contiguous() const { return layout_.contiguous; }
  uint64_t size() const { return layout_.block_size; }
  uint64_t Locate(uint64_t position, uint64_t& run) const {
    if (!layout_.contiguous) return grid_.Locate(position, run);
    run = layout_.block_size - position % layout_.block_size;
    return position / layout_.block_size;
  }

 private:
  BlockLayout layout_;
  BlockGrid grid_;
};

class Quantize final : public WeightPass {
 public:
  Takes takes() const override { return joint_ ? Takes::kBoth : Takes::kPlain; }

  void VisitOwnOptions(OptionVisitor& v) override {
    v.Choice({"mode",
              "linear_symmetric: zero is the middle of the codes; linear: each scale has a zero "
              "point of its own"},
             mode_, {"linear_symmetric", "linear"});
    v.Choice(
        {"dtype", "of the codes (default int8), or fp16 for weights that become half as large"},
        dtype_, {"int8", "uint8", "int4", "uint4", "fp16"});
    v.Int({"nbits",
           "bits of a code, in place of dtype: 1 to 8 in a NeuralNetwork, 4 or 8 in an ML Program; "
           "16 for fp16"},
          nbits_, 1, {1, 2, 3, 4, 5, 6, 7, 8, 16});
    v.Choice({"granularity",
              "what shares a scale: the weight, an output channel, or block_size input channels of "
              "an output channel (default: per_block if a block size is given, else per_channel)"},
             granularity_, {"per_tensor", "per_channel", "per_block"});
    v.Ints({"block_size",
            "input channels that share a scale (default 32), 0 for all; or one size for every axis "
            "of the weight, joined by commas, 0 for the whole axis"},
           block_size_, 0);
    v.Choice({"scales",
              "search: scales and zero points of least squared error; minmax: from the least and "
              "greatest value"},
             scales_, {"search", "minmax"});
    v.Choice({"fallback",
              "for a weight whose axis the block size does not divide: leave it alone, take the "
              "nearest size that divides, or one scale for each channel"},
             fallback_, {"skip", "nearest", "per_channel"});
    v.Flag({"joint", "quantize compressed weights too: LUT entries, and the values of sparse ones"},
           joint_);
  }

  Status CheckOptions() override {
    if (nbits_ && !dtype_.empty())
      return Error{
          ErrorKind::kUsage,
          fmt::format("quantize: nbits: is {} and dtype is {}; give one of them", *nbits_, dtype_)};
    if (nbits_ == 16) dtype_ = "fp16";
    if (nbits_ == 4) dtype_ = "int4";
    if (dtype_.empty()) dtype_ = "int8";  // of other widths CheckFormat says what holds them
    if (granularity_.empty()) granularity_ = block_size_.empty() ? "per_channel" : "per_block";
    if (granularity_ != "per_block" && !block_size_.empty())
      return Error{
          ErrorKind::kUsage,
          fmt::format("quantize: block_size: has no meaning with granularity {}", granularity_)};
    if (block_size_.empty()) block_size_ = {kDefaultBlockSize};
    return Ok();
  }

  Status CheckFormat(ModelFormat format) const override;
  Storage stores() const override { return is_half() ? Storage::kHalf : Storage::kCodes; }
  std::optional<Skipped> Skip(const Weight& weight) const override;
  Need Needs(const Weight& weight) const override;
  Result<Outcome> Replace(const Weight& weight, const PassContext& context) const override {
    if (is_half()) return ReplaceByHalves(weight, context);
    if (weight.format == ModelFormat::kNetwork) return ReplaceAffine(weight, context);
    if (weight.encoding && weight.encoding->palettized()) return ReplaceLut(weight, context);
    return weight.dtype == DataType::kFloat16 ? ReplaceLinear<uint16_t>(weight, context)
                                              : ReplaceLinear<float>(weight, context);
  }

 protected:
  int64_t default_threshold() const override {
    return is_half() ? 0 : WeightPass::default_threshold();
  }

 private:
  // The number of blocks along each axis, or why there is none; `note` says what was done instead
  // of what was asked for.
  struct Blocks {
    Shape counts;
    std::string note;
    std::optional<Skipped> skipped;
  };
  Blocks BlocksOf(const Weight& weight) const;
  numeric::LinearFormat FormatOf(DataType scale_dtype) const {
    const DataTypeInfo* info = FindDataType(TypeOf(dtype_));
    return {.bits = info->bits,
            .is_signed = info->is_signed,
            .symmetric = mode_ == "linear_symmetric",
            .scale_type = scale_dtype == DataType::kFloat16 ? numeric::EntryType::kHalf
                                                            : numeric::EntryType::kFloat,
            .search = scales_ == "search"};
  }
  numeric::AffineFormat AffineFormatOf() const {
    return {
        .bits = bits(), .symmetric = mode_ == "linear_symmetric", .search = scales_ == "search"};
  }
  bool is_half() const { return dtype_ == "fp16"; }
  int bits() const {
    return nbits_ ? static_cast<int>(*nbits_) : FindDataType(TypeOf(dtype_))->bits;
  }
  bool has_offset() const { return mode_ == "linear" || dtype_[0] == 'u'; }
  std::string FormText(std::string_view codes, const Shape& blocks, const std::string& note) const;
  template <typename T>
  Result<Outcome> ReplaceLinear(const Weight& weight, const PassContext& context) const;
  Result<Outcome> ReplaceAffine(const Weight& weight, const PassContext& context) const;
  Result<Outcome> ReplaceByHalves(const Weight& weight, const PassContext& context) const;
  Result<Outcome> ReplaceLut(const Weight& weight, const PassContext& context) const;

  std::string mode_ = "linear_symmetric";
  std::string dtype_;
  std::optional<int64_t> nbits_;
  std::string granularity_;
  std::vector<int64_t> block_size_;
  std::string scales_ = "search";
  std::string fallback_ = "skip";
  bool joint_ = false;
};

Status Quantize::CheckFormat(ModelFormat format) const {
  const auto bad = [](std::string_view option, std::string_view what) {
    return Error{ErrorKind::kUsage, fmt::format("quantize: {}: {}", option, what)};
  };
  if (is_half()) return Ok();
  if (format == ModelFormat::kProgram) {
    if (nbits_ && *nbits_ != 4 && *nbits_ != 8)
      return bad("nbits", fmt::format("is {}, which NeuralNetworks alone can hold; an ML Program "
                                      "takes 4 or 8 (`palettize` takes 1, 2, 3 and 6 as well)",
                                      *nbits_));
    return Ok();
  }
  if (granularity_ == "per_block")
    return bad(block_size_.empty() ? "granularity" : "block_size",
               "a NeuralNetwork holds one scale for each weight or output channel; leave it out "
               "(per_channel)");
  if (joint_)
    return bad("joint", "a NeuralNetwork holds no chains of compressed forms; `decompress` first");
  return Ok();
}

Quantize::Blocks Quantize::BlocksOf(const Weight& weight) const {
  Blocks blocks;
  const Shape& shape = weight.shape;
  blocks.counts.assign(shape.size(), 1);
  if (granularity_ == "per_tensor") return blocks;
  if (weight.format == ModelFormat::kNetwork) {
    // What has no such axis, as a bias, takes one scale.
    if (weight.output_axis) {
      const auto axis = static_cast<size_t>(*weight.output_axis);
      blocks.counts[axis] = shape[axis];
    }
    return blocks;
  }
  const bool by_axis = granularity_ == "per_block" && block_size_.size() > 1;
  if (!by_axis && (!weight.output_axis || !weight.input_axis)) {
    std::string readers;
    for (const Consumer& consumer : weight.consumers)
      readers += fmt::format("{}{} '{}' axis {}", readers.empty() ? "" : ", ", consumer.op_type,
                             consumer.op_name, consumer.output_axis.value_or(-1));
    blocks.skipped = Skipped{"read along different axes",
                             fmt::format("its readers have output channels on different axes ({}); "
                                         "granularity per_tensor, or a block size for every axis, "
                                         "does not depend on them",
                                         readers)};
    return blocks;
  }
  const auto output = static_cast<size_t>(weight.output_axis.value_or(0));
  const auto per_channel = [&] {
    blocks.counts.assign(shape.size(), 1);
    blocks.counts[output] = shape[output];
  };
  if (granularity_ == "per_channel") {
    per_channel();
    return blocks;
  }
  std::vector<int64_t> sizes(shape.size(), 0);
  if (by_axis) {
    if (block_size_.size() != shape.size()) {
      blocks.skipped = Skipped{
          "of another rank than block_size",
          fmt::format("block_size has {} sizes, shape is {}", block_size_.size(), ToString(shape))};
      return blocks;
    }
    sizes = block_size_;
  } else {
    sizes[output] = 1;
    sizes[static_cast<size_t>(*weight.input_axis)] = block_size_[0];
  }
  for (size_t d = 0; d < shape.size(); ++d) {
    if (sizes[d] == 0) continue;
    if (shape[d] % sizes[d] != 0) {
      const std::string what = fmt::format("block size {} does not divide {} (axis {} of {})",
                                           sizes[d], shape[d], d, ToString(shape));
      switch (FallbackOf(fallback_)) {
        case Fallback::kSkip:
          blocks.skipped = Skipped{"with an axis that block_size does not divide",
                                   what + "; --fallback nearest or per_channel would do it"};
          return blocks;
        case Fallback::kNearest: {
          const int64_t nearest = NearestDivisor(shape[d], sizes[d]);
          blocks.note += fmt::format(", block size {} for {} that does not divide {}", nearest,
                                     sizes[d], shape[d]);
          sizes[d] = nearest;
          break;
        }
        case Fallback::kPerChannel:
          per_channel();
          blocks.note = fmt::format(", per channel: {}", what);
          return blocks;
      }
    }
    blocks.counts[d] = shape[d] / sizes[d];
  }
  return blocks;
}

std::optional<Skipped> Quantize::Skip(const Weight& weight) const {
  if (is_half() && weight.stored_dtype == DataType::kFloat16)
    return Skipped{"fp16 already", "it is what dtype fp16 would make of it"};
  if (is_half()) {
    if (weight.compressed) return Skipped{"already compressed", "dtype fp16 is for plain weights"};
    return std::nullopt;
  }
  if (weight.compressed) {
    const Encoding* encoding = weight.encoding.get();
    if (encoding == nullptr)
      return Skipped{"of a form that is not joined", "the chain of constexpr ops is not known"};
    if (encoding->scale || encoding->lut_scale)
      return Skipped{"already quantized", "its codes have scales"};
    if (encoding->palettized()) return std::nullopt;
  }
  return BlocksOf(weight).skipped;
}

WeightPass::Need Quantize::Needs(const Weight& weight) const {
  if (weight.format == ModelFormat::kNetwork)
    return is_half() ? Need{kSpecIos11_2, "fp16 weights"} : Need{kSpecIos12, "integer weights"};
  if (is_half()) return {kSpecIos16, "fp16 weights that are cast to fp32"};
  if (weight.compressed) return {kSpecIos18, "joint compression"};
  if (bits() < 8) return {kSpecIos18, dtype_ + " codes"};
  const Blocks blocks = BlocksOf(weight);
  const auto cut = std::count_if(blocks.counts.begin(), blocks.counts.end(),
                                 [](int64_t count) { return count > 1; });
  if (cut > 1) return {kSpecIos18, "scales for blocks"};
  for (size_t d = 0; d < blocks.counts.size(); ++d)
    if (blocks.counts[d] > 1 && blocks.counts[d] != weight.shape[d])
      return {kSpecIos18, "scales for blocks"};
  return {kSpecIos16, "integer weights"};
}

std::string Quantize::FormText(std::string_view codes, const Shape& blocks,
                               const std::string& note) const {
  const uint64_t count = *ElementCount(blocks);
  return fmt::format("{} {}{}{}", codes, mode_ == "linear" ? "affine" : "symmetric",
                     count == 1 ? std::string(" per tensor") : fmt::format(", {} scales", count),
                     note);
}

// What codes stand for must be numbers of the weight's type: near the end of fp16 a scale that was
// rounded up, or searched, is too large for its outermost codes.
void KeepFinite(const numeric::LinearFormat& format, numeric::LinearParameters& parameters) {
  // No code is more than 255 from a zero point.
  if (format.scale_type != numeric::EntryType::kHalf || parameters.scale < 256) return;
  constexpr double kInfiniteFrom = 65520;  // rounds to infinity
  const int low = format.is_signed ? -(1 << (format.bits - 1)) : 0;
  const int high = low + (1 << format.bits) - 1;
  const double most =
      std::max(std::abs(low - parameters.zero_point), std::abs(high - parameters.zero_point));
  while (static_cast<double>(parameters.scale) * most >= kInfiniteFrom)
    parameters.scale =
        numeric::HalfToFloat(static_cast<uint16_t>(numeric::FloatToHalf(parameters.scale) - 1));
}

// The range of the values, of fp16 with 0. Nothing if one of them is not finite.
std::optional<std::pair<float, float>> FiniteRange(std::span<const float> values) {
  if (numeric::FirstNotFinite(values) != values.size()) return std::nullopt;
  return numeric::RangeOf(values);
}
std::optional<std::pair<float, float>> FiniteRange(std::span<const uint16_t> values) {
  return numeric::RangeOf(values);
}

// Blocks that are too large to be looked at whole: the range, or a histogram, of all pieces.
template <typename T, typename Codes>
Status FitLarge(const Weight& weight, uint64_t first, uint64_t count,
                const typename Codes::Format& format, ThreadPool& pool,
                std::optional<uint64_t>& not_finite, typename Codes::Parameters& parameters) {
  const WeightSource<T> source(weight, first, count);
  std::vector<std::pair<float, float>> ranges(source.pieces());
  std::mutex mutex;
  Status status;
  using Counts =
      std::conditional_t<std::is_same_v<T, uint16_t>, numeric::HalfCounts, numeric::FloatCounts>;
  std::vector<std::unique_ptr<Counts>> counts(static_cast<size_t>(pool.threads()));
  pool.For(source.pieces(), [&](size_t piece, int worker) {
    const Status step = source.Visit(piece, [&](uint64_t begin, std::span<const T> values) {
      const auto range = FiniteRange(values);
      if (!range) {
        const std::lock_guard lock(mutex);
        not_finite = std::min(not_finite.value_or(UINT64_MAX),
                              first + begin + numeric::FirstNotFinite(values));
        return;
      }
      ranges[piece] = *range;
      if (!format.search) return;
      auto& mine = counts[static_cast<size_t>(worker)];
      if (!mine) mine = std::make_unique<Counts>();
      mine->Add(values);
    });
    if (step.ok()) return;
    const std::lock_guard lock(mutex);
    if (status.ok()) status = step;
  });
  CMLC_RETURN_IF_ERROR(status);
  if (not_finite) return Ok();
  auto [least, greatest] = ranges.front();
  for (const auto& [low, high] : ranges) {
    least = std::min(least, low);
    greatest = std::max(greatest, high);
  }
  parameters = Codes::OfRange(least, greatest, format);
  if (!format.search) return Ok();
  Counts total;
  for (const auto& part : counts)
    if (part) total.Merge(*part);
  numeric::Points points;
  total.ToPoints(points);
  const typename Codes::Parameters searched = Codes::OfPoints(points, format);
  if (std::is_same_v<T, uint16_t>) {
    parameters = searched;
    return Ok();
  }
  // The points of fp32 are means of many values: compare with min-max on the values themselves.
  std::vector<std::pair<double, double>> errors(source.pieces());
  pool.For(source.pieces(), [&](size_t piece, int) {
    const Status step = source.Visit(piece, [&](uint64_t, std::span<const T> values) {
      const auto noise = [&](const typename Codes::Parameters& with) {
        return Codes::Encode(values.data(), values.size(), 1, &with, format, nullptr).noise;
      };
      errors[piece] = {noise(searched), noise(parameters)};
    });
    if (step.ok()) return;
    const std::lock_guard lock(mutex);
    if (status.ok()) status = step;
  });
  CMLC_RETURN_IF_ERROR(status);
  double with_search = 0, with_range = 0;
  for (const auto& [left, right] : errors) {
    with_search += left;
    with_range += right;
  }
  if (with_search < with_range) parameters = searched;
  return Ok();
}

template <typename T, typename Codes>
Result<std::optional<Skipped>> Fit(const Weight& weight, const Shape& blocks,
                                   const typename Codes::Format& format, const PassContext& context,
                                   std::vector<typename Codes::Parameters>& parameters) {
  const BlockLayout layout(weight.shape, blocks);
  parameters.resize(static_cast<size_t>(layout.block_count));
  std::optional<uint64_t> not_finite;
  if (layout.contiguous && layout.block_size > kPieceValues) {
    for (uint64_t block = 0; block < layout.block_count && !not_finite; ++block) {
      const Status status =
          FitLarge<T, Codes>(weight, block * layout.block_size, layout.block_size, format,
                             context.pool, not_finite, parameters[static_cast<size_t>(block)]);
      CMLC_RETURN_IF_ERROR(status);
    }
  } else {
    std::mutex mutex;
    CMLC_RETURN_IF_ERROR(VisitBlocks<T>(
        weight, blocks, context.pool,
        [&](uint64_t first, uint64_t count, std::span<const T> values) {
          if (Codes::OfBlocks(values.data(), static_cast<size_t>(layout.block_size),
                              static_cast<size_t>(count), format,
                              &parameters[static_cast<size_t>(first)]))
            return;
          const std::lock_guard lock(mutex);
          not_finite = std::min(not_finite.value_or(UINT64_MAX),
                                first * layout.block_size + numeric::FirstNotFinite(values));
        }));
  }
  if (!not_finite) return std::optional<Skipped>();
  return std::optional<Skipped>(
      Skipped{"not finite", layout.contiguous
                                ? fmt::format("element {} is infinite or not a number", *not_finite)
                                : std::string("an element is infinite or not a number")});
}

// The packed codes of a weight, made chunk by chunk; `qualities` gets their error.
template <typename T, typename Codes>
TensorSource SourceOf(const Weight& weight, const Shape& blocks,
                      const typename Codes::Format& format,
                      std::shared_ptr<const typename Codes::Stored> stored,
                      std::shared_ptr<const Kept> kept, DataType code_type,
                      std::shared_ptr<ChunkQualities> qualities) {
  const auto finder = std::make_shared<const BlockFinder>(weight.shape, blocks);
  const auto encode = [stored = std::move(stored), format, qualities = std::move(qualities),
                       finder](uint64_t chunk, uint64_t first, std::span<const T> values,
                               uint8_t* codes) {
    Quality& quality = (*qualities)[chunk];
    std::array<typename Codes::Parameters, kMostAtOnce> some;
    for (size_t i = 0; i < values.size();) {
      uint64_t run = 0;
      const uint64_t block = finder->Locate(first + i, run);
      const std::span<const T> rest = values.subspan(i);
      const auto size = static_cast<size_t>(std::min<uint64_t>(run, rest.size()));
      const bool whole = finder->contiguous() && run == finder->size() && size == run;
      const size_t count = whole ? std::min(rest.size() / size, some.size()) : 1;
      stored->Get(static_cast<size_t>(block), std::span(some).first(count));
      const numeric::LinearError error =
          Codes::Encode(rest.data(), size, count, some.data(), format, codes + i);
      quality.signal += error.signal;
      quality.noise += error.noise;
      i += count * size;
    }
  };
  return CodeSource<T>(weight, std::move(kept), code_type, encode);
}

template <typename T>
Result<Outcome> Quantize::ReplaceLinear(const Weight& weight, const PassContext& context) const {
  const Blocks blocks = BlocksOf(weight);
  const numeric::LinearFormat format = FormatOf(weight.dtype);
  std::shared_ptr<const LinearCodes::Stored> stored;
  {
    std::vector<numeric::LinearParameters> found;
    const auto fitted = Fit<T, LinearCodes>(weight, blocks.counts, format, context, found);
    CMLC_ASSIGN_OR_RETURN(const std::optional<Skipped> skipped, fitted);
    if (skipped) return Outcome(*skipped);
    for (numeric::LinearParameters& block : found) KeepFinite(format, block);
    stored = std::make_shared<const LinearCodes::Stored>(found, weight.dtype, has_offset());
  }
  CMLC_ASSIGN_OR_RETURN(const std::shared_ptr<const Kept> kept, KeptOf(weight));
  const DataType code_type = TypeOf(dtype_);
  auto qualities = std::make_shared<ChunkQualities>(weight.element_count, format.bits);

  Encoding encoding;
  encoding.dtype = weight.dtype;
  encoding.shape = weight.shape;
  if (kept) {
    encoding.mask = weight.encoding->mask;
    encoding.kept = kept->index.ones();
  }
  encoding.data = {.dtype = code_type,
                   .shape = kept ? Shape{static_cast<int64_t>(encoding.kept)} : weight.shape,
                   .content = SourceOf<T, LinearCodes>(weight, blocks.counts, format, stored, kept,
                                                       code_type, qualities)};
  encoding.scale =
      Operand{.dtype = weight.dtype, .shape = blocks.counts, .content = stored->ScaleBytes()};
  if (has_offset())
    encoding.offset = Operand{
        .dtype = code_type, .shape = blocks.counts, .content = stored->OffsetBytes(format.bits)};
  std::string form = FormText(dtype_, blocks.counts, blocks.note);
  if (kept) form = "sparse, " + form;
  return Outcome(MakeReplacement(std::move(encoding), context.specification_version,
                                 std::move(form), [qualities] { return qualities->Total(); }));
}

Result<Outcome> Quantize::ReplaceAffine(const Weight& weight, const PassContext& context) const {
  const Shape blocks = BlocksOf(weight).counts;
  const numeric::AffineFormat format = AffineFormatOf();
  std::vector<numeric::AffineParameters> found;
  const auto fitted = Fit<float, AffineCodes>(weight, blocks, format, context, found);
  CMLC_ASSIGN_OR_RETURN(const std::optional<Skipped> skipped, fitted);
  if (skipped) return Outcome(*skipped);
  const auto stored = std::make_shared<const AffineCodes::Stored>(std::move(found));
  const DataType code_type = UnsignedOfBits(format.bits);
  auto qualities = std::make_shared<ChunkQualities>(weight.element_count, format.bits);

  Encoding encoding;
  encoding.dtype = DataType::kFloat32;
  encoding.shape = weight.shape;
  encoding.data = {.dtype = code_type,
                   .shape = weight.shape,
                   .content = SourceOf<float, AffineCodes>(weight, blocks, format, stored, nullptr,
                                                           code_type, qualities)};
  encoding.scale = Operand{.dtype = DataType::kFloat32,
                           .shape = blocks,
                           .content = stored->Bytes(&numeric::AffineParameters::scale)};
  encoding.bias = Operand{.dtype = DataType::kFloat32,
                          .shape = blocks,
                          .content = stored->Bytes(&numeric::AffineParameters::bias)};
  return Outcome(MakeReplacement(
      std::move(encoding), context.specification_version,
      FormText(fmt::format("{}-bit", format.bits), blocks, ""),
      [qualities] { return qualities->Total(); }, ModelFormat::kNetwork));
}

// fp16 in place of fp32. Values that fp16 cannot hold stop it: infinity is no weight.
Result<Outcome> Quantize::ReplaceByHalves(const Weight& weight, const PassContext& context) const {
  const WeightSource<float> source(weight, 0, weight.element_count);
  std::vector<Quality> pieces(source.pieces());
  std::optional<uint64_t> beyond;
  std::mutex mutex;
  Status status;
  context.pool.For(source.pieces(), [&](size_t piece, int) {
    const Status step = source.Visit(piece, [&](uint64_t begin, std::span<const float> values) {
      Quality& quality = pieces[piece];
      std::vector<uint16_t> halves(std::min(kStepValues, values.size()));
      std::vector<float> rounded(halves.size());
      for (size_t first = 0; first < values.size(); first += kStepValues) {
        const std::span<const float> some =
            values.subspan(first, std::min(kStepValues, values.size() - first));
        numeric::FloatsToHalves(some.data(), some.size(), halves.data());
        numeric::HalvesToFloats(halves.data(), some.size(), rounded.data());
        for (size_t i = 0; i < some.size(); ++i) {
          const auto value = static_cast<double>(some[i]);
          const double error = value - static_cast<double>(rounded[i]);
          quality.signal += value * value;
          quality.noise += error * error;
        }
        // The sum tells whether one of them is not finite.
        if (std::isfinite(quality.noise)) continue;
        const size_t at =
            numeric::FirstNotFinite(std::span<const float>(rounded).first(some.size()));
        const std::lock_guard lock(mutex);
        beyond = std::min(beyond.value_or(UINT64_MAX), begin + first + at);
        return;
      }
    });
    if (step.ok()) return;
    const std::lock_guard lock(mutex);
    if (status.ok()) status = step;
  });
  CMLC_RETURN_IF_ERROR(status);
  if (beyond)
    return Outcome(Skipped{"out of the range of fp16",
                           fmt::format("element {} is 65520 or more, or not a number", *beyond)});
  Quality total;
  for (const Quality& quality : pieces) {
    total.signal += quality.signal;
    total.noise += quality.noise;
  }
  TensorSource halves{
      .dtype = DataType::kFloat16,
      .element_count = weight.element_count,
      .fill = [&weight](uint64_t begin, std::span<std::byte> out) -> Status {
        CMLC_ASSIGN_OR_RETURN(const TensorView view, weight.View(begin * 2, out.size() * 2));
        numeric::FloatsToHalves(reinterpret_cast<const float*>(view.bytes().data()), out.size() / 2,
                                reinterpret_cast<uint16_t*>(out.data()));
        return Ok();
      }};
  return Outcome(MakeHalfReplacement(std::move(halves), weight.shape, context.format,
                                     [total] { return total; }));
}

// The entries of LUTs. How often an index occurs decides how much the error of its entry counts.
Result<Outcome> Quantize::ReplaceLut(const Weight& weight, const PassContext& context) const {
  const Encoding& before = *weight.encoding;
  const auto rank = before.lut->shape.size() - 2;
  const Shape tables(before.lut->shape.begin(),
                     before.lut->shape.begin() + static_cast<std::ptrdiff_t>(rank));
  const auto entries = static_cast<uint64_t>(before.lut->shape[rank]);
  const uint64_t width = static_cast<uint64_t>(before.width());
  const uint64_t table_count = *ElementCount(tables);
  CMLC_ASSIGN_OR_RETURN(const std::vector<float> lut, ReadOperand(*before.lut, *weight.store));
  if (const size_t bad = numeric::FirstNotFinite(std::span<const float>(lut)); bad != lut.size())
    return Outcome(
        Skipped{"not finite", fmt::format("LUT entry {} is infinite or not a number", bad)});

  // Indices are those of the dense weight or of the vectors that are there, row-major.
  Shape index_shape = before.shape;
  if (width > 1)
    index_shape[static_cast<size_t>(before.vector_axis)] /= static_cast<int64_t>(width);
  std::vector<uint64_t> uses(static_cast<size_t>(table_count * entries), 0);
  const BlockGrid grid(index_shape, tables);
  const int bits = BitsOf(before.data.dtype);
  numeric::Mask mask;
  if (before.sparse()) {
    mask.count = *ElementCount(index_shape);
    CMLC_ASSIGN_OR_RETURN(const TensorView view,
                          ViewOperand(*before.mask, *weight.store, 0, *PackedBytes(mask.count, 1)));
    mask.bits.assign(reinterpret_cast<const uint8_t*>(view.bytes().data()),
                     reinterpret_cast<const uint8_t*>(view.bytes().data()) + view.bytes().size());
  }
  const uint64_t index_count = *ElementCount(before.data.shape);
  std::vector<uint8_t> codes;
  uint64_t position = 0;
  for (uint64_t first = 0; first < index_count; first += kStepValues) {
    codes.resize(static_cast<size_t>(std::min<uint64_t>(kStepValues, index_count - first)));
    const uint64_t begin = first * static_cast<uint64_t>(bits) / 8;
    CMLC_ASSIGN_OR_RETURN(const TensorView view, ViewOperand(before.data, *weight.store, begin,
                                                             *PackedBytes(codes.size(), bits)));
    numeric::UnpackBits(view.bytes(), bits, 0, codes);
    uint64_t run = 0, block = 0;
    for (const uint8_t code : codes) {
      if (before.sparse())
        while (position < mask.count && !mask.stays(position)) {
          ++position;
          run = run > 0 ? run - 1 : 0;
        }
      if (run == 0) block = grid.Locate(position, run);
      ++uses[static_cast<size_t>(block * entries + code)];
      ++position;
      --run;
    }
  }

  const numeric::LinearFormat format = FormatOf(before.lut->dtype);
  const bool one_scale = granularity_ == "per_tensor";
  const uint64_t scales = one_scale ? 1 : table_count;
  const uint64_t tables_each = table_count / scales;
  std::vector<numeric::LinearParameters> parameters(static_cast<size_t>(scales));
  std::vector<uint8_t> lut_codes(lut.size());
  Quality quality;
  for (uint64_t s = 0; s < scales; ++s) {
    const uint64_t first = s * tables_each * entries * width;
    const uint64_t count = tables_each * entries * width;
    const std::span<const float> some =
        std::span<const float>(lut).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    // Entries that are not used do not matter, unless none is.
    std::vector<std::pair<float, double>> weighted;
    for (uint64_t i = 0; i < count; ++i)
      if (const uint64_t n = uses[static_cast<size_t>((first + i) / width)]; n > 0)
        weighted.emplace_back(some[static_cast<size_t>(i)], static_cast<double>(n));
    numeric::LinearParameters& block = parameters[static_cast<size_t>(s)];
    if (weighted.empty()) {
      block = numeric::FitLinear(some, format);
    } else {
      std::sort(weighted.begin(), weighted.end());
      numeric::Points points;
      for (const auto& [value, weight_of] : weighted) {
        const double at = value == 0 ? 0.0 : static_cast<double>(value);
        if (!points.values.empty() && points.values.back() == at)
          points.weights.back() += weight_of;
        else
          points.Add(at, weight_of);
      }
      block = numeric::FitLinear(points, format);
    }
    KeepFinite(format, block);
    numeric::QuantizeLinear(some, block, format, lut_codes.data() + first);
    const bool is_half = format.scale_type == numeric::EntryType::kHalf;
    const int sign_bit = 1 << (format.bits - 1);
    for (uint64_t i = 0; i < count; ++i) {
      int code = lut_codes[static_cast<size_t>(first + i)];
      if (format.is_signed && (code & sign_bit) != 0) code -= 2 * sign_bit;
      const double value = static_cast<double>(some[static_cast<size_t>(i)]);
      float decoded = block.scale * static_cast<float>(code - block.zero_point);
      if (is_half) decoded = numeric::HalfToFloat(numeric::FloatToHalf(decoded));
      const double error = value - static_cast<double>(decoded);
      const auto n = static_cast<double>(uses[static_cast<size_t>((first + i) / width)]);
      quality.signal += n * value * value;
      quality.noise += n * error * error;
    }
  }

  const LinearCodes::Stored stored(parameters, before.lut->dtype, has_offset());
  const DataType code_type = TypeOf(dtype_);
  Encoding after = before;
  std::string packed(static_cast<size_t>(*PackedBytes(lut_codes.size(), format.bits)), '\0');
  numeric::PackBits(lut_codes, format.bits, std::as_writable_bytes(std::span(packed)));
  Shape scale_shape = one_scale ? Shape(rank, 1) : tables;
  scale_shape.insert(scale_shape.end(), {1, 1});
  after.lut = Operand{.dtype = code_type, .shape = before.lut->shape, .content = std::move(packed)};
  after.lut_scale =
      Operand{.dtype = before.lut->dtype, .shape = scale_shape, .content = stored.ScaleBytes()};
  if (has_offset())
    after.lut_offset = Operand{
        .dtype = code_type, .shape = scale_shape, .content = stored.OffsetBytes(format.bits)};
  std::string form =
      fmt::format("{}{}-bit LUT of {} entries", before.sparse() ? "sparse, " : "", bits, dtype_);
  return Outcome(MakeReplacement(std::move(after), context.specification_version, std::move(form),
                                 [quality] { return quality; }));
}

}  // namespace

PassInfo QuantizePass() {
  return {
      .name = "quantize",
      .summary = "store each weight as small integers with scales, or as fp16",
      .description =
          "Every weight of two or more dimensions becomes integer codes with a scale for the "
          "whole weight, for each output channel or for each block of input channels. Scales "
          "are searched for the least squared error unless --scales minmax asks for "
          "coremltools' rule. int8 and uint8 per tensor or channel run on iOS 16 and later; 4 "
          "bits, blocks and joint compression need iOS 18. In NeuralNetworks codes of 1 to 8 bits "
          "have a scale and a bias.",
      .suffix = "quantized",
      .make = MakePass<Quantize>};
}

}  // namespace cmlc
