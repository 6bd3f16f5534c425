// Scales and table are found in turns. Given scales, the table is the exact k-means of the
// quotients, where an error of a quotient counts with the square of its channel's scale; given
// table and indices, the best scale of a channel is a projection. Each starts from three sets of
// scales: the greatest magnitude of each channel, a multiple of its root mean square, and one for
// all channels, so that the result is never worse than without scales.
#include "passes/palettize_scaled.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "ir/encoding.h"
#include "numeric/convert.h"
#include "numeric/half.h"
#include "numeric/histogram.h"
#include "numeric/kmeans1d.h"
#include "numeric/lut.h"
#include "numeric/lut_fit.h"

namespace cmlc {
namespace {

constexpr int kRounds = 3;
constexpr float kRmsFactor = 4;
constexpr double kInfiniteHalf = 65520;

// The values of a block, as [outer, channels, inner].
struct Layout {
  uint64_t outer = 1, channels = 1, inner = 1;
};

struct Solution {
  std::vector<float> scales;  // by channel, rounded
  std::vector<float> lut;     // ascending, rounded
  double error = INFINITY;
  std::optional<numeric::CodedLut> coded;  // what `lut` is, if entries are integers
};

// Fits one block.
template <typename T>
class Fitter {
 public:
  // With `codes` the entries are integers.
  Fitter(std::span<const T> values, const Layout& layout, bool sparse, size_t entries,
         const std::optional<numeric::CodeType>& codes, ThreadPool& pool)
      : values_(values),
        layout_(layout),
        sparse_(sparse),
        entries_(entries),
        codes_(codes),
        pool_(pool),
        channel_errors_(static_cast<size_t>(layout.channels)) {}

  Solution Fit() {
    std::vector<float> greatest, rms;
    Measure(greatest, rms);
    Solution best;
    const float all = *std::max_element(greatest.begin(), greatest.end());
    Improve(std::vector<float>(greatest.size(), all), best, /*fixed=*/true);
    Improve(greatest, best, false);
    for (float& scale : rms) scale *= kRmsFactor;
    Improve(rms, best, false);
    return codes_ ? Coded(best) : best;
  }

 private:
  static constexpr numeric::EntryType kEntry =
      std::is_same_v<T, uint16_t> ? numeric::EntryType::kHalf : numeric::EntryType::kFloat;

  // A channel of zeros has a scale next to nothing (in fp16 the least there is): whatever entry its
  // indices stand for, almost nothing comes out.
  static float Rounded(double scale) {
    constexpr float kLeast = std::is_same_v<T, uint16_t> ? 0x1p-24f : 0x1p-100f;
    constexpr float kGreatestHalf = 65504;
    const float rounded = numeric::RoundEntry(scale, kEntry);
    if (!(rounded > 0)) return kLeast;
    return std::isfinite(rounded) ? rounded : kGreatestHalf;
  }

  // Calls visit(floats) for all runs of a channel, in order.
  template <typename Visit>
  void ForChannel(uint64_t channel, std::vector<float>& floats, const Visit& visit) const {
    for (uint64_t o = 0; o < layout_.outer; ++o) {
      const uint64_t begin = (o * layout_.channels + channel) * layout_.inner;
      for (uint64_t i = 0; i < layout_.inner; i += kStepValues) {
        const auto step = static_cast<size_t>(std::min<uint64_t>(kStepValues, layout_.inner - i));
        const std::span<const T> some = values_.subspan(static_cast<size_t>(begin + i), step);
        floats.resize(step);
        if constexpr (std::is_same_v<T, uint16_t>)
          numeric::HalvesToFloats(some.data(), step, floats.data());
        else
          std::copy(some.begin(), some.end(), floats.begin());
        // Of a sparse weight zeros are what is not there.
        if (sparse_) floats.erase(std::remove(floats.begin(), floats.end(), 0.0f), floats.end());
        if (!floats.empty()) visit(floats);
      }
    }
  }

  void Measure(std::vector<float>& greatest, std::vector<float>& rms) {
    greatest.assign(static_cast<size_t>(layout_.channels), 0);
    rms.assign(greatest.size(), 0);
    pool_.For(greatest.size(), [&](size_t channel, int) {
      std::vector<float> floats;
      float most = 0;
      double squares = 0;
      uint64_t count = 0;
      ForChannel(channel, floats, [&](const std::vector<float>& some) {
        for (const float value : some) most = std::max(most, std::fabs(value));
        squares += numeric::SumOfSquares(some);
        count += some.size();
      });
      greatest[channel] = Rounded(most);
      rms[channel] =
          Rounded(std::sqrt(squares / static_cast<double>(std::max<uint64_t>(1, count))));
    });
  }

