#include "cmlc/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <set>

#include "base/npy.h"
#include "base/thread_pool.h"
#include "cmlc/package.h"
#include "exec/executable.h"
#include "exec/isa/kernels.h"
#include "ir/decode.h"
#include "ir/graph_index.h"
#include "ir/weights.h"
#include "predict/data.h"
#include "predict/metrics.h"
#include "predict/run.h"
#include "predict/target.h"

namespace cmlc {
namespace predict {
namespace {

using exec::Value;
using Metric = Threshold::Metric;

// --- Weights ------------------------------------------------------------------------------------

struct Site {
  std::string key;         // that finds the weight of the other model
  std::string reader_key;  // the same by the op that reads it, where tools have renamed the weight
  std::string name;
  std::string type;
  std::string form;
  Shape shape;
  uint64_t elements = 0;
  uint64_t bytes = 0;  // 0: counted with another weight
  std::unique_ptr<TensorReader> reader;
};

struct Weights {
  std::deque<GraphIndex> indices;
  std::vector<Site> sites;
  std::map<std::string, size_t> by_key, by_reader;
};

Result<Weights> WeightsOf(Package& package) {
  Weights out;
  std::set<TensorId> counted;
  std::optional<Error> error;
  const Model& root = package.model();
  const bool one_function = root.network || (root.program && root.program->functions.size() == 1);
  const auto visit = [&](auto&& self, Model& model, const std::string& label) -> void {
    for (const ProgramBlock& block : BlocksOf(model, label.empty() ? "" : label + ":")) {
      GraphIndex& index = out.indices.emplace_back(*block.block);
      for (WeightSite& found : FindWeights(index, block.network)) {
        if (!IsWeightFloat(found.weight.dtype) ||
            (found.weight.element_count <= 1 && block.network == nullptr))
          continue;
        Site site;
        site.key = block.label + "/" + found.weight.name;
        site.name = one_function ? found.weight.name : site.key;
        site.shape = found.weight.shape;
        site.type = fmt::format("{} {}", NameOf(found.weight.dtype), ToString(site.shape));
        site.elements = found.weight.element_count;
        const StoredForm form = FormOf(*found.definition->op, index);
        site.form = form.text;
        site.bytes = form.immediate_bytes;
        for (const TensorId id : form.tensors)
          if (counted.insert(id).second) site.bytes += package.tensors().info(id).size_bytes;
        Result<std::unique_ptr<TensorReader>> reader =
            MakeReader(*found.definition->op, found.definition->output, index, package.tensors());
        if (!reader.ok()) {
          if (!error) error = reader.error();
          return;
        }
        site.reader = std::move(*reader);
        if (!found.weight.consumers.empty())
          site.reader_key = block.label + "/" + ToString(found.weight.consumers[0]);
        out.by_key.emplace(site.key, out.sites.size());
        out.by_reader.emplace(site.reader_key, out.sites.size());
        out.sites.push_back(std::move(site));
      }
    }
    for (size_t i = 0; i < model.members.size(); ++i)
      self(self, model.members[i], fmt::format("{}{}{}", label, label.empty() ? "" : ".", i));
  };
  visit(visit, package.model(), "");
  if (error) return *error;
  return out;
}

struct WeightSums {
  double signal = 0, noise = 0;
};

Status CompareWeight(const Site& a, const Site& b, WeightComparison& out, WeightSums& sums) {
  constexpr uint64_t kStep = 256 * 1024;
  std::vector<float> y, x;
  out.equal = true;
  for (uint64_t begin = 0; begin < a.elements; begin += kStep) {
    const auto count = static_cast<size_t>(std::min(kStep, a.elements - begin));
    y.resize(count);
    x.resize(count);
    CMLC_RETURN_IF_ERROR(a.reader->Read(begin, y));
    CMLC_RETURN_IF_ERROR(b.reader->Read(begin, x));
    for (size_t i = 0; i < count; ++i) {
      const auto w = static_cast<double>(y[i]);
      const auto v = static_cast<double>(x[i]);
      if (!std::isfinite(w) || !std::isfinite(v)) {
        if ((std::isnan(w) && std::isnan(v)) || w == v) continue;
        ++out.not_finite_in_one;
        out.equal = false;
        continue;
      }
      sums.signal += w * w;
      const double difference = v - w;
      if (difference == 0) continue;
      out.equal = false;
      sums.noise += difference * difference;
      out.max_error = std::max(out.max_error, std::fabs(difference));
    }
  }
  out.snr_db = sums.noise == 0 ? std::numeric_limits<double>::infinity()
                               : 10 * std::log10(sums.signal / sums.noise);
  return Ok();
}

Status CompareWeights(const Weights& a, const Weights& b, ThreadPool& pool, CompareReport& report) {
  struct Pair {
    const Site* a;
    const Site* b;
  };
  std::vector<Pair> pairs;
  const auto described = [](const Site& site) {
    return fmt::format("{} {}", site.name, site.type);
  };
  // By name, then among what is left by the op that reads it: some tools give a weight another name
  // when they compress it.
  std::set<const Site*> taken;
  std::map<const Site*, const Site*> partners;
  const auto match = [&](const std::map<std::string, size_t>& places, std::string Site::*key) {
    for (const Site& site : a.sites) {
      const auto found = places.find(site.*key);
      if (partners.contains(&site) || found == places.end() || (site.*key).empty()) continue;
      const Site& other = b.sites[found->second];
      if (other.shape == site.shape && taken.insert(&other).second) partners.emplace(&site, &other);
    }
  };
  match(b.by_key, &Site::key);
  match(b.by_reader, &Site::reader_key);
  for (const Site& site : a.sites) {
    if (site.bytes != 0) report.weight_elements += site.elements;
    report.weight_bytes_a += site.bytes;
    if (const auto partner = partners.find(&site); partner != partners.end())
      pairs.push_back({&site, partner->second});
    else
      report.only_in_a.push_back(described(site));
  }
  uint64_t elements_b = 0;
  for (const Site& site : b.sites) {
    if (site.bytes != 0) elements_b += site.elements;
    report.weight_bytes_b += site.bytes;
    if (!taken.contains(&site)) report.only_in_b.push_back(described(site));
  }
  const auto bits = [](uint64_t bytes, uint64_t elements) {
    return elements == 0 ? 0 : static_cast<double>(bytes) * 8 / static_cast<double>(elements);
  };
  report.bits_per_weight_a = bits(report.weight_bytes_a, report.weight_elements);
  report.bits_per_weight_b = bits(report.weight_bytes_b, elements_b);

  report.weights.resize(pairs.size());
  std::vector<WeightSums> sums(pairs.size());
  std::mutex mutex;
  std::optional<Error> error;
  pool.For(pairs.size(), [&](size_t i, int) {
    WeightComparison& out = report.weights[i];
    const auto& [first, second] = pairs[i];
    out.name = first->name;
    out.shape = ToString(first->shape);
    out.form_a = first->form;
    out.form_b = second->form;
    out.elements = first->elements;
    out.bits_a = bits(first->bytes, first->elements);
    out.bits_b = bits(second->bytes, second->elements);
    const Status status = CompareWeight(*first, *second, out, sums[i]);
    if (status.ok()) return;
    const std::lock_guard lock(mutex);
    if (!error) error = status.error();
  });
  if (error) return *error;
  double signal = 0, noise = 0;
  for (size_t i = 0; i < pairs.size(); ++i) {
    report.equal_weights += report.weights[i].equal ? 1 : 0;
    signal += sums[i].signal;
    noise += sums[i].noise;
  }
  if (noise > 0) report.weight_snr_db = 10 * std::log10(signal / noise);
  return Ok();
}

// --- Numbers of all samples ---------------------------------------------------------------------

class Series {
 public:
  void Add(double value, uint64_t sample) { values_.emplace_back(value, sample); }
  bool empty() const { return values_.empty(); }

