// Palettize: store each weight as an index into a small lookup table (LUT).
//
// A weight of n elements becomes n indices of `nbits` bits and a table of 2^nbits entries. k-means
// places the entries where the squared error is least; it is solved exactly, so there is no seed
// and no restart, and the same weight always gives the same table. Entries are rounded to the
// weight's own type and sorted, and every value is assigned to the nearest rounded entry.
//
// With granularity per_grouped_channel each run of `group_size` channels has a table of its own,
// which costs little space and helps when channels differ in range. That needs iOS 18, and so do 3
// bits; everything else fits the older form that iOS 16 knows.
//
// More that iOS 18 has:
//   cluster_dim        entries are vectors of so many neighbouring channels;
//   per_channel_scale  each output channel is divided by a scale of its own before it is looked up.
//                      Scales and table are fitted together, an error counting as much as its
//                      channel's scale makes it;
//   lut_dtype          entries are stored as 8- or 4-bit integers with a scale for each table,
//                      fitted under that constraint;
//   joint              sparse weights are taken too (their zeros take no part), and quantized ones,
//                      whose tables then hold codes with the scales that are there.
//
// Left alone, with a note: weights whose groups do not divide the channels, whose consumers
// disagree on the channel axis (grouped only: without groups the axis does not matter), that hold
// values that are not finite, and in mode `unique` those with more than 256 distinct values.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/check.h"
#include "base/file.h"
#include "base/npy.h"
#include "base/thread_pool.h"
#include "cmlc/pass.h"
#include "ir/encoding.h"
#include "numeric/coded_lut.h"
#include "numeric/convert.h"
#include "numeric/fit_values.h"
#include "numeric/half.h"
#include "numeric/lut.h"
#include "passes/coding.h"
#include "passes/palettize_scaled.h"
#include "passes/palettize_vectors.h"

namespace cmlc {
namespace {

constexpr std::initializer_list<int64_t> kWidths = {1, 2, 3, 4, 5, 6, 7, 8};
// ML Programs have no types for the others.
constexpr std::initializer_list<int64_t> kProgramWidths = {1, 2, 3, 4, 6, 8};
constexpr int64_t kDefaultGroupSize = 32;
constexpr int32_t kSpecIos12 = 3;
constexpr int32_t kSpecIos16 = 7;
constexpr int32_t kSpecIos18 = 9;
constexpr uint64_t kMostLutFileBytes = 64 << 20;

template <typename T>
using AssignerOf =
    std::conditional_t<std::is_same_v<T, uint16_t>, numeric::HalfAssigner, numeric::FloatAssigner>;

// The tables of a weight, and how its values are assigned to them.
template <typename T>
struct Tables {
  explicit Tables(const Shape& shape, const Shape& blocks)
      : layout(shape, blocks), grid(shape, blocks) {}

  BlockLayout layout;
  BlockGrid grid;
  size_t entries = 0;
  std::vector<float> luts;  // blocks x entries
  // Where blocks alternate within a chunk: an assigner for each. Otherwise they are made as needed.
  std::vector<AssignerOf<T>> assigners;

  std::span<const float> lut(uint64_t block) const {
    return std::span<const float>(luts).subspan(static_cast<size_t>(block) * entries, entries);
  }
  AssignerOf<T> MakeAssigner(uint64_t block, uint64_t expected) const {
    if constexpr (std::is_same_v<T, uint16_t>) {
      std::vector<uint16_t> halves(entries);
      numeric::FloatsToHalves(lut(block).data(), entries, halves.data());
      return {halves, expected};
    } else {
      return {lut(block), expected};
    }
  }
  uint64_t Locate(uint64_t position, uint64_t& run) const {
    if (!layout.contiguous) return grid.Locate(position, run);
    run = layout.block_size - position % layout.block_size;
    return position / layout.block_size;
  }
};

class Palettize final : public WeightPass {
 public:
  Takes takes() const override { return joint_ ? Takes::kBoth : Takes::kPlain; }

