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

#include "base/check.h"
#include "base/file.h"
#include "base/npy.h"
#include "base/thread_pool.h"
#include "cmlc/pass.h"
#include "numeric/bit_pack.h"
#include "numeric/convert.h"
#include "numeric/fit_values.h"
#include "numeric/half.h"
#include "numeric/lut.h"

namespace cmlc {
namespace {

constexpr std::initializer_list<int64_t> kWidths = {1, 2, 3, 4, 6, 8};
constexpr int64_t kDefaultGroupSize = 32;
constexpr int32_t kSpecIos16 = 7;
constexpr int32_t kSpecIos18 = 9;

// Values of a piece of a large group, and of a band of strided groups that is gathered at once.
constexpr uint64_t kPieceValues = uint64_t{4} << 20;
// Indices that are computed before they are packed; a multiple of 8, so every block starts a byte.
constexpr size_t kBlockCodes = 16 * 1024;

constexpr uint64_t kMostLutFileBytes = 64 << 20;

// How a tensor falls into groups of channels: [outer, channels, inner] in row-major order, each run
// of `group_channels` channels being a group.
struct Layout {
  uint64_t outer = 1;
  uint64_t channels = 1;
  uint64_t inner = 1;
  uint64_t group_channels = 1;
  uint64_t groups = 1;
  size_t axis = 0;

  uint64_t run() const { return group_channels * inner; }  // neighbours in memory of one group
  uint64_t group_values() const { return outer * run(); }
  bool contiguous() const { return outer == 1 || groups == 1; }
};

// Pieces of a range of a weight's elements.
template <typename T>
class WeightSource final : public numeric::ValueSource<T> {
 public:
  WeightSource(const Weight& weight, uint64_t first, uint64_t count)
      : weight_(weight), first_(first), count_(count) {}

  uint64_t count() const override { return count_; }
  size_t pieces() const override {
    return static_cast<size_t>((count_ + kPieceValues - 1) / kPieceValues);
  }
  Status Visit(size_t piece,
               const typename numeric::ValueSource<T>::Visitor& visit) const override {
    const uint64_t begin = piece * kPieceValues;
    const uint64_t count = std::min(kPieceValues, count_ - begin);
    CMLC_ASSIGN_OR_RETURN(const TensorView view,
                          weight_.View((first_ + begin) * sizeof(T), count * sizeof(T)));
    visit(begin, {reinterpret_cast<const T*>(view.bytes().data()), static_cast<size_t>(count)});
    return Ok();
  }

 private:
  const Weight& weight_;
  uint64_t first_;
  uint64_t count_;
};

template <typename T>
using AssignerOf =
    std::conditional_t<std::is_same_v<T, uint16_t>, numeric::HalfAssigner, numeric::FloatAssigner>;

// The tables of a weight, and how its values are assigned to them.
template <typename T>
struct Tables {
  Layout layout;
  size_t entries = 0;
  std::vector<float> luts;  // groups x entries
  // Where groups alternate within a chunk: an assigner for each. Otherwise they are made as needed.
  std::vector<AssignerOf<T>> assigners;
  // For fp32: what each chunk of indices adds to the sums of squares.
  std::vector<Quality> chunk_quality;