  // `less_is_worse`: the worst is the least.
  std::optional<Spread> Summary(bool less_is_worse) const {
    if (values_.empty()) return std::nullopt;
    Spread spread;
    spread.worst = values_[0].first;
    spread.worst_sample = values_[0].second;
    std::vector<double> sorted;
    for (const auto& [value, sample] : values_) {
      spread.mean += value;
      sorted.push_back(value);
      if (less_is_worse ? value < spread.worst : value > spread.worst) {
        spread.worst = value;
        spread.worst_sample = sample;
      }
    }
    const auto count = static_cast<double>(values_.size());
    spread.mean /= count;
    std::sort(sorted.begin(), sorted.end());
    if (!less_is_worse) std::reverse(sorted.begin(), sorted.end());
    spread.quantile = sorted[static_cast<size_t>(std::max(0.0, std::ceil(0.05 * count) - 1))];
    return spread;
  }

 private:
  std::vector<std::pair<double, uint64_t>> values_;
};

// --- Outputs ------------------------------------------------------------------------------------

struct Labels {
  std::string output;  // empty: to be found
  std::vector<int64_t> classes;
};

struct OutputNumbers {
  OutputComparison comparison;
  Series snr, psnr, cosine, max_error, relative, kl, top1, top5, equal;
  bool floats = false;
  bool probability = true;  // so far
  bool scores = false;      // of a shape that lets one think so
  bool asked = false;       // for its best elements
  // Against labels: hits of A and B.
  uint64_t rows = 0;
  uint64_t hits_a = 0, hits_b = 0, hits5_a = 0, hits5_b = 0;
  bool has_five = false;
};

std::vector<float> FloatsOf(const Value& value) {
  std::vector<float> floats(static_cast<size_t>(value.element_count()));
  Value tensor = value;
  tensor.kind = Value::Kind::kTensor;
  // Outputs have storage, and types that can be read.
  const Status status = exec::ReadFloats(tensor, 0, floats);
  if (!status.ok()) floats.assign(floats.size(), 0);
  return floats;
}

// A dictionary's numbers in the order of another's keys; nothing if the keys differ.
std::optional<std::vector<float>> InOrderOf(const Value& reference, const Value& value) {
  if (value.element_count() != reference.element_count()) return std::nullopt;
  const std::vector<float> floats = FloatsOf(value);
  std::vector<float> out;
  const auto order = [&](const auto& keys, const auto& wanted) {
    if (keys == nullptr || wanted == nullptr) return keys == wanted;
    std::map<typename std::decay_t<decltype(*keys)>::value_type, size_t> places;
    for (size_t i = 0; i < keys->size(); ++i) places.emplace((*keys)[i], i);
    for (const auto& key : *wanted) {
      const auto found = places.find(key);
      if (found == places.end()) return false;
      out.push_back(floats[found->second]);
    }
    return true;
  };
  if (!order(value.strings, reference.strings) || !order(value.keys, reference.keys))
    return std::nullopt;
  return out;
}

class OutputComparer {
 public:
  OutputComparer(const CompareOptions& options, std::optional<Labels> labels)
      : labels_(std::move(labels)) {
    for (const Threshold& threshold : options.thresholds)
      if (threshold.metric == Metric::kMinTop1 || threshold.metric == Metric::kMinTop5)
        asked_.insert(threshold.output);
    if (labels_) asked_.insert(labels_->output);
  }