  // The quotients for given scales, in bins of fp16.
  numeric::Points Quotients(const std::vector<float>& scales) {
    struct Bin {
      double weight = 0, sum = 0;
    };
    // A fixed number of parts, added in order, whatever the number of threads.
    constexpr size_t kParts = 4;
    std::vector<std::vector<Bin>> parts(std::min<size_t>(kParts, scales.size()));
    pool_.For(parts.size(), [&](size_t part, int) {
      std::vector<Bin>& bins = parts[part];
      bins.resize(numeric::kHalfPatterns);
      std::vector<float> floats;
      std::vector<uint16_t> halves;
      const size_t begin = scales.size() * part / parts.size();
      const size_t end = scales.size() * (part + 1) / parts.size();
      for (size_t channel = begin; channel < end; ++channel) {
        const float scale = scales[channel];
        const double weight = static_cast<double>(scale) * static_cast<double>(scale);
        ForChannel(channel, floats, [&](std::vector<float>& some) {
          for (float& value : some) value = std::clamp(value / scale, -60000.0f, 60000.0f);
          halves.resize(some.size());
          numeric::FloatsToHalves(some.data(), some.size(), halves.data());
          for (size_t i = 0; i < some.size(); ++i) {
            Bin& bin = bins[numeric::HalfKey(halves[i] == 0x8000 ? uint16_t{0} : halves[i])];
            bin.weight += weight;
            bin.sum += weight * static_cast<double>(some[i]);
          }
        });
      }
    });
    numeric::Points points;
    for (size_t key = 0; key < numeric::kHalfPatterns; ++key) {
      Bin total;
      for (const std::vector<Bin>& part : parts) {
        total.weight += part[key].weight;
        total.sum += part[key].sum;
      }
      if (!(total.weight > 0)) continue;
      const double mean = total.sum / total.weight;
      if (!points.values.empty() && mean <= points.values.back())
        points.weights.back() += total.weight;
      else
        points.Add(mean, total.weight);
    }
    if (points.values.empty()) points.Add(0, 1);
    return points;
  }

  // The table for given scales.
  std::vector<float> Table(const std::vector<float>& scales) {
    const numeric::Points points = Quotients(scales);
    const numeric::Clustering& clustering =
        kmeans_.Solve(points.values, points.weights, static_cast<int>(entries_));
    std::vector<float> lut;
    for (const double entry : clustering.centroids)
      lut.push_back(numeric::RoundEntry(entry, kEntry));
    return lut;
  }

  // For every channel the squared error with its scale, and the scale that projection gives.
  void Assess(const std::vector<float>& scales, const std::vector<float>& lut,
              std::vector<float>* projected) {
    const numeric::FloatAssigner assigner(lut, layout_.outer * layout_.channels * layout_.inner);
    pool_.For(scales.size(), [&](size_t channel, int) {
      std::vector<float> floats, quotients;
      std::vector<uint8_t> codes;
      const float scale = scales[channel];
      double error = 0, product = 0, square = 0;
      ForChannel(channel, floats, [&](const std::vector<float>& some) {
        quotients.resize(some.size());
        codes.resize(some.size());
        for (size_t i = 0; i < some.size(); ++i) quotients[i] = some[i] / scale;
        assigner.Assign(quotients, codes.data());
        for (size_t i = 0; i < some.size(); ++i) {
          const auto value = static_cast<double>(some[i]);
          const auto entry = static_cast<double>(lut[codes[i]]);
          const double difference =
              value - static_cast<double>(numeric::RoundEntry(static_cast<double>(scale) * entry,
                                                              numeric::EntryType::kFloat));
          error += difference * difference;
          // What rounds to infinity in fp16 is no candidate.
          if (std::is_same_v<T, uint16_t> &&
              std::fabs(static_cast<double>(scale) * entry) >= kInfiniteHalf)
            error = INFINITY;
          product += value * entry;
          square += entry * entry;
        }
      });
      channel_errors_[channel] = error;
      if (projected != nullptr)
        (*projected)[channel] =
            square > 0 && product > 0 ? Rounded(product / square) : scales[channel];
    });
  }

  // With integer entries. What would do without scales is tried too: codes of few bits may have
  // more to lose than scales have to give.
  Solution Coded(const Solution& best) {
    const std::vector<float> ones(best.scales.size(), 1.0f);
    Solution scaled = WithCodes(best.scales, best.lut);
    Solution plain = WithCodes(ones, Table(ones));
    return plain.error < scaled.error ? plain : scaled;
  }