  void VisitOwnOptions(OptionVisitor& v) override {
    v.Int({"nbits", "bits of an index; a LUT has 2^nbits entries (modes kmeans and uniform)"},
          nbits_, 1, kWidths);
    v.Choice({"mode",
              "where LUT entries come from: least squared error, evenly spaced, the distinct "
              "values themselves, or a file"},
             mode_, {"kmeans", "uniform", "unique", "custom"});
    v.Choice({"granularity",
              "what shares a LUT (default: per_grouped_channel if a group size or a channel axis "
              "is given, else per_tensor)"},
             granularity_, {"per_tensor", "per_grouped_channel"});
    v.Int({"group_size", "channels that share a LUT, 0 for all (default 32)"}, group_size_, 0);
    v.Int({"channel_axis",
           "axis of the channels that are grouped, negative from the end (default: "
           "output channels of the op that reads the weight)"},
          channel_axis_, INT64_MIN);
    v.Int({"cluster_dim", "neighbouring channels that one index stands for (default 1)"},
          cluster_dim_, 1);
    v.Flag({"per_channel_scale",
            "divide each output channel by a scale of its own, fitted together with the LUT",
            "enable_per_channel_scale"},
           per_channel_scale_);
    v.Choice(
        {"lut_dtype", "of LUT entries: that of the weight, or integers with a scale for each LUT"},
        lut_dtype_, {"float", "int8", "uint8", "int4", "uint4"});
    v.Path({"lut_file",
            "entries for mode custom: an .npy vector, a JSON list, or a JSON object of "
            "lists by weight name"},
           lut_file_);
    v.Choice({"fallback",
              "for a weight whose channels group_size or cluster_dim does not divide: leave it "
              "alone, take the nearest size that divides, or one LUT for each channel"},
             fallback_, {"skip", "nearest", "per_channel"});
    v.Flag({"joint", "palettize sparse and quantized weights too"}, joint_);
  }

  Status CheckOptions() override;
  Status CheckFormat(ModelFormat format) const override;
  std::optional<Skipped> Skip(const Weight& weight) const override {
    return PlanOf(weight).skipped;
  }
  Need Needs(const Weight& weight) const override;
  // A LUT file may give a table to each name.
  std::string Variant(const Weight& weight) const override {
    return given_.contains(weight.name) ? weight.name : std::string();
  }
  Result<Outcome> Replace(const Weight& weight, const PassContext& context) const override;

 private:
  // How a weight is cut, or why it is not.
  struct Plan {
    Shape blocks;  // LUTs along each axis of the weight
    size_t axis = 0;
    int64_t group_channels = 0;
    int64_t cluster_dim = 1;
    std::string note;  // what was done instead of what was asked for
    std::optional<Skipped> skipped;
    uint64_t luts() const { return *ElementCount(blocks); }
  };
  struct Fitted {
    std::vector<std::vector<float>> luts;  // by block
    std::vector<numeric::CodedLut> coded;  // likewise, if entries are stored as codes
    std::optional<Skipped> skipped;
    Quality quality;  // of fp16
  };

  bool grouped() const { return granularity_ == "per_grouped_channel"; }
  std::optional<size_t> Axis(const Weight& weight) const;
  Plan PlanOf(const Weight& weight) const;
  const std::vector<float>* Given(const Weight& weight) const;
  std::optional<DataType> LutType(const Weight& weight) const;
  std::string FormText(const Plan& plan, const Weight& weight, int bits) const;
  template <typename T>
  Result<Fitted> Fit(const Weight& weight, const Plan& plan, const Kept* kept, size_t most_entries,
                     const PassContext& context) const;
  template <typename T>
  Result<Outcome> ReplaceAs(const Weight& weight, const PassContext& context) const;
  int BitsFor(size_t entries, const PassContext& context) const;