  // One step of sample `sample`; outputs that only one model has are left out.
  Status Add(const std::vector<std::string>& names_a, const std::vector<Value>& a,
             const std::vector<std::string>& names_b, const std::vector<Value>& b, uint64_t sample,
             uint64_t samples);
  void Finish(CompareReport& report);

 private:
  Status AddOne(OutputNumbers& out, const Value& a, const Value& b, uint64_t sample);
  Status AddLabels(uint64_t samples);

  std::vector<OutputNumbers> outputs_;
  std::map<std::string, size_t> by_name_;
  std::set<std::string> asked_;
  std::optional<Labels> labels_;
  // Of the current step, for labels: the numbers of each output, and the length of their rows.
  struct Rows {
    size_t output = 0;
    std::vector<float> a, b;
    size_t row = 0;
    bool dictionary = false;
  };
  std::vector<Rows> rows_;
};

Status OutputComparer::AddOne(OutputNumbers& out, const Value& a, const Value& b, uint64_t sample) {
  OutputComparison& to = out.comparison;
  const auto mismatch = [&] {
    return Error{ErrorKind::kBadInput, fmt::format("output '{}' is {} in A and {} in B", to.name,
                                                   exec::ToString(a), exec::ToString(b))};
  };
  if (a.kind != b.kind || a.shape != b.shape) return mismatch();
  ++to.values;
  if (a.kind == Value::Kind::kStrings) {
    uint64_t same = 0;
    for (size_t i = 0; i < a.strings->size(); ++i)
      same += (*a.strings)[i] == (*b.strings)[i] ? 1 : 0;
    out.equal.Add(
        a.strings->empty() ? 1 : static_cast<double>(same) / static_cast<double>(a.strings->size()),
        sample);
    return Ok();
  }
  std::vector<float> y = FloatsOf(a);
  std::vector<float> x;
  const bool dictionary = a.kind == Value::Kind::kDictionary;
  if (dictionary) {
    std::optional<std::vector<float>> ordered = InOrderOf(a, b);
    if (!ordered) return mismatch();
    x = std::move(*ordered);
  } else {
    x = FloatsOf(b);
  }
  if (!dictionary && !exec::IsFloat(a.dtype) && !exec::IsFloat(b.dtype)) {
    CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> first, exec::ReadInts(a));
    CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> second, exec::ReadInts(b));
    uint64_t same = 0;
    double error = 0;
    for (size_t i = 0; i < first.size(); ++i) {
      same += first[i] == second[i] ? 1 : 0;
      error = std::max(error, std::fabs(static_cast<double>(second[i] - first[i])));
    }
    out.equal.Add(first.empty() ? 1 : static_cast<double>(same) / static_cast<double>(first.size()),
                  sample);
    out.max_error.Add(error, sample);
    return Ok();
  }
  out.floats = true;
  const Difference difference = Measure(y, x);
  to.both_not_finite += difference.both_not_finite;
  to.not_finite_in_one += difference.not_finite_in_one;
  out.snr.Add(difference.snr_db, sample);
  out.psnr.Add(difference.psnr_db, sample);
  out.cosine.Add(difference.cosine, sample);
  out.max_error.Add(difference.max_error, sample);
  out.relative.Add(difference.relative, sample);
  const size_t row = a.shape.empty() ? 0 : static_cast<size_t>(a.shape.back());
  if (row < 2 || y.empty()) {
    out.probability = false;
    return Ok();
  }
  out.probability = out.probability && IsProbability(y, row) && IsProbability(x, row);
  out.scores = a.shape.size() <= 2 || dictionary;
  if (out.probability) out.kl.Add(KullbackLeibler(y, x, row), sample);
  if (!out.probability && !out.scores && !out.asked) return Ok();
  out.top1.Add(Top1(y, x, row), sample);
  if (const std::optional<double> top5 = Top5(y, x, row)) out.top5.Add(*top5, sample);
  if (labels_) rows_.push_back({by_name_[to.name], std::move(y), std::move(x), row, dictionary});
  return Ok();
}

Status OutputComparer::AddLabels(uint64_t samples) {
  const auto usage = [](std::string what) {
    return Error{ErrorKind::kUsage, fmt::format("--labels: {}", what)};
  };
  const Rows* found = nullptr;
  if (labels_->output.empty()) {
    // A dictionary is what a classifier says; else there has to be one output with scores.
    size_t count = 0;
    for (const Rows& rows : rows_)
      if (rows.dictionary) found = &rows;
    if (found == nullptr)
      for (const Rows& rows : rows_) {
        found = &rows;
        ++count;
      }
    if (count > 1) return usage("several outputs have scores, expected OUTPUT=FILE");
  } else {
    for (const Rows& rows : rows_)
      if (outputs_[rows.output].comparison.name == labels_->output) found = &rows;
  }
  if (found == nullptr)
    return usage(
        labels_->output.empty()
            ? std::string("no output has scores for classes")
            : fmt::format("there is no output '{}' with scores for classes", labels_->output));
  OutputNumbers& out = outputs_[found->output];
  labels_->output = out.comparison.name;
  const uint64_t rows = found->a.size() / found->row;
  if (out.rows == 0 && labels_->classes.size() != samples * rows)
    return usage(fmt::format("has {} labels, expected {} for output '{}'", labels_->classes.size(),
                             samples * rows, labels_->output));
  out.has_five = found->row > 5;
  for (uint64_t r = 0; r < rows; ++r, ++out.rows) {
    if (out.rows >= labels_->classes.size())
      return usage("has fewer labels than there are outputs");
    const int64_t label = labels_->classes[static_cast<size_t>(out.rows)];
    if (label < 0 || label >= static_cast<int64_t>(found->row))
      return usage(fmt::format("label {} is {}, expected 0 to {} for output '{}'", out.rows, label,
                               found->row - 1, labels_->output));
    const auto hit = [&](const std::vector<float>& values, size_t most) -> uint64_t {
      const std::vector<size_t> best =
          Best(std::span(values).subspan(static_cast<size_t>(r) * found->row, found->row), most);
      return std::find(best.begin(), best.end(), static_cast<size_t>(label)) != best.end() ? 1 : 0;
    };
    out.hits_a += hit(found->a, 1);
    out.hits_b += hit(found->b, 1);
    out.hits5_a += hit(found->a, 5);
    out.hits5_b += hit(found->b, 5);
  }
  return Ok();
}

Status OutputComparer::Add(const std::vector<std::string>& names_a, const std::vector<Value>& a,
                           const std::vector<std::string>& names_b, const std::vector<Value>& b,
                           uint64_t sample, uint64_t samples) {
  if (outputs_.empty())
    for (size_t i = 0; i < a.size(); ++i)
      if (std::find(names_b.begin(), names_b.end(), names_a[i]) != names_b.end()) {
        by_name_.emplace(names_a[i], outputs_.size());
        OutputNumbers& out = outputs_.emplace_back();
        out.comparison.name = names_a[i];
        out.comparison.type = exec::ToString(a[i]);
        out.asked = asked_.contains(names_a[i]);
      }
  rows_.clear();
  for (size_t i = 0; i < a.size(); ++i) {
    const auto found = by_name_.find(names_a[i]);
    if (found == by_name_.end()) continue;
    const auto other = std::find(names_b.begin(), names_b.end(), names_a[i]) - names_b.begin();
    CMLC_RETURN_IF_ERROR(
        AddOne(outputs_[found->second], a[i], b[static_cast<size_t>(other)], sample));
  }
  return labels_ ? AddLabels(samples) : Ok();
}

void OutputComparer::Finish(CompareReport& report) {
  for (OutputNumbers& out : outputs_) {
    OutputComparison& to = out.comparison;
    to.snr = out.snr.Summary(true);
    to.psnr = out.psnr.Summary(true);
    to.cosine = out.cosine.Summary(true);
    to.max_error = out.max_error.Summary(false);
    to.relative = out.relative.Summary(false);
    to.equal = out.equal.Summary(true);
    if (out.probability) to.kl = out.kl.Summary(false);
    if (out.probability || out.scores || out.asked) {
      to.top1 = out.top1.Summary(true);
      to.top5 = out.top5.Summary(true);
    }
    if (out.rows > 0) {
      const auto share = [&](uint64_t hits) {
        return static_cast<double>(hits) / static_cast<double>(out.rows);
      };
      to.accuracy_a = share(out.hits_a);
      to.accuracy_b = share(out.hits_b);
      if (out.has_five) {
        to.top5_accuracy_a = share(out.hits5_a);
        to.top5_accuracy_b = share(out.hits5_b);
      }
    }
    report.outputs.push_back(std::move(to));
  }
}

// --- Operations ---------------------------------------------------------------------------------

template <typename Visit>
void ForEachOp(const Block& block, const Visit& visit) {
  for (const Operation& op : block.operations) {
    visit(op);
    for (const Block& inner : op.blocks) ForEachOp(inner, visit);
  }
}

const Block& BlockOf(const Target& target) {
  return *ActiveBlock(std::as_const(target.program->functions.at(target.function)));
}

// What ops of a program make, less its constants.
std::set<std::string> MadeBy(const Target& target) {
  std::set<std::string> names;
  ForEachOp(BlockOf(target), [&](const Operation& op) {
    if (IsConst(op) || IsConstexpr(op)) return;
    for (const NamedValueType& output : op.outputs) names.insert(output.name);
  });
  return names;
}

// Keeps the values of A's step until B has made its own.
class Recorder final : public exec::Observer {
 public:
  bool Wants(const Operation& op) const override {
    return !IsConst(op) && !IsConstexpr(op) &&
           std::any_of(op.outputs.begin(), op.outputs.end(),
                       [&](const NamedValueType& output) { return common.contains(output.name); });
  }
  void After(const Operation& op, std::span<const Value> outputs) override {
    for (size_t i = 0; i < outputs.size() && i < op.outputs.size(); ++i)
      if (common.contains(op.outputs[i].name)) values[op.outputs[i].name].push_back(outputs[i]);
  }