  // Makes the entries integers; each channel takes another scale then if that helps.
  Solution WithCodes(std::vector<float> scales, std::span<const float> lut) {
    Solution solution;
    solution.coded = numeric::FitCodedLut(Quotients(scales), lut, entries_, *codes_);
    solution.lut = solution.coded->entries;
    std::vector<float> projected = scales;
    Assess(scales, solution.lut, &projected);
    const std::vector<double> before = channel_errors_;
    Assess(projected, solution.lut, nullptr);
    const float outermost =
        std::max(std::fabs(solution.lut.front()), std::fabs(solution.lut.back()));
    solution.error = 0;
    for (size_t c = 0; c < scales.size(); ++c) {
      if (channel_errors_[c] < before[c]) scales[c] = projected[c];
      solution.error += std::min(before[c], channel_errors_[c]);
      // An entry further out than before must not become infinite.
      if constexpr (std::is_same_v<T, uint16_t>)
        while (static_cast<double>(scales[c]) * static_cast<double>(outermost) >= kInfiniteHalf)
          scales[c] =
              numeric::HalfToFloat(static_cast<uint16_t>(numeric::FloatToHalf(scales[c]) - 1));
    }
    solution.scales = std::move(scales);
    return solution;
  }

  void Improve(std::vector<float> scales, Solution& best, bool fixed) {
    for (int round = 0; round < kRounds; ++round) {
      const std::vector<float> lut = Table(scales);
      std::vector<float> projected = scales;
      Assess(scales, lut, &projected);
      const std::vector<double> before = channel_errors_;
      double error = 0;
      if (fixed) {
        for (const double channel : before) error += channel;
      } else {
        // A channel takes its new scale only if that helps.
        Assess(projected, lut, nullptr);
        for (size_t c = 0; c < scales.size(); ++c) {
          if (channel_errors_[c] < before[c]) scales[c] = projected[c];
          error += std::min(before[c], channel_errors_[c]);
        }
      }
      if (error < best.error) best = {.scales = scales, .lut = lut, .error = error};
      if (fixed) return;
    }
  }