  std::optional<int64_t> nbits_;
  std::string mode_ = "kmeans";
  std::string granularity_;
  std::optional<int64_t> group_size_;
  std::optional<int64_t> channel_axis_;
  std::optional<int64_t> cluster_dim_;
  bool per_channel_scale_ = false;
  std::string lut_dtype_ = "float";
  std::string lut_file_;
  std::string fallback_ = "skip";
  bool joint_ = false;
  // Mode custom: ascending entries by weight name; "" holds those for all weights.
  std::map<std::string, std::vector<float>> given_;
};

Result<std::vector<float>> EntriesOf(const std::string& file, const std::vector<double>& values) {
  const auto bad = [&](std::string_view what) {
    return Error{ErrorKind::kBadInput, fmt::format("{}: {}", file, what)};
  };
  if (values.empty() || values.size() > 256)
    return bad(fmt::format("a LUT has {} entries, expected 1 to 256", values.size()));
  std::vector<float> entries;
  for (const double value : values) {
    const auto narrow = static_cast<float>(value);
    if (!std::isfinite(narrow)) return bad(fmt::format("LUT entry {} is not finite", value));
    entries.push_back(narrow);
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

Result<std::map<std::string, std::vector<float>>> ReadLutFile(const std::string& file) {
  const auto bad = [&](std::string_view what) {
    return Error{ErrorKind::kBadInput, fmt::format("{}: {}", file, what)};
  };
  std::map<std::string, std::vector<float>> luts;
  if (file.ends_with(".npy")) {
    CMLC_ASSIGN_OR_RETURN(const NpyArray array, ReadNpy(file));
    if (array.shape.size() != 1)
      return bad(fmt::format("has shape {}, expected a vector of entries", ToString(array.shape)));
    CMLC_ASSIGN_OR_RETURN(luts[""], EntriesOf(file, array.values));
    return luts;
  }
  CMLC_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(file, kMostLutFileBytes));
  nlohmann::json root;
  try {
    root = nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    return bad(fmt::format("is neither .npy nor valid JSON (near byte {})", error.byte));
  }
  const auto numbers = [&](const nlohmann::json& list) -> Result<std::vector<float>> {
    std::vector<double> values;
    for (const nlohmann::json& number : list) {
      if (!number.is_number()) return bad(fmt::format("'{}' is not a number", number.dump()));
      values.push_back(number.get<double>());
    }
    return EntriesOf(file, values);
  };
  if (root.is_array()) {
    CMLC_ASSIGN_OR_RETURN(luts[""], numbers(root));
    return luts;
  }
  if (!root.is_object()) return bad("expected a list of numbers, or an object of such lists");
  for (const auto& [name, list] : root.items()) {
    if (!list.is_array()) return bad(fmt::format("'{}': expected a list of numbers", name));
    CMLC_ASSIGN_OR_RETURN(luts[name], numbers(list));
  }
  return luts;
}

Status Palettize::CheckOptions() {
  const auto bad = [](std::string_view option, std::string_view what) {
    return Error{ErrorKind::kUsage, fmt::format("palettize: {}: {}", option, what)};
  };
  const bool needs_bits = mode_ == "kmeans" || mode_ == "uniform";
  if (needs_bits && !nbits_)
    return bad("nbits",
               fmt::format("is needed by mode {}: one of 1, 2, 3, 4, 6, 8 (in a NeuralNetwork "
                           "5 or 7, too)",
                           mode_));
  if (!needs_bits && nbits_)
    return bad("nbits", fmt::format("is {}, but mode {} takes it from the entries; leave it out "
                                    "(in a rule: nbits=none)",
                                    *nbits_, mode_));
  if (mode_ == "custom" && lut_file_.empty()) return bad("lut_file", "is needed by mode custom");
  if (mode_ != "custom" && !lut_file_.empty())
    return bad("lut_file", fmt::format("is only used by mode custom, and the mode is {}", mode_));
  if (granularity_ == "per_tensor" && group_size_)
    return bad("group_size", "has no meaning with granularity per_tensor");
  const bool vectors = cluster_dim_.value_or(1) > 1;
  if (granularity_ == "per_tensor" && channel_axis_ && !vectors)
    return bad("channel_axis", "has no meaning with granularity per_tensor");
  if (granularity_.empty())
    granularity_ =
        group_size_ || (channel_axis_ && !vectors) ? "per_grouped_channel" : "per_tensor";
  if (vectors) {
    if (*cluster_dim_ > static_cast<int64_t>(numeric::kMostVectorDims))
      return bad("cluster_dim", fmt::format("is {}, expected at most {}", *cluster_dim_,
                                            numeric::kMostVectorDims));
    if (mode_ != "kmeans" && mode_ != "unique")
      return bad(
          "cluster_dim",
          fmt::format("vectors are placed by modes kmeans and unique, and the mode is {}", mode_));
    if (per_channel_scale_) return bad("per_channel_scale", "is not possible with cluster_dim");
  }
  if (per_channel_scale_ && mode_ != "kmeans")
    return bad("per_channel_scale",
               fmt::format("is fitted by mode kmeans, and the mode is {}", mode_));
  if (mode_ == "custom") {
    CMLC_ASSIGN_OR_RETURN(given_, ReadLutFile(lut_file_));
  }
  return Ok();
}

Status Palettize::CheckFormat(ModelFormat format) const {
  const auto bad = [](std::string_view option, std::string_view what) {
    return Error{ErrorKind::kUsage, fmt::format("palettize: {}: {}", option, what)};
  };
  if (format == ModelFormat::kProgram) {
    if (nbits_ &&
        std::find(kProgramWidths.begin(), kProgramWidths.end(), *nbits_) == kProgramWidths.end())
      return bad("nbits", fmt::format("is {}, which NeuralNetworks alone can hold; an ML Program "
                                      "takes 1, 2, 3, 4, 6 or 8",
                                      *nbits_));
    return Ok();
  }
  const std::string_view one = "a NeuralNetwork holds one LUT of fp32 entries for each weight";
  if (grouped())
    return bad(group_size_     ? "group_size"
               : channel_axis_ ? "channel_axis"
                               : "granularity",
               fmt::format("{}; leave it out (per_tensor)", one));
  if (cluster_dim_.value_or(1) > 1)
    return bad("cluster_dim", fmt::format("{}, and no vectors; leave it out", one));
  if (per_channel_scale_)
    return bad("per_channel_scale",
               fmt::format("{}, and no scales; `quantize` stores a scale for each channel", one));
  if (lut_dtype_ != "float") return bad("lut_dtype", fmt::format("{}; leave it out", one));
  if (joint_)
    return bad("joint", "a NeuralNetwork holds no chains of compressed forms; `decompress` first");
  return Ok();
}

std::optional<size_t> Palettize::Axis(const Weight& weight) const {
  if (channel_axis_) return AxisOf(*channel_axis_, weight.shape.size());
  if (!weight.output_axis) return std::nullopt;
  return static_cast<size_t>(*weight.output_axis);
}

const std::vector<float>* Palettize::Given(const Weight& weight) const {
  auto found = given_.find(weight.name);
  if (found == given_.end()) found = given_.find("");
  return found == given_.end() ? nullptr : &found->second;
}

// The type that LUT entries are stored in if it is not the weight's own.
std::optional<DataType> Palettize::LutType(const Weight& weight) const {
  if (weight.encoding && weight.encoding->quantized()) {
    // A LUT may not hold 4-bit integers where no scale is applied to it first: the codes fit a
    // byte.
    const bool is_signed = FindDataType(weight.encoding->data.dtype)->is_signed;
    return is_signed ? DataType::kInt8 : DataType::kUInt8;
  }
  if (lut_dtype_ == "float") return std::nullopt;
  for (const DataType type : {DataType::kInt8, DataType::kUInt8, DataType::kInt4, DataType::kUInt4})
    if (FindDataType(type)->name == lut_dtype_) return type;
  CMLC_CHECK(false);
}

Palettize::Plan Palettize::PlanOf(const Weight& weight) const {
  Plan plan;
  plan.blocks.assign(weight.shape.size(), 1);
  const auto leave = [&](std::string category, std::string reason) {
    plan.skipped = Skipped{std::move(category), std::move(reason)};
    return plan;
  };
  if (mode_ == "custom" && Given(weight) == nullptr)
    return leave("without entries in the LUT file",
                 fmt::format("'{}' has no list of this name", lut_file_));
  const int64_t cluster_dim = cluster_dim_.value_or(1);
  const bool vectors = cluster_dim > 1;
  if (weight.compressed) {
    const Encoding* encoding = weight.encoding.get();
    if (encoding == nullptr)
      return leave("of a form that is not joined", "the chain of constexpr ops is not known");
    if (encoding->palettized()) return leave("already palettized", "it has a LUT");
    if (vectors)
      return leave(encoding->sparse() ? "sparse" : "already quantized",
                   encoding->sparse()
                       ? "a mask names single values, and with cluster_dim an index stands for "
                         "several; palettize first, or without cluster_dim"
                       : "its scales are for single channels; palettize first, or without "
                         "cluster_dim");
    if (per_channel_scale_ && encoding->quantized())
      return leave("already quantized", "it has scales; leave out per_channel_scale");
    if (encoding->quantized() && encoding->scale && *ElementCount(encoding->scale->shape) > 1) {
      // One table for each scale: before iOS 26 scales belong to tables.
      if (encoding->scale->shape.size() == weight.shape.size())
        plan.blocks = encoding->scale->shape;
      plan.note = fmt::format(", one for each of its {} scales", plan.luts());
      return plan;
    }
  }
  if (!grouped() && !vectors && !per_channel_scale_) return plan;

  const std::optional<size_t> axis = Axis(weight);
  if (!axis) {
    if (channel_axis_)
      return leave("without that channel axis",
                   fmt::format("channel_axis {} is not an axis of shape {}", *channel_axis_,
                               ToString(weight.shape)));
    std::string readers;
    for (const Consumer& consumer : weight.consumers)
      readers += fmt::format("{}{} '{}' axis {}", readers.empty() ? "" : ", ", consumer.op_type,
                             consumer.op_name, consumer.output_axis.value_or(-1));
    return leave("read along different axes",
                 fmt::format("its readers have output channels on different axes ({}); "
                             "--channel-axis would name one",
                             readers));
  }
  plan.axis = *axis;
  const int64_t channels = weight.shape[plan.axis];
  plan.group_channels = channels;
  if (grouped()) {
    int64_t size = group_size_.value_or(kDefaultGroupSize);
    if (size == 0) size = channels;
    if (channels % size != 0) {
      const std::string what =
          fmt::format("group_size {} does not divide {} channels (axis {} of {})", size, channels,
                      plan.axis, ToString(weight.shape));
      switch (FallbackOf(fallback_)) {
        case Fallback::kSkip:
          return leave("with channels that group_size does not divide", what);
        case Fallback::kNearest:
          plan.note = fmt::format(", group size {} for {} that does not divide {}",
                                  NearestDivisor(channels, size), size, channels);
          size = NearestDivisor(channels, size);
          break;
        case Fallback::kPerChannel:
          plan.note = fmt::format(", a LUT for each channel: {}", what);
          size = 1;
          break;
      }
    }
    plan.group_channels = size;
    plan.blocks[plan.axis] = channels / size;
  }
  if (per_channel_scale_ && weight.output_axis &&
      static_cast<size_t>(*weight.output_axis) != plan.axis)
    return leave("with groups along another axis than its scales",
                 fmt::format("channel_axis is {}, output channels are axis {}", plan.axis,
                             *weight.output_axis));
  if (!vectors) return plan;
  plan.cluster_dim = cluster_dim;
  // Channels of different groups of a grouped convolution belong to different inputs.
  int64_t unit = plan.group_channels;
  for (const Consumer& consumer : weight.consumers)
    if (consumer.groups > 1 && plan.axis == 0 && channels % consumer.groups == 0)
      unit = std::min(unit, channels / consumer.groups);
  if (unit % cluster_dim != 0 || plan.group_channels % cluster_dim != 0) {
    const std::string what =
        fmt::format("cluster_dim {} does not divide {} channels (axis {} of {})", cluster_dim, unit,
                    plan.axis, ToString(weight.shape));
    if (FallbackOf(fallback_) != Fallback::kNearest)
      return leave("with channels that cluster_dim does not divide", what);
    plan.cluster_dim = NearestDivisor(std::gcd(unit, plan.group_channels), cluster_dim);
    plan.note += fmt::format(", cluster_dim {} for {} that does not divide {}", plan.cluster_dim,
                             cluster_dim, unit);
  }
  return plan;
}

WeightPass::Need Palettize::Needs(const Weight& weight) const {
  if (weight.format == ModelFormat::kNetwork) return {kSpecIos12, "a LUT"};
  if (weight.compressed) return {kSpecIos18, "joint compression"};
  const Plan plan = PlanOf(weight);
  if (plan.cluster_dim > 1) return {kSpecIos18, "LUT entries that are vectors (cluster_dim)"};
  if (per_channel_scale_) return {kSpecIos18, "a scale for each channel (per_channel_scale)"};
  if (LutType(weight)) return {kSpecIos18, "integer LUT entries (lut_dtype)"};
  if (plan.luts() > 1)
    return {kSpecIos18,
            fmt::format("{} LUTs in one weight (granularity per_grouped_channel)", plan.luts())};
  if (nbits_ == 3) return {kSpecIos18, "3-bit indices"};
  return {kSpecIos16, "a LUT"};
}

std::string Palettize::FormText(const Plan& plan, const Weight& weight, int bits) const {
  std::string text = fmt::format("{}-bit LUT", bits);
  if (const auto type = LutType(weight)) text += fmt::format(" of {} entries", NameOf(*type));
  if (plan.cluster_dim > 1) text += fmt::format(" of {}-vectors", plan.cluster_dim);
  if (plan.luts() > 1 && plan.group_channels > 0)
    text += fmt::format(" for each {} channels of axis {}", plan.group_channels, plan.axis);
  if (per_channel_scale_) text += ", a scale for each output channel";
  text += plan.note;
  if (weight.encoding && weight.encoding->sparse()) text = "sparse, " + text;
  return text;
}

int Palettize::BitsFor(size_t entries, const PassContext& context) const {
  if (nbits_) return static_cast<int>(*nbits_);
  const bool is_network = context.format == ModelFormat::kNetwork;
  // The older form has no 3-bit indices: raising the system for them would cost users more than
  // the bit does.
  const bool new_form = is_network || context.specification_version >= kSpecIos18;
  for (const int64_t width : is_network ? kWidths : kProgramWidths)
    if (entries <= size_t{1} << width && (width != 3 || new_form)) return static_cast<int>(width);
  CMLC_CHECK(false);
}

// Which element of the weight is number `index` of a block.
std::string ElementText(const Shape& shape, const Shape& blocks, uint64_t block, uint64_t index,
                        bool exact) {
  if (!exact) return "an element is infinite or not a number";
  uint64_t element = 0, stride = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    const auto part = static_cast<uint64_t>(shape[d] / blocks[d]);
    const auto count = static_cast<uint64_t>(blocks[d]);
    element += (block % count * part + index % part) * stride;
    block /= count;
    index /= part;
    stride *= static_cast<uint64_t>(shape[d]);
  }
  return fmt::format("element {} is infinite or not a number", element);
}

// The tables of all blocks.
template <typename T>
Result<Palettize::Fitted> Palettize::Fit(const Weight& weight, const Plan& plan, const Kept* kept,
                                         size_t most_entries, const PassContext& context) const {
  constexpr numeric::EntryType kEntry =
      std::is_same_v<T, uint16_t> ? numeric::EntryType::kHalf : numeric::EntryType::kFloat;
  numeric::FitRequest request;
  request.entries = most_entries;
  if (mode_ == "uniform") request.mode = numeric::FitMode::kUniform;
  if (mode_ == "unique") request.mode = numeric::FitMode::kUnique;
  std::vector<float> given;
  if (mode_ == "custom") {
    request.mode = numeric::FitMode::kGiven;
    given = *Given(weight);
    for (float& entry : given) entry = numeric::RoundEntry(entry, kEntry);
    if (!std::isfinite(given.front()) || !std::isfinite(given.back())) {
      Fitted skipped;
      skipped.skipped = Skipped{"with LUT entries out of range",
                                fmt::format("'{}' holds an entry that fp16 cannot", lut_file_)};
      return skipped;
    }
    request.given = given;
  }
  // Scales that are there stay as they are.
  std::vector<numeric::LinearParameters> scales;
  if (const auto lut_type = LutType(weight)) {
    request.codes = CodeTypeOf(*lut_type, weight.dtype);
    if (weight.encoding && weight.encoding->quantized()) {
      CMLC_ASSIGN_OR_RETURN(const std::vector<float> values,
                            ReadOperand(*weight.encoding->scale, *weight.store));
      std::vector<float> offsets(values.size(), 0.0f);
      if (weight.encoding->offset) {
        CMLC_ASSIGN_OR_RETURN(offsets, ReadOperand(*weight.encoding->offset, *weight.store));
      }
      for (size_t i = 0; i < values.size(); ++i)
        scales.push_back({.scale = values[i], .zero_point = static_cast<int32_t>(offsets[i])});
      request.codes->bits = BitsOf(weight.encoding->data.dtype);
    }
  }

  const BlockLayout layout(weight.shape, plan.blocks);
  Fitted fitted;
  fitted.luts.resize(static_cast<size_t>(layout.block_count));
  if (request.codes) fitted.coded.resize(fitted.luts.size());
  std::vector<Quality> qualities(fitted.luts.size());
  std::mutex mutex;
  Status status;
  // The lowest block wins, so the message does not depend on which thread was first.
  uint64_t skipped_block = layout.block_count;
  const auto fit_one = [&](uint64_t block, const numeric::ValueSource<T>& source,
                           const auto& element_of) {
    thread_local numeric::FitWorkspace workspace;
    numeric::FitRequest mine = request;
    if (!scales.empty()) mine.fixed = scales[scales.size() == 1 ? 0 : static_cast<size_t>(block)];
    if (source.count() == 0 || (mine.fixed && !(mine.fixed->scale > 0))) {
      // Nothing is there, or everything is zero.
      fitted.luts[block] = {0.0f};
      if (mine.codes)
        fitted.coded[block] = {.parameters = mine.fixed.value_or(numeric::LinearParameters{}),
                               .codes = {mine.fixed ? mine.fixed->zero_point : 0},
                               .entries = {0.0f}};
      return;
    }
    Result<numeric::FitResult> result = numeric::FitValues(source, mine, context.pool, workspace);
    if (result.ok() && !result->not_finite && !result->too_many) {
      fitted.luts[block] = std::move(result->entries);
      if (mine.codes) fitted.coded[block] = std::move(result->coded);
      qualities[block] = {.signal = result->signal, .noise = result->noise};
      return;
    }
    const std::lock_guard lock(mutex);
    if (!result.ok()) {
      if (status.ok()) status = result.error();
    } else if (block < skipped_block) {
      skipped_block = block;
      fitted.skipped = result->not_finite
                           ? Skipped{"not finite", element_of(*result->not_finite)}
                           : Skipped{"with more than 256 distinct values",
                                     "mode unique needs at most 256 of them for each LUT"};
    }
  };
  const auto element_text = [](uint64_t element) {
    return fmt::format("element {} is infinite or not a number", element);
  };

  if (layout.contiguous && (kept == nullptr || layout.block_count == 1)) {
    context.pool.For(static_cast<size_t>(layout.block_count), [&](size_t block, int) {
      const WeightSource<T> source(weight, block * layout.block_size, layout.block_size, kept);
      fit_one(block, source,
              [&](uint64_t index) { return element_text(block * layout.block_size + index); });
    });
  } else {
    CMLC_RETURN_IF_ERROR(VisitBlocks<T>(
        weight, plan.blocks, context.pool,
        [&](uint64_t first, uint64_t count, std::span<const T> values) {
          const auto size = static_cast<size_t>(layout.block_size);
          std::vector<T> there;
          for (uint64_t b = 0; b < count; ++b) {
            std::span<const T> block = values.subspan(static_cast<size_t>(b) * size, size);
            if (kept != nullptr) {
              // Of a sparse weight zeros are what is not there.
              there.clear();
              for (const T value : block)
                if (std::is_same_v<T, uint16_t> ? (static_cast<uint16_t>(value) & 0x7fff) != 0
                                                : value != 0)
                  there.push_back(value);
              block = there;
            }
            fit_one(first + b, numeric::SpanSource<T>(block), [&](uint64_t index) {
              return kept != nullptr || !layout.contiguous
                         ? ElementText(weight.shape, plan.blocks, first + b, index, kept == nullptr)
                         : element_text((first + b) * layout.block_size + index);
            });
          }
        }));
  }
  if (!status.ok()) return status.error();
  for (const Quality& quality : qualities) {
    fitted.quality.signal += quality.signal;
    fitted.quality.noise += quality.noise;
  }
  return fitted;
}

template <typename T>
Result<Outcome> Palettize::ReplaceAs(const Weight& weight, const PassContext& context) const {
  constexpr bool kIsHalf = std::is_same_v<T, uint16_t>;
  const Plan plan = PlanOf(weight);
  const size_t most_entries = nbits_ ? size_t{1} << *nbits_ : 256;
  if (plan.cluster_dim > 1) {
    VectorRequest request{
        .blocks = plan.blocks,
        .axis = plan.axis,
        .cluster_dim = plan.cluster_dim,
        .unique = mode_ == "unique",
        .lut_type = LutType(weight),
        .bits = nbits_ ? std::optional<int>(static_cast<int>(*nbits_)) : std::nullopt};
    return PalettizeVectors(weight, request, context,
                            [&](int bits) { return FormText(plan, weight, bits); });
  }
  CMLC_ASSIGN_OR_RETURN(const std::shared_ptr<const Kept> kept, KeptOf(weight));
  // A LUT of its own holds a channel's scale already.
  if (per_channel_scale_ && plan.group_channels > 1) {
    const ScaledRequest request{.blocks = plan.blocks,
                                .axis = plan.axis,
                                .lut_type = LutType(weight),
                                .bits = static_cast<int>(*nbits_)};
    return PalettizeScaled(weight, request, kept, context,
                           FormText(plan, weight, static_cast<int>(*nbits_)));
  }
  CMLC_ASSIGN_OR_RETURN(const Fitted fitted,
                        Fit<T>(weight, plan, kept.get(), most_entries, context));
  if (fitted.skipped) return Outcome(*fitted.skipped);

  size_t most = 1;
  for (const auto& lut : fitted.luts) most = std::max(most, lut.size());
  const int bits = BitsFor(most, context);
  const uint64_t index_count = kept ? kept->index.ones() : weight.element_count;
  if (weight.compressed && weight.encoding->quantized()) {
    const uint64_t now = *PackedBytes(index_count, BitsOf(weight.encoding->data.dtype));
    const uint64_t then = *PackedBytes(index_count, bits) + (plan.luts() << bits);
    if (then >= now)
      return Outcome(Skipped{
          "smaller without LUTs",
          fmt::format("{} bytes of codes, {} of indices and {} LUTs", now, then, plan.luts())});
  }

  auto tables = std::make_shared<Tables<T>>(weight.shape, plan.blocks);
  tables->entries = size_t{1} << bits;
  tables->luts.resize(static_cast<size_t>(plan.luts()) * tables->entries);
  for (size_t block = 0; block < fitted.luts.size(); ++block) {
    const std::vector<double> values(fitted.luts[block].begin(), fitted.luts[block].end());
    numeric::FinishLut(values, kIsHalf ? numeric::EntryType::kHalf : numeric::EntryType::kFloat,
                       std::span(tables->luts).subspan(block * tables->entries, tables->entries));
  }
  if (plan.luts() == 1)
    tables->assigners.push_back(tables->MakeAssigner(0, weight.element_count));
  else if (!tables->layout.contiguous)
    for (uint64_t block = 0; block < plan.luts(); ++block)
      tables->assigners.push_back(tables->MakeAssigner(block, 1));

  // The error of fp16 weights is known from their histograms; else it is found on the way.
  const bool measure = !kIsHalf;
  auto qualities = std::make_shared<ChunkQualities>(weight.element_count, bits);
  const auto encode = [tables, qualities, kept](uint64_t chunk, uint64_t first,
                                                std::span<const T> values, uint8_t* codes) {
    std::optional<AssignerOf<T>> current;
    for (size_t i = 0; i < values.size();) {
      uint64_t run = values.size() - i;
      const uint64_t block = tables->layout.block_count == 1 ? 0 : tables->Locate(first + i, run);
      const size_t end = i + static_cast<size_t>(std::min<uint64_t>(run, values.size() - i));
      const AssignerOf<T>* assigner = nullptr;
      if (!tables->assigners.empty()) {
        assigner = &tables->assigners[static_cast<size_t>(block)];
      } else {
        current =
            tables->MakeAssigner(block, std::min<uint64_t>(tables->layout.block_size, kStepValues));
        assigner = &*current;
      }
      const std::span<const T> some = values.subspan(i, end - i);
      if constexpr (measure) {
        Quality& quality = (*qualities)[chunk];
        if (kept == nullptr) {
          const numeric::Squares squares =
              assigner->AssignAndMeasure(some, codes + i, tables->lut(block));
          quality.noise += squares.noise;
          quality.signal += squares.signal;
        } else {
          assigner->Assign(some, codes + i);
          for (size_t k = i; k < end; ++k) {
            if (!kept->mask.stays(first + k)) continue;
            const double value = static_cast<double>(values[k]);
            const double error = value - static_cast<double>(tables->lut(block)[codes[k]]);
            quality.signal += value * value;
            quality.noise += error * error;
          }
        }
      } else {
        assigner->Assign(some, codes + i);
      }
      i = end;
    }
  };

  Encoding encoding;
  encoding.dtype = weight.dtype;
  encoding.shape = weight.shape;
  if (kept) {
    encoding.mask = weight.encoding->mask;
    encoding.kept = kept->index.ones();
  }
  const DataType index_type = UnsignedOfBits(bits);
  encoding.data = {.dtype = index_type,
                   .shape = kept ? Shape{static_cast<int64_t>(encoding.kept)} : weight.shape,
                   .content = CodeSource<T>(weight, kept, index_type, encode)};
  Shape lut_shape = plan.blocks;
  lut_shape.insert(lut_shape.end(), {static_cast<int64_t>(tables->entries), 1});
  if (const auto lut_type = LutType(weight)) {
    SetCodedLuts(encoding, plan.blocks, fitted.coded, tables->entries, 1, *lut_type);
  } else {
    std::string bytes(tables->luts.size() * sizeof(T), '\0');
    if constexpr (kIsHalf)
      numeric::FloatsToHalves(tables->luts.data(), tables->luts.size(),
                              reinterpret_cast<uint16_t*>(bytes.data()));
    else
      std::memcpy(bytes.data(), tables->luts.data(), bytes.size());
    encoding.lut = Operand{.dtype = weight.dtype, .shape = lut_shape, .content = std::move(bytes)};
  }
  return Outcome(MakeReplacement(
      std::move(encoding), context.specification_version, FormText(plan, weight, bits),
      [qualities, quality = fitted.quality] {
        const Quality chunks = qualities->Total();
        return Quality{.signal = quality.signal + chunks.signal,
                       .noise = quality.noise + chunks.noise};
      },
      context.format));
}

Result<Outcome> Palettize::Replace(const Weight& weight, const PassContext& context) const {
  return weight.dtype == DataType::kFloat16 ? ReplaceAs<uint16_t>(weight, context)
                                            : ReplaceAs<float>(weight, context);
}

}  // namespace

PassInfo PalettizePass() {
  return {
      .name = "palettize",
      .summary = "store each weight as an index into a lookup table (LUT)",
      .description =
          "Every weight of two or more dimensions becomes indices of a few bits and a small "
          "table of entries. k-means places the entries for the least squared error, and is "
          "solved exactly. One LUT for each weight runs on iOS 16 and later with 1, 2, 4, 6 "
          "or 8 bits; 3 bits, groups of channels, vectors, scales, integer entries and joint "
          "compression need iOS 18. NeuralNetworks take one LUT of 1 to 8 bits for each weight.",
      .suffix = "palettized",
      .make = MakePass<Palettize>};
}

}  // namespace cmlc