  std::set<std::string> common;
  std::map<std::string, std::deque<Value>> values;  // by name; in a loop one for each iteration
};

class OpComparer final : public exec::Observer {
 public:
  explicit OpComparer(Recorder& recorder) : recorder_(recorder) {}

  bool Wants(const Operation& op) const override { return recorder_.Wants(op); }
  void After(const Operation& op, std::span<const Value> outputs) override;
  void EndStep() {
    recorder_.values.clear();
    now_.clear();
  }
  void StartSample(uint64_t sample) { sample_ = sample; }
  void Finish(const Target& a, CompareReport& report) const;

 private:
  struct Level {
    double snr = 0;
    bool exact = false;
  };
  struct Numbers {
    Series snr;
    double max_error = 0;
    double loss = 0;
    uint64_t count = 0;
  };
  Recorder& recorder_;
  uint64_t sample_ = 0;
  std::map<std::string, Level> now_;  // of what this step has made so far
  std::map<std::string, Numbers> numbers_;
};

void OpComparer::After(const Operation& op, std::span<const Value> outputs) {
  // The worst of what it reads, of which the exact say nothing.
  std::optional<double> worst;
  for (const auto& [parameter, argument] : op.inputs)
    for (const Binding& binding : argument.bindings)
      if (const auto* name = std::get_if<std::string>(&binding.target))
        if (const auto found = now_.find(*name); found != now_.end() && !found->second.exact)
          worst = std::min(worst.value_or(found->second.snr), found->second.snr);
  for (size_t i = 0; i < outputs.size() && i < op.outputs.size(); ++i) {
    const std::string& name = op.outputs[i].name;
    const auto recorded = recorder_.values.find(name);
    if (recorded == recorder_.values.end() || recorded->second.empty()) continue;
    const Value a = std::move(recorded->second.front());
    recorded->second.pop_front();
    const Value& b = outputs[i];
    if (!a.is_tensor() || !b.is_tensor() || a.shape != b.shape || !exec::IsFloat(a.dtype) ||
        !exec::IsFloat(b.dtype) || a.element_count() == 0)
      continue;
    const std::vector<float> y = FloatsOf(a);
    const Difference difference = Measure(y, FloatsOf(b));
    const double ceiling = Measure(y, y).snr_db;
    Numbers& numbers = numbers_[name];
    numbers.snr.Add(difference.snr_db, sample_);
    numbers.max_error = std::max(numbers.max_error, difference.max_error);
    numbers.loss += std::max(0.0, std::min(ceiling, worst.value_or(ceiling)) - difference.snr_db);
    ++numbers.count;
    now_[name] = {difference.snr_db,
                  difference.max_error == 0 && difference.not_finite_in_one == 0};
  }
}

void OpComparer::Finish(const Target& a, CompareReport& report) const {
  ForEachOp(BlockOf(a), [&](const Operation& op) {
    for (const NamedValueType& output : op.outputs) {
      const auto found = numbers_.find(output.name);
      if (found == numbers_.end()) continue;
      const Numbers& numbers = found->second;
      OpComparison& out = report.ops.emplace_back();
      out.type = op.type;
      out.name = output.name;
      out.snr = *numbers.snr.Summary(true);
      out.max_error = numbers.max_error;
      out.loss = numbers.loss / static_cast<double>(numbers.count);
    }
  });
}

// --- Thresholds ---------------------------------------------------------------------------------

struct Held {
  bool least = true;  // the number has to be at least the limit
  std::optional<double> value;
  std::string_view unit;
  std::optional<uint64_t> sample;
};

Held NumberOf(Metric metric, const OutputComparison& output) {
  const auto worst = [](const std::optional<Spread>& spread, bool least,
                        std::string_view unit) -> Held {
    if (!spread) return {least, {}, unit, {}};
    return {least, spread->worst, unit, spread->worst_sample};
  };
  const auto mean = [](const std::optional<Spread>& spread, bool least) -> Held {
    return {least, spread ? std::optional(spread->mean) : std::nullopt, "", {}};
  };
  switch (metric) {
    case Metric::kMinSnr:
      return worst(output.snr, true, " dB");
    case Metric::kMinPsnr:
      return worst(output.psnr, true, " dB");
    case Metric::kMinCosine:
      return worst(output.cosine, true, "");
    case Metric::kMaxError:
      return worst(output.max_error, false, "");
    case Metric::kMaxRelative:
      return worst(output.relative, false, "");
    case Metric::kMaxKl:
      return mean(output.kl, false);
    case Metric::kMinTop1:
      return mean(output.top1, true);
    case Metric::kMinTop5:
      return mean(output.top5, true);
    case Metric::kMinAccuracy:
      return {true, output.accuracy_b, "", {}};
    case Metric::kMinEqual:
      return mean(output.equal, true);
    case Metric::kMinWeightSnr:
      break;
  }
  return {};
}

void Judge(std::string_view what, Metric metric, const Held& held, double limit,
           CompareReport& report) {
  if (held.least ? *held.value >= limit : *held.value <= limit) return;
  report.missed.push_back(fmt::format("{}: {} is {:.6g}{}{}, expected at {} {:g}{}", what,
                                      NameOf(metric), *held.value, held.unit,
                                      held.sample ? fmt::format(" (sample {})", *held.sample) : "",
                                      held.least ? "least" : "most", limit, held.unit));
}

Status CheckThresholds(const CompareOptions& options, CompareReport& report) {
  for (const Threshold& threshold : options.thresholds) {
    const bool weights = threshold.metric == Metric::kMinWeightSnr;
    bool any = false, named = false;
    if (weights) {
      for (const WeightComparison& weight : report.weights) {
        if (!threshold.output.empty() && weight.name != threshold.output) continue;
        any = named = true;
        Judge(fmt::format("weight '{}'", weight.name), threshold.metric,
              {true, weight.snr_db, " dB", {}}, threshold.limit, report);
      }
    } else {
      for (const OutputComparison& output : report.outputs) {
        if (!threshold.output.empty() && output.name != threshold.output) continue;
        named = true;
        const Held held = NumberOf(threshold.metric, output);
        if (!held.value) continue;
        any = true;
        Judge(fmt::format("output '{}'", output.name), threshold.metric, held, threshold.limit,
              report);
      }
    }
    if (any) continue;
    const std::string name = NameOf(threshold.metric);
    const char* kind = weights ? "weight" : "output";
    if (threshold.output.empty())
      return Error{ErrorKind::kUsage, fmt::format("no {} has a number for {}", kind, name)};
    return Error{ErrorKind::kUsage,
                 named ? fmt::format("{} '{}' has no number for {}", kind, threshold.output, name)
                       : fmt::format("{}: there is no {} '{}' in both models", name, kind,
                                     threshold.output)};
  }
  for (const WeightComparison& weight : report.weights)
    if (weight.not_finite_in_one > 0)
      report.missed.push_back(
          fmt::format("weight '{}': {} of {} elements are NaN or infinite in one model alone",
                      weight.name, weight.not_finite_in_one, weight.elements));
  for (const OutputComparison& output : report.outputs)
    if (output.not_finite_in_one > 0)
      report.missed.push_back(
          fmt::format("output '{}': {} elements are NaN or infinite in one model alone",
                      output.name, output.not_finite_in_one));
  return Ok();
}

Result<Labels> ReadLabels(const std::string& text, const std::vector<std::string>& outputs) {
  Labels labels;
  std::string file = text;
  for (const std::string& output : outputs)
    if (text.starts_with(output + "=") && output.size() >= labels.output.size()) {
      labels.output = output;
      file = text.substr(output.size() + 1);
    }
  CMLC_ASSIGN_OR_RETURN(const NpyArray array, ReadNpy(file));
  for (const double value : array.values) {
    if (value != std::rint(value) || std::fabs(value) > 1e9)
      return Error{ErrorKind::kBadInput,
                   fmt::format("{}: has the value {}, expected indices of classes", file, value)};
    labels.classes.push_back(static_cast<int64_t>(value));
  }
  return labels;
}

Status RunBoth(const CompareOptions& options, Package& package_a, Package& package_b,
               ThreadPool& pool, Diagnostics& diagnostics, CompareReport& report) {
  CMLC_ASSIGN_OR_RETURN(const Target a,
                        FindTarget(package_a, options.execution.function, diagnostics));
  CMLC_ASSIGN_OR_RETURN(const Target b,
                        FindTarget(package_b, options.execution.function, diagnostics));
  const auto missing_in = [](const Target& one, const Target& other) -> Status {
    for (const InputSpec& input : one.inputs)
      if (other.Find(input.name) == nullptr)
        return Error{ErrorKind::kUsage,
                     fmt::format("{} has an input '{}' that {} has not, so no data goes with both",
                                 one.place, input.name, other.place)};
    return Ok();
  };
  CMLC_RETURN_IF_ERROR(missing_in(a, b));
  CMLC_RETURN_IF_ERROR(missing_in(b, a));
  Recorder recorder;
  OpComparer ops(recorder);
  if (options.per_op) {
    const std::set<std::string> first = MadeBy(a);
    for (const std::string& name : MadeBy(b))
      if (first.contains(name)) recorder.common.insert(name);
  }
  const auto prepare = [&](const Target& target, Package& package, exec::Observer& observer) {
    return exec::Executable::Prepare(*target.program, target.function, package.tensors(),
                                     target.place, options.per_op ? &observer : nullptr);
  };
  CMLC_ASSIGN_OR_RETURN(const auto executable_a, prepare(a, package_a, recorder));
  CMLC_ASSIGN_OR_RETURN(const auto executable_b, prepare(b, package_b, ops));
  const std::vector<std::string>& names_a = executable_a->outputs();
  const std::vector<std::string>& names_b = executable_b->outputs();
  const auto only = [](const std::vector<std::string>& one, const std::vector<std::string>& other) {
    std::vector<std::string> names;
    for (const std::string& name : one)
      if (std::find(other.begin(), other.end(), name) == other.end()) names.push_back(name);
    return names;
  };
  report.outputs_only_in_a = only(names_a, names_b);
  report.outputs_only_in_b = only(names_b, names_a);
  std::optional<Labels> labels;
  if (!options.labels.empty()) {
    CMLC_ASSIGN_OR_RETURN(labels, ReadLabels(options.labels, names_a));
  }
  CMLC_ASSIGN_OR_RETURN(const std::unique_ptr<DataReader> data,
                        DataReader::Open(a, options.data, diagnostics));
  report.ran = true;
  report.function = a.function;
  report.data = data->origin();
  report.samples = data->sample_count();
  const exec::ExecutionOptions execution = OptionsOf(options.execution, options.data.seed);
  exec::Runner runner_a(*executable_a, pool, execution);
  exec::Runner runner_b(*executable_b, pool, execution);
  OutputComparer outputs(options, std::move(labels));
  for (uint64_t i = 0; i < data->sample_count(); ++i) {
    CMLC_ASSIGN_OR_RETURN(const Sample sample, data->Next());
    if (!sample.continues) {
      runner_a.ResetStates();
      runner_b.ResetStates();
    }
    ops.StartSample(i);
    for (size_t step = 0; step < sample.steps.size(); ++step) {
      CMLC_ASSIGN_OR_RETURN(const std::vector<Value> first,
                            RunStep(runner_a, *executable_a, a, sample, step));
      CMLC_ASSIGN_OR_RETURN(const std::vector<Value> second,
                            RunStep(runner_b, *executable_b, b, sample, step));
      CMLC_RETURN_IF_ERROR(outputs.Add(names_a, first, names_b, second, i, data->sample_count()));
      ops.EndStep();
      ++report.steps;
    }
    diagnostics.Report({.stage = "compare",
                        .weights_done = static_cast<int64_t>(i + 1),
                        .weights_total = static_cast<int64_t>(data->sample_count()),
                        .noun = "samples"});
  }
  outputs.Finish(report);
  if (options.per_op) ops.Finish(a, report);
  for (exec::Runner* runner : {&runner_a, &runner_b})
    for (const std::string& note : runner->TakeNotes())
      diagnostics.Note(fmt::format("{}: {}", runner == &runner_a ? a.place : b.place, note));
  return Ok();
}

}  // namespace
}  // namespace predict