  std::span<const float> lut(uint64_t group) const {
    return std::span<const float>(luts).subspan(group * entries, entries);
  }
  AssignerOf<T> MakeAssigner(uint64_t group, uint64_t expected) const {
    if constexpr (std::is_same_v<T, uint16_t>) {
      std::vector<uint16_t> halves(entries);
      numeric::FloatsToHalves(lut(group).data(), entries, halves.data());
      return {halves, expected};
    } else {
      return {lut(group), expected};
    }
  }
};

// Packed indices of the elements that belong to bytes [begin, begin + out.size()).
template <typename T>
Status FillIndices(Tables<T>& tables, const Weight& weight, int bits, uint64_t begin,
                   std::span<std::byte> out) {
  const Layout& layout = tables.layout;
  const uint64_t first = begin * 8 / static_cast<uint64_t>(bits);
  const uint64_t count = std::min<uint64_t>(out.size() * 8 / static_cast<uint64_t>(bits),
                                            weight.element_count - first);
  CMLC_ASSIGN_OR_RETURN(const TensorView view, weight.View(first * sizeof(T), count * sizeof(T)));
  const std::span<const T> values(reinterpret_cast<const T*>(view.bytes().data()),
                                  static_cast<size_t>(count));
  std::optional<AssignerOf<T>> current;
  uint64_t current_group = 0;
  Quality quality;
  std::vector<uint8_t> codes(std::min<size_t>(kBlockCodes, values.size()));
  for (size_t block = 0; block < values.size(); block += kBlockCodes) {
    const size_t block_end = std::min(values.size(), block + kBlockCodes);
    for (size_t i = block; i < block_end;) {
      uint64_t group = 0;
      size_t end = block_end;
      if (layout.groups > 1) {
        const uint64_t position = first + i;
        const uint64_t in_row = position % (layout.channels * layout.inner);
        group = in_row / layout.run();
        end = std::min<uint64_t>(block_end, i + (layout.run() - in_row % layout.run()));
      }
      const AssignerOf<T>* assigner = nullptr;
      if (!tables.assigners.empty()) {
        assigner = &tables.assigners[group];
      } else {
        if (!current || current_group != group) {
          current = tables.MakeAssigner(group, std::min<uint64_t>(layout.run(), count));
          current_group = group;
        }
        assigner = &*current;
      }
      const std::span<const T> run = values.subspan(i, end - i);
      uint8_t* run_codes = codes.data() + (i - block);
      assigner->Assign(run, run_codes);
      if constexpr (std::is_same_v<T, float>) {
        quality.noise += numeric::SquaredError(run, run_codes, tables.lut(group).data());
        quality.signal += numeric::SumOfSquares(run);
      }
      i = end;
    }
    const size_t block_codes = block_end - block;
    const size_t byte = block * static_cast<size_t>(bits) / 8;
    numeric::PackBits(std::span(codes).first(block_codes), bits,
                      out.subspan(byte, (block_codes * static_cast<size_t>(bits) + 7) / 8));
  }
  if constexpr (std::is_same_v<T, float>)
    tables.chunk_quality[begin / TensorSource::kChunkBytes] = quality;
  return Ok();
}

class Palettize final : public WeightPass {
 public:
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
    v.Path({"lut_file",
            "entries for mode custom: an .npy vector, a JSON list, or a JSON object of "
            "lists by weight name"},
           lut_file_);
  }

  Status CheckOptions() override;
  std::optional<Skipped> Skip(const Weight& weight) const override;
  Need Needs(const Weight& weight) const override;
  // A LUT file may give a table to each name.
  std::string Variant(const Weight& weight) const override {
    return given_.contains(weight.name) ? weight.name : std::string();
  }
  Result<Outcome> Replace(const Weight& weight, const PassContext& context) const override;

 private:
  struct Fitted {
    std::vector<std::vector<float>> luts;  // by group
    std::optional<Skipped> skipped;
    Quality quality;  // of fp16
  };

  bool grouped() const { return granularity_ == "per_grouped_channel"; }
  std::optional<uint64_t> Axis(const Weight& weight) const;
  Layout LayoutOf(const Weight& weight) const;
  const std::vector<float>* Given(const Weight& weight) const;
  template <typename T>
  Result<Fitted> Fit(const Weight& weight, const Layout& layout, size_t most_entries,
                     const PassContext& context) const;
  template <typename T>
  Result<Outcome> ReplaceAs(const Weight& weight, const PassContext& context) const;