  std::span<const T> values_;
  Layout layout_;
  bool sparse_;
  size_t entries_;
  std::optional<numeric::CodeType> codes_;
  ThreadPool& pool_;
  numeric::KMeans1d kmeans_;
  std::vector<double> channel_errors_;
};

template <typename T>
Result<Outcome> PalettizeScaledAs(const Weight& weight, const ScaledRequest& request,
                                  const std::shared_ptr<const Kept>& kept,
                                  const PassContext& context, std::string form) {
  Layout layout;
  for (size_t d = 0; d < weight.shape.size(); ++d)
    (d < request.axis   ? layout.outer
     : d > request.axis ? layout.inner
                        : layout.channels) *= static_cast<uint64_t>(weight.shape[d]);
  const uint64_t channels = layout.channels;
  const auto groups = static_cast<uint64_t>(request.blocks[request.axis]);
  const uint64_t group_channels = channels / groups;
  layout.channels = group_channels;
  const size_t entries = size_t{1} << request.bits;

  struct State {
    std::vector<float> scales;             // of all channels
    std::vector<float> luts;               // groups x entries
    std::vector<numeric::CodedLut> coded;  // by group, if entries are integers
    std::vector<numeric::FloatAssigner> assigners;
  };
  auto state = std::make_shared<State>();
  state->scales.resize(static_cast<size_t>(channels));
  state->luts.resize(static_cast<size_t>(groups) * entries);
  std::optional<numeric::CodeType> code_type;
  if (request.lut_type) {
    code_type = CodeTypeOf(*request.lut_type, weight.dtype);
    state->coded.resize(static_cast<size_t>(groups));
  }
  std::mutex mutex;
  bool finite = true;
  CMLC_RETURN_IF_ERROR(VisitBlocks<T>(
      weight, request.blocks, context.pool,
      [&](uint64_t first, uint64_t count, std::span<const T> values) {
        if (numeric::FirstNotFinite(values) != values.size()) {
          const std::lock_guard lock(mutex);
          finite = false;
          return;
        }
        const size_t size = values.size() / static_cast<size_t>(count);
        for (uint64_t b = 0; b < count; ++b) {
          Fitter<T> fitter(values.subspan(static_cast<size_t>(b) * size, size), layout,
                           kept != nullptr, entries, code_type, context.pool);
          Solution solution = fitter.Fit();
          const uint64_t group = first + b;
          std::copy(solution.scales.begin(), solution.scales.end(),
                    state->scales.begin() + static_cast<std::ptrdiff_t>(group * group_channels));
          for (size_t e = 0; e < entries; ++e)
            state->luts[static_cast<size_t>(group) * entries + e] =
                solution.lut[std::min(e, solution.lut.size() - 1)];
          if (solution.coded) state->coded[static_cast<size_t>(group)] = *std::move(solution.coded);
        }
      }));
  if (!finite) return Outcome(Skipped{"not finite", "an element is infinite or not a number"});
  for (uint64_t group = 0; group < groups; ++group)
    state->assigners.emplace_back(
        std::span<const float>(state->luts).subspan(static_cast<size_t>(group) * entries, entries),
        groups == 1 ? weight.element_count : 1);

  auto qualities = std::make_shared<ChunkQualities>(weight.element_count, request.bits);
  const auto encode = [state, qualities, kept, channels, group_channels, entries,
                       inner = layout.inner](uint64_t chunk, uint64_t first,
                                             std::span<const T> values, uint8_t* codes) {
    thread_local std::vector<float> floats, quotients;
    floats.resize(values.size());
    quotients.resize(values.size());
    if constexpr (std::is_same_v<T, uint16_t>)
      numeric::HalvesToFloats(values.data(), values.size(), floats.data());
    else
      std::copy(values.begin(), values.end(), floats.begin());
    Quality& quality = (*qualities)[chunk];
    for (size_t i = 0; i < floats.size();) {
      const uint64_t position = first + i;
      const uint64_t channel = position / inner % channels;
      const size_t end =
          i + static_cast<size_t>(std::min<uint64_t>(inner - position % inner, floats.size() - i));
      const float scale = state->scales[static_cast<size_t>(channel)];
      const auto group = static_cast<size_t>(channel / group_channels);
      for (size_t k = i; k < end; ++k) quotients[k] = floats[k] / scale;
      state->assigners[group].Assign(std::span<const float>(quotients).subspan(i, end - i),
                                     codes + i);
      const float* lut = state->luts.data() + group * entries;
      for (size_t k = i; k < end; ++k) {
        if (kept != nullptr && !kept->mask.stays(first + k)) continue;
        const auto value = static_cast<double>(floats[k]);
        float decoded = scale * lut[codes[k]];
        if constexpr (std::is_same_v<T, uint16_t>)
          decoded = numeric::HalfToFloat(numeric::FloatToHalf(decoded));
        const double error = value - static_cast<double>(decoded);
        quality.signal += value * value;
        quality.noise += error * error;
      }
      i = end;
    }
  };

  const auto bytes_of = [](const std::vector<float>& values) {
    std::string bytes(values.size() * sizeof(T), '\0');
    if constexpr (std::is_same_v<T, uint16_t>)
      numeric::FloatsToHalves(values.data(), values.size(),
                              reinterpret_cast<uint16_t*>(bytes.data()));
    else
      std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  };
  Encoding encoding;
  encoding.dtype = weight.dtype;
  encoding.shape = weight.shape;
  if (kept) {
    encoding.mask = weight.encoding->mask;
    encoding.kept = kept->index.ones();
  }
  const DataType index_type = UnsignedOfBits(request.bits);
  encoding.data = {.dtype = index_type,
                   .shape = kept ? Shape{static_cast<int64_t>(encoding.kept)} : weight.shape,
                   .content = CodeSource<T>(weight, kept, index_type, encode)};
  if (request.lut_type) {
    SetCodedLuts(encoding, request.blocks, state->coded, entries, 1, *request.lut_type);
  } else {
    Shape lut_shape = request.blocks;
    lut_shape.insert(lut_shape.end(), {static_cast<int64_t>(entries), 1});
    encoding.lut =
        Operand{.dtype = weight.dtype, .shape = lut_shape, .content = bytes_of(state->luts)};
  }
  Shape scale_shape(weight.shape.size(), 1);
  scale_shape[request.axis] = static_cast<int64_t>(channels);
  encoding.scale =
      Operand{.dtype = weight.dtype, .shape = scale_shape, .content = bytes_of(state->scales)};
  return Outcome(MakeReplacement(std::move(encoding), context.specification_version,
                                 std::move(form), [qualities] { return qualities->Total(); }));
}

}  // namespace

Result<Outcome> PalettizeScaled(const Weight& weight, const ScaledRequest& request,
                                const std::shared_ptr<const Kept>& kept, const PassContext& context,
                                std::string form) {
  return weight.dtype == DataType::kFloat16
             ? PalettizeScaledAs<uint16_t>(weight, request, kept, context, std::move(form))
             : PalettizeScaledAs<float>(weight, request, kept, context, std::move(form));
}

}  // namespace cmlc