std::string NameOf(Threshold::Metric metric) {
  switch (metric) {
    case Threshold::Metric::kMinSnr:
      return "SNR";
    case Threshold::Metric::kMinPsnr:
      return "PSNR";
    case Threshold::Metric::kMinCosine:
      return "cosine";
    case Threshold::Metric::kMaxError:
      return "largest error";
    case Threshold::Metric::kMaxRelative:
      return "relative error";
    case Threshold::Metric::kMaxKl:
      return "KL divergence";
    case Threshold::Metric::kMinTop1:
      return "top-1 agreement";
    case Threshold::Metric::kMinTop5:
      return "top-5 agreement";
    case Threshold::Metric::kMinAccuracy:
      return "accuracy";
    case Threshold::Metric::kMinEqual:
      return "share of equal elements";
    case Threshold::Metric::kMinWeightSnr:
      return "SNR";
  }
  return "";
}

Result<Threshold> ParseThreshold(Threshold::Metric metric, const std::string& text) {
  Threshold threshold;
  threshold.metric = metric;
  const size_t equals = text.rfind('=');
  const std::string number = equals == std::string::npos ? text : text.substr(equals + 1);
  if (equals != std::string::npos) threshold.output = text.substr(0, equals);
  char* end = nullptr;
  threshold.limit = std::strtod(number.c_str(), &end);
  if (number.empty() || *end != '\0' || std::isnan(threshold.limit) || equals == 0)
    return Error{ErrorKind::kUsage, fmt::format("'{}': expected a number or NAME=NUMBER for {}",
                                                text, NameOf(metric))};
  return threshold;
}