  std::optional<int64_t> nbits_;
  std::string mode_ = "kmeans";
  std::string granularity_;
  std::optional<int64_t> group_size_;
  std::optional<int64_t> channel_axis_;
  std::string lut_file_;
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
    return bad("nbits", fmt::format("is needed by mode {}: one of 1, 2, 3, 4, 6, 8", mode_));
  if (!needs_bits && nbits_)
    return bad("nbits", fmt::format("is {}, but mode {} takes it from the entries; leave it out "
                                    "(in a rule: nbits=none)",
                                    *nbits_, mode_));
  if (mode_ == "custom" && lut_file_.empty()) return bad("lut_file", "is needed by mode custom");
  if (mode_ != "custom" && !lut_file_.empty())
    return bad("lut_file", fmt::format("is only used by mode custom, and the mode is {}", mode_));
  if (granularity_ == "per_tensor" && group_size_)
    return bad("group_size", "has no meaning with granularity per_tensor");
  if (granularity_ == "per_tensor" && channel_axis_)
    return bad("channel_axis", "has no meaning with granularity per_tensor");
  if (granularity_.empty())
    granularity_ = group_size_ || channel_axis_ ? "per_grouped_channel" : "per_tensor";
  if (mode_ == "custom") {
    CMLC_ASSIGN_OR_RETURN(given_, ReadLutFile(lut_file_));
  }
  return Ok();
}

std::optional<uint64_t> Palettize::Axis(const Weight& weight) const {
  const auto rank = static_cast<int64_t>(weight.shape.size());
  if (!channel_axis_)
    return weight.output_axis ? std::optional<uint64_t>(*weight.output_axis) : std::nullopt;
  if (*channel_axis_ < -rank || *channel_axis_ >= rank) return std::nullopt;
  return static_cast<uint64_t>(*channel_axis_ < 0 ? *channel_axis_ + rank : *channel_axis_);
}

Layout Palettize::LayoutOf(const Weight& weight) const {
  Layout layout;
  if (!grouped()) {
    layout.channels = weight.element_count;
    layout.group_channels = weight.element_count;
    return layout;
  }
  layout.axis = static_cast<size_t>(*Axis(weight));
  for (size_t d = 0; d < weight.shape.size(); ++d) {
    const auto size = static_cast<uint64_t>(weight.shape[d]);
    (d < layout.axis ? layout.outer : d > layout.axis ? layout.inner : layout.channels) *= size;
  }
  const auto wanted = static_cast<uint64_t>(group_size_.value_or(kDefaultGroupSize));
  layout.group_channels = wanted == 0 ? layout.channels : wanted;
  layout.groups = layout.channels / layout.group_channels;
  return layout;
}

const std::vector<float>* Palettize::Given(const Weight& weight) const {
  auto found = given_.find(weight.name);
  if (found == given_.end()) found = given_.find("");
  return found == given_.end() ? nullptr : &found->second;
}

std::optional<Skipped> Palettize::Skip(const Weight& weight) const {
  if (mode_ == "custom" && Given(weight) == nullptr)
    return Skipped{"without entries in the LUT file",
                   fmt::format("'{}' has no list of this name", lut_file_)};
  if (!grouped()) return std::nullopt;
  if (!Axis(weight)) {
    if (channel_axis_)
      return Skipped{"without that channel axis",
                     fmt::format("channel_axis {} is not an axis of "
                                 "shape {}",
                                 *channel_axis_, ToString(weight.shape))};
    std::string readers;
    for (const Consumer& consumer : weight.consumers)
      readers += fmt::format("{}{} '{}' axis {}", readers.empty() ? "" : ", ", consumer.op_type,
                             consumer.op_name, consumer.output_axis.value_or(-1));
    return Skipped{"read along different axes",
                   fmt::format("its readers have output channels on different axes ({}); "
                               "--channel-axis would name one",
                               readers)};
  }
  const auto channels = static_cast<uint64_t>(weight.shape[*Axis(weight)]);
  const auto size = static_cast<uint64_t>(group_size_.value_or(kDefaultGroupSize));
  if (size != 0 && channels % size != 0)
    return Skipped{"with channels that group_size does not divide",
                   fmt::format("group_size {} does not divide {} channels (axis {} of {})", size,
                               channels, *Axis(weight), ToString(weight.shape))};
  return std::nullopt;
}

WeightPass::Need Palettize::Needs(const Weight& weight) const {
  const uint64_t groups = LayoutOf(weight).groups;
  if (groups > 1)
    return {kSpecIos18,
            fmt::format("{} LUTs in one weight (granularity per_grouped_channel)", groups)};
  if (nbits_ == 3) return {kSpecIos18, "3-bit indices"};
  return {kSpecIos16, "a LUT"};
}

// The tables of all groups.
template <typename T>
Result<Palettize::Fitted> Palettize::Fit(const Weight& weight, const Layout& layout,
                                         size_t most_entries, const PassContext& context) const {
  numeric::FitRequest request;
  request.entries = most_entries;
  if (mode_ == "uniform") request.mode = numeric::FitMode::kUniform;
  if (mode_ == "unique") request.mode = numeric::FitMode::kUnique;
  std::vector<float> given;
  if (mode_ == "custom") {
    request.mode = numeric::FitMode::kGiven;
    given = *Given(weight);
    if (std::is_same_v<T, uint16_t>) {
      for (float& entry : given) entry = numeric::RoundEntry(entry, numeric::EntryType::kHalf);
      if (!std::isfinite(given.front()) || !std::isfinite(given.back())) {
        Fitted skipped;
        skipped.skipped = Skipped{"with LUT entries out of range",
                                  fmt::format("'{}' holds an entry that fp16 cannot", lut_file_)};
        return skipped;
      }
    }
    request.given = given;
  }

  Fitted fitted;
  fitted.luts.resize(static_cast<size_t>(layout.groups));
  std::vector<Quality> qualities(fitted.luts.size());
  std::mutex mutex;
  Status status;
  // The lowest group wins, so the message does not depend on which thread was first.
  uint64_t skipped_group = layout.groups;
  const auto fit_one = [&](uint64_t group, const numeric::ValueSource<T>& source,
                           const auto& element_of) {
    thread_local numeric::FitWorkspace workspace;
    Result<numeric::FitResult> result =
        numeric::FitValues(source, request, context.pool, workspace);
    if (result.ok() && !result->not_finite && !result->too_many) {
      fitted.luts[group] = std::move(result->entries);
      qualities[group] = {.signal = result->signal, .noise = result->noise};
      return;
    }
    const std::lock_guard lock(mutex);
    if (!result.ok()) {
      if (status.ok()) status = result.error();
    } else if (group < skipped_group) {
      skipped_group = group;
      fitted.skipped =
          result->not_finite
              ? Skipped{"not finite", fmt::format("element {} is infinite or not a number",
                                                  element_of(*result->not_finite))}
              : Skipped{"with more than 256 distinct values",
                        "mode unique needs at most 256 of them for each LUT"};
    }
  };

  if (layout.contiguous()) {
    const uint64_t size = layout.group_values();
    context.pool.For(static_cast<size_t>(layout.groups), [&](size_t group, int) {
      const WeightSource<T> source(weight, group * size, size);
      fit_one(group, source, [&](uint64_t index) { return group * size + index; });
    });
  } else {
    // Groups that alternate in memory are gathered, a band of neighbouring groups at a time, so
    // that whole cache lines are used however few channels a group has.
    const uint64_t size = layout.group_values();
    const uint64_t band = std::clamp<uint64_t>(kPieceValues / size, 1, layout.groups);
    const auto bands = static_cast<size_t>((layout.groups + band - 1) / band);
    context.pool.For(bands, [&](size_t b, int) {
      const uint64_t first_group = b * band;
      const uint64_t count = std::min(band, layout.groups - first_group);
      std::vector<T> gathered(static_cast<size_t>(count * size));
      const uint64_t row = layout.channels * layout.inner;
      const uint64_t width = count * layout.run();
      // Rows are viewed some at a time: a view for each would cost more than reading it.
      const uint64_t rows_at_once = std::max<uint64_t>(1, kPieceValues / row);
      for (uint64_t outer = 0; outer < layout.outer; outer += rows_at_once) {
        const uint64_t rows = std::min(rows_at_once, layout.outer - outer);
        const uint64_t begin = outer * row + first_group * layout.run();
        const uint64_t length = (rows - 1) * row + width;
        Result<TensorView> view = weight.View(begin * sizeof(T), length * sizeof(T));
        if (!view.ok()) {
          const std::lock_guard lock(mutex);
          if (status.ok()) status = view.error();
          return;
        }
        for (uint64_t r = 0; r < rows; ++r)
          for (uint64_t g = 0; g < count; ++g)
            std::memcpy(gathered.data() + g * size + (outer + r) * layout.run(),
                        view->bytes().data() + (r * row + g * layout.run()) * sizeof(T),
                        layout.run() * sizeof(T));
      }
      for (uint64_t g = 0; g < count; ++g) {
        const numeric::SpanSource<T> source(std::span<const T>(gathered).subspan(g * size, size));
        fit_one(first_group + g, source, [&](uint64_t index) {
          return index / layout.run() * row + (first_group + g) * layout.run() +
                 index % layout.run();
        });
      }
    });
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
  const Layout layout = LayoutOf(weight);
  const size_t most_entries = nbits_ ? size_t{1} << *nbits_ : 256;
  CMLC_ASSIGN_OR_RETURN(const Fitted fitted, Fit<T>(weight, layout, most_entries, context));
  if (fitted.skipped) return Outcome(*fitted.skipped);

  const bool new_form = context.specification_version >= kSpecIos18;
  int bits = static_cast<int>(nbits_.value_or(0));
  if (bits == 0) {
    size_t most = 1;
    for (const auto& lut : fitted.luts) most = std::max(most, lut.size());
    // The older form has no 3-bit indices: raising the system for them would cost users more than
    // the bit does.
    for (const int64_t width : kWidths)
      if (bits == 0 && most <= size_t{1} << width && (width != 3 || new_form))
        bits = static_cast<int>(width);
  }

  auto tables = std::make_shared<Tables<T>>();
  tables->layout = layout;
  tables->entries = size_t{1} << bits;
  tables->luts.resize(static_cast<size_t>(layout.groups) * tables->entries);
  for (size_t group = 0; group < fitted.luts.size(); ++group) {
    const std::vector<double> values(fitted.luts[group].begin(), fitted.luts[group].end());
    numeric::FinishLut(values, kIsHalf ? numeric::EntryType::kHalf : numeric::EntryType::kFloat,
                       std::span(tables->luts).subspan(group * tables->entries, tables->entries));
  }
  if (layout.groups == 1)
    tables->assigners.push_back(tables->MakeAssigner(0, weight.element_count));
  else if (!layout.contiguous())
    for (uint64_t group = 0; group < layout.groups; ++group)
      tables->assigners.push_back(tables->MakeAssigner(group, 1));
  const uint64_t index_bytes = *PackedBytes(weight.element_count, bits);
  if (!kIsHalf)
    tables->chunk_quality.resize(static_cast<size_t>(index_bytes / TensorSource::kChunkBytes + 1));

  // Both forms store the same bytes; they differ in how they say what those are.
  TensorSource source{.dtype = new_form ? UnsignedOfBits(bits) : DataType::kUInt8,
                      .element_count = new_form ? weight.element_count : index_bytes,
                      .fill = nullptr};
  source.fill = [tables, bits, &weight](uint64_t begin, std::span<std::byte> out) {
    return FillIndices<T>(*tables, weight, bits, begin, out);
  };
  std::string lut_bytes(tables->luts.size() * sizeof(T), '\0');
  if constexpr (kIsHalf)
    numeric::FloatsToHalves(tables->luts.data(), tables->luts.size(),
                            reinterpret_cast<uint16_t*>(lut_bytes.data()));
  else
    std::memcpy(lut_bytes.data(), tables->luts.data(), lut_bytes.size());

  Replacement replacement;
  replacement.form = layout.groups == 1 ? fmt::format("{}-bit LUT", bits)
                                        : fmt::format("{}-bit LUT for each {} channels of axis {}",
                                                      bits, layout.group_channels, layout.axis);
  const auto entries = static_cast<int64_t>(tables->entries);
  if (new_form) {
    Shape lut_shape(weight.shape.size(), 1);
    if (layout.groups > 1) lut_shape[layout.axis] = static_cast<int64_t>(layout.groups);
    lut_shape.push_back(entries);
    lut_shape.push_back(1);
    replacement.tensors.push_back({source.dtype, weight.shape, std::move(source)});
    replacement.tensors.push_back({weight.dtype, std::move(lut_shape), std::move(lut_bytes)});
  } else {
    const std::vector<uint32_t> sizes(weight.shape.begin(), weight.shape.end());
    replacement.tensors.push_back(
        {DataType::kUInt8, {static_cast<int64_t>(index_bytes)}, std::move(source)});
    replacement.tensors.push_back({weight.dtype, {entries}, std::move(lut_bytes)});
    replacement.tensors.push_back(
        {DataType::kUInt32,
         {static_cast<int64_t>(sizes.size())},
         std::string(reinterpret_cast<const char*>(sizes.data()), sizes.size() * 4)});
  }
  replacement.build = [new_form](const Operation& op, const std::vector<Value>& values) {
    Operation lookup;
    lookup.type = "constexpr_lut_to_dense";
    lookup.outputs = op.outputs;
    lookup.attributes["name"] = MakeString(NameOf(op));
    const char* const names[] = {"indices", "lut", "shape"};
    for (size_t i = 0; i < values.size(); ++i) {
      if (new_form)
        lookup.inputs[names[i]].bindings.push_back({.target = values[i]});
      else
        lookup.attributes[names[i]] = values[i];
    }
    return std::vector<Operation>{std::move(lookup)};
  };
  replacement.quality = [tables, quality = fitted.quality] {
    Quality total = quality;
    for (const Quality& chunk : tables->chunk_quality) {
      total.signal += chunk.signal;
      total.noise += chunk.noise;
    }
    return total;
  };
  return Outcome(std::move(replacement));
}

Result<Outcome> Palettize::Replace(const Weight& weight, const PassContext& context) const {
  return weight.dtype == DataType::kFloat16 ? ReplaceAs<uint16_t>(weight, context)
                                            : ReplaceAs<float>(weight, context);
}

}  // namespace

PassInfo PalettizePass() {
  return {.name = "palettize",
          .summary = "store each weight as an index into a lookup table (LUT)",
          .description =
              "Every weight of two or more dimensions becomes indices of a few bits and a small "
              "table of entries. k-means places the entries for the least squared error, and is "
              "solved exactly. One LUT for each weight runs on iOS 16 and later with 1, 2, 4, 6 "
              "or 8 bits; 3 bits and groups of channels need iOS 18.",
          .suffix = "palettized",
          .make = MakePass<Palettize>};
}

}  // namespace cmlc