Result<CompareReport> Compare(const CompareOptions& options, Diagnostics& diagnostics) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  const bool run = !options.data.inputs.empty() || options.data.random_samples > 0;
  for (const Threshold& threshold : options.thresholds) {
    if (!run && threshold.metric != Threshold::Metric::kMinWeightSnr)
      return Error{ErrorKind::kUsage,
                   fmt::format("a limit for {} needs data: expected --input FILE or --random N",
                               NameOf(threshold.metric))};
    if (threshold.metric == Threshold::Metric::kMinAccuracy && options.labels.empty())
      return Error{ErrorKind::kUsage, "a limit for accuracy needs --labels FILE"};
  }
  if (!run && (options.per_op || !options.labels.empty()))
    return Error{ErrorKind::kUsage,
                 fmt::format("{} needs data: expected --input FILE or --random N",
                             options.per_op ? "--per-op" : "--labels")};
  CMLC_ASSIGN_OR_RETURN(const std::unique_ptr<Package> a, Package::Open(options.model_a));
  CMLC_ASSIGN_OR_RETURN(const std::unique_ptr<Package> b, Package::Open(options.model_b));
  CMLC_RETURN_IF_ERROR(predict::ChooseIsa(options.execution));
  ThreadPool pool(options.execution.threads);
  CompareReport report;
  {
    CMLC_ASSIGN_OR_RETURN(const predict::Weights weights_a, predict::WeightsOf(*a));
    CMLC_ASSIGN_OR_RETURN(const predict::Weights weights_b, predict::WeightsOf(*b));
    CMLC_RETURN_IF_ERROR(predict::CompareWeights(weights_a, weights_b, pool, report));
  }
  report.isa = exec::Kernels().name;
  if (run) CMLC_RETURN_IF_ERROR(predict::RunBoth(options, *a, *b, pool, diagnostics, report));
  CMLC_RETURN_IF_ERROR(predict::CheckThresholds(options, report));
  report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return report;
}

}  // namespace cmlc
