// Weights go through in program order: small ones each by one thread, large ones alone and by all
// threads, and those in between one way or the other, so that threads do not wait for each other.
// What is made of a small one is written as soon as all before it are, by whichever thread is
// there, while the others go on; only so many bytes may wait for that. Threads that find no more
// weights help with those that are left. So neither the memory that a run takes nor a byte of its
// result depends on the size of the model or the number of threads.
#include "pipeline/weight_runner.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "format/wire.h"
#include "ir/decode.h"
#include "ir/encoding.h"
#include "ir/graph_index.h"
#include "ir/weights.h"

namespace cmlc {
namespace {

// Constants of fewer elements than this stay in the model message, as coremltools has it.
constexpr uint64_t kLeastBlobElements = 10;
constexpr int32_t kSpecIos18 = 9;
// How many bytes of weights that are worked on, and of results that wait to be written, there may
// be at a time.
constexpr uint64_t kMostAtATime = 96 << 20;
// Plain weights of up to this many elements may be worked on by one thread if there are others for
// the rest: some steps, like k-means itself, are one thread's work, and a few pieces of a weight
// are hard to share out evenly. Compressed weights have to be decoded first, which takes memory.
constexpr uint64_t kMediumWeight = uint64_t{16} << 20;
// A thread that is alone makes what is larger while it is written, so that it is in the cache then.
constexpr uint64_t kHeldAlone = uint64_t{1} << 20;

// A weight in a block, and what is to become of it.
struct Site {
  WeightSite found;
  const ProgramBlock* block = nullptr;
  const GraphIndex* index = nullptr;
  const WeightPass* pass = nullptr;  // that works on it
  size_t report = 0;                 // in RunReport::weights
  std::unique_ptr<TensorReader> reader;
  std::vector<Operation> operations;  // that take its place; empty: none
};

// Sites that store the same tensor and want the same done to it: it is done once.
struct Job {
  std::vector<Site*> sites;
  TensorView resident;  // all values, while something is done with them
  Outcome outcome{std::in_place_type<Skipped>};
  std::optional<Error> error;

  void LetGoOfValues() {
    sites.front()->found.weight.resident = {};
    resident = {};
  }
};

class WeightRunner {
 public:
  WeightRunner(const PassInfo& info, const RuleSet& rules, const RunContext& context,
               RunReport& report)
      : info_(info),
        rules_(rules),
        diagnostics_(context.diagnostics),
        package_(context.package),
        pool_(context.pool),
        report_(report),
        message_bytes_(package_.size_bytes()) {}

  Status RunPart(const Part& part, const OpsetInfo* target);

 private:
  // What was found in one program.
  struct Survey {
    std::vector<ProgramBlock> blocks;
    std::deque<GraphIndex> indices;
    std::deque<Site> sites;  // of the weights to work on
    std::vector<WeightReport> reports;
  };

  Result<Survey> SurveyOf(const Part& part);
  Status CheckSize(const Survey& survey);
  Status KeepLayersWhole(Survey& survey, int32_t version);
  Status Consider(WeightSite found, const ProgramBlock& block, const GraphIndex& index,
                  Survey& survey);
  Result<int32_t> VersionFor(const Part& part, Survey& survey, const OpsetInfo* target);
  PassContext ContextFor(const Weight& weight, int32_t version) const {
    return {.tensors = package_.tensors(),
            .pool = pool_,
            .specification_version = version,
            .format = weight.format};
  }
  Result<Outcome> TryReplace(Site& site, int32_t version);
  Result<bool> WouldBeDone(Site& site, int32_t version);
  Status Transform(Survey& survey, int32_t version);
  bool NeedsAllThreads(const Job& job) const;
  size_t EndOfRun(std::span<const Job> jobs, size_t begin) const;
  Status DoInOrder(std::span<Job> jobs, Survey& survey, int32_t version);
  Status Complete(Job& job, Survey& survey, int32_t version);
  void Compute(Job& job, bool in_memory, int32_t version);
  static bool GoesToFile(const NewTensor& tensor, int32_t version, ModelFormat format);
  Result<std::vector<Value>> Store(Job& job, int32_t version);
  void Finish(Job& job, const std::vector<Value>& values, Survey& survey);
  void KeepNamesApart(Site& site);
  void Apply(Survey& survey);
  TensorId TensorOf(const Value& value, ModelFormat format);
  uint64_t CountedOnce(const StoredForm& form, std::set<TensorId>& counted);

  const PassInfo& info_;
  const RuleSet& rules_;
  Diagnostics& diagnostics_;
  Package& package_;
  ThreadPool& pool_;
  RunReport& report_;
  // Tensors whose bytes are in a report already, as before the pass and as after it.
  std::set<TensorId> counted_, counted_after_;
  std::map<const GraphIndex*, std::set<std::string>> names_;
  std::map<const Value*, TensorId> inline_;  // immediates that passes look at
  Progress progress_;
  uint64_t message_bytes_;  // of the result, at most, if it holds networks
};

// The store's name for a constant's bytes; immediates are taken in when a pass wants to see them.
TensorId WeightRunner::TensorOf(const Value& value, ModelFormat format) {
  if (const auto* id = std::get_if<TensorId>(&value.content)) return *id;
  const auto found = inline_.find(&value);
  if (found != inline_.end()) return found->second;
  std::string bytes = *ImmediateBytes(value);
  const uint64_t count = *ElementCount(*StaticShape(value.type));
  const TensorId id = package_.tensors().AddInline(value.type.tensor.dtype, count, std::move(bytes),
                                                   package_.DefaultWeightsFile(format));
  inline_.emplace(&value, id);
  return id;
}

uint64_t WeightRunner::CountedOnce(const StoredForm& form, std::set<TensorId>& counted) {
  uint64_t bytes = form.immediate_bytes;
  for (const TensorId id : form.tensors)
    if (counted.insert(id).second) bytes += package_.tensors().info(id).size_bytes;
  return bytes;
}

// Decides whether the pass works on a weight, and writes down why if not.
Status WeightRunner::Consider(WeightSite found, const ProgramBlock& block, const GraphIndex& index,
                              Survey& survey) {
  const Weight& weight = found.weight;
  const RuleSet::Choice choice = rules_.For({.name = weight.name,
                                             .by_own_name = true,
                                             .shape = &weight.shape,
                                             .element_count = weight.element_count,
                                             .consumers = weight.consumers});
  const auto& pass =
      static_cast<const WeightPass&>(choice.pass != nullptr ? *choice.pass : rules_.base());
  const bool wants_plain = pass.takes() != WeightPass::Takes::kCompressed;
  const bool wants_compressed = pass.takes() != WeightPass::Takes::kPlain;
  const bool is_float = IsWeightFloat(weight.dtype);
  const bool is_network = block.network != nullptr;
  // In a network fp32 is what weights are, and fp16 a form of them.
  if (is_network && !wants_plain && weight.stored_dtype == DataType::kFloat16)
    found.compressed = true;
  if (!wants_plain && !found.compressed) return Ok();
  const int64_t threshold = pass.weight_threshold();
  const bool large = weight.element_count > static_cast<uint64_t>(threshold);
  // Parameters of ops (strides, axes, epsilon, ...) are constants too, but no one's idea of
  // weights. Layers of a network have no such constants.
  if (!is_network && !found.compressed && (weight.element_count <= 1 || (!is_float && !large)))
    return Ok();

  WeightReport report;
  report.function = block.label;
  report.name = weight.name;
  for (const Consumer& consumer : weight.consumers) report.consumers.push_back(ToString(consumer));
  report.dtype = NameOf(weight.dtype);
  report.shape = weight.shape;
  report.element_count = weight.element_count;
  const StoredForm form = FormOf(*found.definition->op, index);
  report.form = form.text;
  report.bytes_before = CountedOnce(form, counted_);
  report.bytes_after = report.bytes_before;
  report.shared = report.bytes_before == 0 && weight.element_count > 0;
  // A bias that an op of this name reads as well is not what anybody means by naming the op.
  report.asked_for = choice.pass != nullptr &&
                     (choice.by_own_name || (choice.by_name && weight.shape.size() >= 2));

  const auto leave = [&](std::string category, std::string reason) {
    report.fate = WeightReport::Fate::kLeft;
    report.category = std::move(category);
    report.reason = std::move(reason);
    survey.reports.push_back(std::move(report));
    return Ok();
  };
  const auto missing = [&] {
    for (const TensorId id : form.tensors)
      if (package_.tensors().info(id).missing) return true;
    return false;
  };
  if (found.compressed && !wants_compressed) {
    report.fate = WeightReport::Fate::kAlreadyCompressed;
    report.category = "already compressed";
    report.reason = form.text;
    survey.reports.push_back(std::move(report));
    return Ok();
  }
  if (missing()) return leave("in a missing weights file", "its values cannot be read");
  if (wants_plain) {
    if (!is_float)
      return leave("not floating point",
                   fmt::format("is {}, expected fp16 or fp32", NameOf(weight.dtype)));
    if (weight.shape.size() < 2 && !is_network)
      return leave("of fewer than two dimensions",
                   fmt::format("has shape {}", ToString(weight.shape)));
    if (weight.consumers.empty())
      return found.feeds_output ? leave("read by a block output only",
                                        "a compressed weight may not be an output of a block")
                                : leave("read by nothing", "no op reads it");
    if (found.feeds_constexpr)
      return leave("part of a compressed weight", "a constexpr reads it too");
  }
  if (choice.conflict && large)
    diagnostics_.Note(fmt::format(
        "{}: '{}' is read by ops with different rules: {}", info_.name, weight.name,
        choice.because.empty() ? "the options of the command hold" : choice.because + " holds"));
  if (choice.pass == nullptr) return leave("left alone by a rule", choice.because);
  if (const std::optional<Skipped> skipped = pass.LeavesOut(weight))
    return leave(skipped->category, skipped->reason);
  if (!large)
    return leave(
        fmt::format("with no more elements than weight_threshold {}", threshold),
        fmt::format("{} elements, weight_threshold is {}", weight.element_count, threshold));
  found.weight.named = choice.by_own_name;
  if (found.compressed) {
    found.weight.compressed = true;
    if (std::optional<Encoding> encoding =
            ParseEncoding(*found.definition, index, package_.tensors()))
      found.weight.encoding = std::make_shared<const Encoding>(std::move(*encoding));
  }
  if (!weight.limits.Allows(pass.stores()))
    return leave(weight.limits.category, weight.limits.reason);
  CMLC_RETURN_IF_ERROR(pass.CheckFormat(weight.format));
  if (const std::optional<Skipped> skipped = pass.Skip(weight))
    return leave(skipped->category, skipped->reason);

  Site& site = survey.sites.emplace_back();
  site.found = std::move(found);
  site.block = &block;
  site.index = &index;
  site.pass = &pass;
  site.report = survey.reports.size();
  survey.reports.push_back(std::move(report));
  return Ok();
}

Result<WeightRunner::Survey> WeightRunner::SurveyOf(const Part& part) {
  Survey survey;
  survey.blocks = BlocksOf(*part.model, part.prefix);
  for (const ProgramBlock& block : survey.blocks) {
    GraphIndex& index = survey.indices.emplace_back(*block.block);
    for (WeightSite& found : FindWeights(index, block.network))
      CMLC_RETURN_IF_ERROR(Consider(std::move(found), block, index, survey));
  }
  return survey;
}

// A network's message holds its weights, and has no more than 2 GiB.
Status WeightRunner::CheckSize(const Survey& survey) {
  for (const Site& site : survey.sites) {
    if (site.pass->stores() != Storage::kFloat) continue;  // smaller than before
    message_bytes_ += site.found.weight.element_count * sizeof(float);
    message_bytes_ -= std::min(message_bytes_, survey.reports[site.report].bytes_before);
  }
  if (survey.sites.empty() || message_bytes_ <= format::kMostMessageBytes) return Ok();
  return Error{
      ErrorKind::kUsage,
      fmt::format("{}: '{}' would have {} bytes, and a NeuralNetwork has at most {}; "
                  "leave some layers as they are (--op-name PATTERN=null)",
                  info_.name, package_.path().string(), message_bytes_, format::kMostMessageBytes)};
}

// A layer may not hold fp32 and fp16 side by side: where the pass would leave it so, it leaves all
// of the layer as it is. Codes go with both.
Status WeightRunner::KeepLayersWhole(Survey& survey, int32_t version) {
  std::map<const Operation*, std::vector<Site*>> by_layer;
  std::map<const Operation*, std::string> reasons;
  std::map<const Operation*, std::set<const Operation*>> ours;
  std::map<const Operation*, Site*> coded;
  const auto layer_of = [](const Site& site) { return site.found.definition->uses.at(0).op; };
  for (Site& site : survey.sites) {
    if (site.pass->stores() == Storage::kCodes) {
      coded[site.found.definition->op] = &site;
      continue;
    }
    by_layer[layer_of(site)].push_back(&site);
    ours[layer_of(site)].insert(site.found.definition->op);
  }
  // fp16 cannot hold all values.
  for (const auto& [layer, sites] : by_layer)
    for (Site* site : sites) {
      if (site->pass->stores() != Storage::kHalf || reasons.contains(layer)) continue;
      CMLC_ASSIGN_OR_RETURN(const Outcome outcome, TryReplace(*site, version));
      if (const auto* skipped = std::get_if<Skipped>(&outcome))
        reasons[layer] = fmt::format("'{}' stays fp32 ({}), and a layer may not mix fp16 and fp32",
                                     site->found.weight.name, skipped->reason);
    }
  for (const GraphIndex& index : survey.indices)
    for (const Definition& definition : index.definitions()) {
      if (!IsConst(*definition.op) || definition.uses.empty() || definition.uses[0].op == nullptr)
        continue;
      const Operation* layer = definition.uses[0].op;
      const auto sites = by_layer.find(layer);
      if (sites == by_layer.end() || ours[layer].contains(definition.op)) continue;
      const DataType made = sites->second.front()->pass->stores() == Storage::kHalf
                                ? DataType::kFloat16
                                : DataType::kFloat32;
      const DataType stays = definition.op->attributes.at("val").type.tensor.dtype;
      if (stays == made || reasons.contains(layer)) continue;
      if (const auto site = coded.find(definition.op); site != coded.end()) {
        CMLC_ASSIGN_OR_RETURN(const Outcome outcome, TryReplace(*site->second, version));
        if (std::holds_alternative<Replacement>(outcome)) continue;
      }
      reasons.emplace(layer, fmt::format("'{}' stays {}, and a layer may not mix fp16 and fp32",
                                         definition.value->name, NameOf(stays)));
    }
  if (reasons.empty()) return Ok();
  for (const Site& site : survey.sites)
    if (const auto reason = reasons.find(layer_of(site));
        reason != reasons.end() && site.pass->stores() != Storage::kCodes) {
      survey.reports[site.report].category = "in a layer that would mix fp16 and fp32";
      survey.reports[site.report].reason = reason->second;
    }
  std::deque<Site> kept;
  for (Site& site : survey.sites)
    if (!reasons.contains(layer_of(site)) || site.pass->stores() == Storage::kCodes)
      kept.push_back(std::move(site));
  survey.sites = std::move(kept);
  return Ok();
}

// A LUT or scales may be larger than the weight, which in a network can be a vector of any size.
Outcome LeftIfLarger(const WeightPass& pass, const Weight& weight, Outcome outcome) {
  const auto* replacement = std::get_if<Replacement>(&outcome);
  if (replacement == nullptr || weight.format != ModelFormat::kNetwork ||
      pass.stores() == Storage::kFloat)
    return outcome;
  const uint64_t size = *PackedBytes(weight.element_count, BitsOf(weight.stored_dtype));
  uint64_t made = 0;
  for (const NewTensor& tensor : replacement->tensors)
    made += *PackedBytes(*ElementCount(tensor.shape), BitsOf(tensor.dtype));
  if (made < size) return outcome;
  return Skipped{"not smaller that way",
                 fmt::format("has {} bytes, codes and what goes with them {}", size, made)};
}

// What the pass makes of a plain weight if the result has the given version: values decide too.
Result<Outcome> WeightRunner::TryReplace(Site& site, int32_t version) {
  const Operation& op = *site.found.definition->op;
  Weight& weight = site.found.weight;
  CMLC_ASSIGN_OR_RETURN(
      site.reader, MakeReader(op, site.found.definition->output, *site.index, package_.tensors()));
  weight.reader = site.reader.get();
  weight.store = &package_.tensors();
  if (!site.found.compressed) weight.tensor = TensorOf(op.attributes.at("val"), weight.format);
  CMLC_ASSIGN_OR_RETURN(Outcome outcome, site.pass->Replace(weight, ContextFor(weight, version)));
  return LeftIfLarger(*site.pass, weight, std::move(outcome));
}

// A compressed weight changes its form with the version, so it cannot be tried beforehand; what
// would stop a pass from joining it is known without its values.
Result<bool> WeightRunner::WouldBeDone(Site& site, int32_t version) {
  if (site.found.compressed) return true;
  CMLC_ASSIGN_OR_RETURN(const Outcome outcome, TryReplace(site, version));
  return std::holds_alternative<Replacement>(outcome);
}

// The specification version that a program's result will have.
Result<int32_t> WeightRunner::VersionFor(const Part& part, Survey& survey,
                                         const OpsetInfo* target) {
  const int32_t version = part.model->specification_version;
  CMLC_RETURN_IF_ERROR(CheckTarget(part, target, package_));
  // A network runs on every system after its own: a target raises nothing.
  const bool is_program = part.format() == ModelFormat::kProgram;
  const int32_t given = target != nullptr && is_program ? target->spec_version : version;
  int32_t needed = given;
  const Site* because = nullptr;
  std::string what;
  for (Site& site : survey.sites) {
    const WeightPass::Need need = site.pass->Needs(site.found.weight);
    if (need.specification_version <= needed) continue;
    // A weight that will turn out to be skipped must not raise anything. This is asked for once or
    // twice in a run: the first weight that can be done raises the target for all.
    CMLC_ASSIGN_OR_RETURN(const bool done, WouldBeDone(site, need.specification_version));
    if (!done) continue;
    needed = need.specification_version;
    because = &site;
    what = need.what;
  }
  if (target != nullptr && needed > std::max(given, target->spec_version))
    return BeyondTarget(*target, needed, because->found.weight.name, what);
  return needed;
}

// Whether a new tensor goes to the weights file, or into the model message.
bool WeightRunner::GoesToFile(const NewTensor& tensor, int32_t version, ModelFormat format) {
  const uint64_t count = *ElementCount(tensor.shape);
  if (format == ModelFormat::kNetwork) return count >= kLeastBlobElements;
  const DataTypeInfo* type = FindDataType(tensor.dtype);
  const bool old_blob_type = IsWeightFloat(tensor.dtype) || tensor.dtype == DataType::kInt8 ||
                             tensor.dtype == DataType::kUInt8;
  return count >= kLeastBlobElements && type->blob_code != 0 &&
         (old_blob_type || version >= kSpecIos18);
}

uint64_t InputBytes(const Job& job) {
  const Weight& weight = job.sites.front()->found.weight;
  return weight.element_count * static_cast<uint64_t>(BitsOf(weight.dtype)) / 8;
}

// Of what was made of a job and is in memory.
uint64_t ResultBytes(const Job& job) {
  const auto* replacement = std::get_if<Replacement>(&job.outcome);
  if (replacement == nullptr) return 0;
  uint64_t bytes = 0;
  for (const NewTensor& tensor : replacement->tensors) {
    if (const auto* ready = std::get_if<ReadyTensor>(&tensor.content)) bytes += ready->size_bytes;
    if (const auto* text = std::get_if<std::string>(&tensor.content)) bytes += text->size();
  }
  return bytes;
}

bool IsLarge(const Job& job) {
  return job.sites.front()->found.weight.element_count > kLargeWeight;
}

// Whether a job is done by all threads together, and made while it is written.
bool WeightRunner::NeedsAllThreads(const Job& job) const {
  const Weight& weight = job.sites.front()->found.weight;
  const auto threads = static_cast<uint64_t>(pool_.threads());
  if (threads == 1 && !weight.compressed) return weight.element_count > kHeldAlone;
  return IsLarge(job) && (weight.compressed || weight.element_count > kMediumWeight ||
                          InputBytes(job) * threads > kMostAtATime);
}

// Jobs from `begin` on that are done by one thread each; returns where they end.
size_t WeightRunner::EndOfRun(std::span<const Job> jobs, size_t begin) const {
  size_t end = begin;
  while (end < jobs.size() && !NeedsAllThreads(jobs[end])) ++end;
  if (end - begin >= static_cast<size_t>(pool_.threads())) return end;
  // Too few to keep all threads busy unless those work together on what is not small.
  for (size_t i = begin; i < end; ++i)
    if (IsLarge(jobs[i])) return i;
  return end;
}

// Runs the pass for a job; from any thread. Results that fit in memory are made here, while the
// weight's values are at hand, so that writing them is all that is left to do.
void WeightRunner::Compute(Job& job, bool in_memory, int32_t version) {
  Site& site = *job.sites.front();
  Weight& weight = site.found.weight;
  const auto work = [&]() -> Status {
    // Decompressing reads a weight once only: it need not be decoded beforehand. Others read it
    // two or three times, and a large plain one is mapped once for all of them if it is no larger
    // than what may be worked on at a time.
    const uint64_t size = InputBytes(job);
    if (site.pass->takes() != WeightPass::Takes::kCompressed &&
        (in_memory || (!weight.compressed && size <= kMostAtATime))) {
      CMLC_ASSIGN_OR_RETURN(job.resident, weight.View(0, size));
      weight.resident = job.resident.bytes();
    }
    CMLC_ASSIGN_OR_RETURN(Outcome outcome, site.pass->Replace(weight, ContextFor(weight, version)));
    job.outcome = LeftIfLarger(*site.pass, weight, std::move(outcome));
    auto* replacement = std::get_if<Replacement>(&job.outcome);
    if (replacement == nullptr || !in_memory) return Ok();
    for (NewTensor& tensor : replacement->tensors) {
      const uint64_t count = *ElementCount(tensor.shape);
      if (const auto* source = std::get_if<TensorSource>(&tensor.content)) {
        CMLC_ASSIGN_OR_RETURN(ReadyTensor ready, MakeReady(*source, pool_));
        tensor.content = std::move(ready);
      } else if (const auto* bytes = std::get_if<std::string>(&tensor.content);
                 bytes != nullptr && GoesToFile(tensor, version, weight.format)) {
        tensor.content = MakeReady(tensor.dtype, count, std::as_bytes(std::span(*bytes)), pool_);
      }
    }
    return Ok();
  };
  if (const Status status = work(); !status.ok()) job.error = status.error();
  if (in_memory) job.LetGoOfValues();
}

Value Immediate(const NewTensor& tensor) {
  if (const auto* ready = std::get_if<ReadyTensor>(&tensor.content))
    return MakeImmediate(
        tensor.dtype, tensor.shape,
        std::string(reinterpret_cast<const char*>(ready->content.get()), ready->size_bytes));
  return MakeImmediate(tensor.dtype, tensor.shape, std::get<std::string>(tensor.content));
}

// Stores the new tensors of a job, in order, and gives their values.
Result<std::vector<Value>> WeightRunner::Store(Job& job, int32_t version) {
  std::vector<Value> values;
  auto* replacement = std::get_if<Replacement>(&job.outcome);
  if (replacement == nullptr) return values;
  std::vector<NewTensor>& tensors = replacement->tensors;
  const Site& site = *job.sites.front();
  const StoredForm form = FormOf(*site.found.definition->op, *site.index);
  const WeightsFile file = form.tensors.empty()
                               ? package_.DefaultWeightsFile(site.found.weight.format)
                               : package_.tensors().info(*form.tensors.begin()).file;
  values.resize(tensors.size());
  std::vector<const ReadyTensor*> ready;
  std::vector<size_t> places;
  const auto flush = [&]() -> Status {
    CMLC_ASSIGN_OR_RETURN(const std::vector<TensorId> ids,
                          package_.tensors().Append(file, ready, pool_));
    for (size_t i = 0; i < ids.size(); ++i) {
      const NewTensor& tensor = tensors[places[i]];
      values[places[i]] = MakeBlobValue(tensor.dtype, tensor.shape, ids[i]);
    }
    ready.clear();
    places.clear();
    return Ok();
  };
  for (size_t t = 0; t < tensors.size(); ++t) {
    NewTensor& tensor = tensors[t];
    const uint64_t count = *ElementCount(tensor.shape);
    const bool to_file = GoesToFile(tensor, version, site.found.weight.format);
    if (auto* source = std::get_if<TensorSource>(&tensor.content)) {
      if (to_file) {
        // Too large to be held in memory: made while it is written.
        CMLC_RETURN_IF_ERROR(flush());
        CMLC_ASSIGN_OR_RETURN(const TensorId id, package_.tensors().Append(file, *source, pool_));
        values[t] = MakeBlobValue(tensor.dtype, tensor.shape, id);
        continue;
      }
      CMLC_ASSIGN_OR_RETURN(ReadyTensor made, MakeReady(*source, pool_));
      tensor.content = std::move(made);
    }
    if (!to_file) {
      values[t] = Immediate(tensor);
      continue;
    }
    if (const auto* bytes = std::get_if<std::string>(&tensor.content))
      tensor.content = MakeReady(tensor.dtype, count, std::as_bytes(std::span(*bytes)), pool_);
    ready.push_back(&std::get<ReadyTensor>(tensor.content));
    places.push_back(t);
  }
  CMLC_RETURN_IF_ERROR(flush());
  return values;
}

// The names that a pass gives to what is between its operations may be taken in this program.
void WeightRunner::KeepNamesApart(Site& site) {
  std::set<std::string>& taken = names_[site.index];
  if (taken.empty())
    for (const Definition& definition : site.index->definitions())
      taken.insert(definition.op->outputs[definition.output].name);
  // Links of the chain that is replaced go away with it, if nothing else reads them.
  std::set<std::string> own;
  std::set<const Operation*> chain = {site.found.definition->op};
  std::vector<const Operation*> queue(chain.begin(), chain.end());
  while (!queue.empty()) {
    const Operation* op = queue.back();
    queue.pop_back();
    for (const auto& [parameter, argument] : op->inputs)
      for (const Binding& binding : argument.bindings) {
        const auto* name = std::get_if<std::string>(&binding.target);
        const Definition* source = name == nullptr ? nullptr : site.index->Find(op, *name);
        if (source == nullptr || !IsConstexpr(*source->op)) continue;
        if (std::all_of(source->uses.begin(), source->uses.end(),
                        [&](const Use& use) { return chain.contains(use.op); }))
          own.insert(*name);
        if (chain.insert(source->op).second) queue.push_back(source->op);
      }
  }
  std::map<std::string, std::string> renamed;
  for (Operation& op : site.operations) {
    for (auto& [parameter, argument] : op.inputs)
      for (Binding& binding : argument.bindings)
        if (auto* name = std::get_if<std::string>(&binding.target))
          if (const auto found = renamed.find(*name); found != renamed.end()) *name = found->second;
    if (&op == &site.operations.back()) break;
    for (NamedValueType& output : op.outputs) {
      std::string name = output.name;
      for (int i = 1; taken.contains(name) && !own.contains(name); ++i)
        name = fmt::format("{}_{}", output.name, i);
      taken.insert(name);
      if (name != output.name) renamed[output.name] = name;
      output.name = name;
    }
    op.attributes["name"] = MakeString(op.outputs.back().name);
  }
}

// Builds the operations for all sites of a job from the values of what it made.
void WeightRunner::Finish(Job& job, const std::vector<Value>& values, Survey& survey) {
  if (const auto* skipped = std::get_if<Skipped>(&job.outcome)) {
    for (const Site* site : job.sites) {
      WeightReport& report = survey.reports[site->report];
      report.category = skipped->category;
      report.reason = skipped->reason;
    }
    return;
  }
  const auto& replacement = std::get<Replacement>(job.outcome);
  const Quality quality = replacement.quality();
  for (size_t i = 0; i < job.sites.size(); ++i) {
    Site& site = *job.sites[i];
    site.operations = replacement.build(*site.found.definition->op, values);
    KeepNamesApart(site);
    uint64_t bytes = 0;
    for (const Operation& op : site.operations)
      bytes += CountedOnce(FormOf(op, *site.index), counted_after_);
    WeightReport& report = survey.reports[site.report];
    report.fate = WeightReport::Fate::kDone;
    report.form = replacement.form;
    report.bytes_after = i == 0 ? bytes : 0;
    report.shared = report.shared || i > 0;
    report.quality = quality;
  }
}

Status WeightRunner::Transform(Survey& survey, int32_t version) {
  // Sites become jobs; the same tensor, seen the same way and governed by the same options, is one.
  std::vector<Job> jobs;
  using Key = std::tuple<TensorId, const WeightPass*, Shape, DataType, std::optional<int64_t>,
                         std::optional<int64_t>, std::string>;
  std::map<Key, size_t> by_key;
  for (Site& site : survey.sites) {
    const Operation& op = *site.found.definition->op;
    Weight& weight = site.found.weight;
    CMLC_ASSIGN_OR_RETURN(site.reader, MakeReader(op, site.found.definition->output, *site.index,
                                                  package_.tensors()));
    weight.reader = site.reader.get();
    weight.store = &package_.tensors();
    if (!site.found.compressed) {
      const Value& value = op.attributes.at("val");
      weight.tensor = TensorOf(value, weight.format);
      const auto [at, is_new] =
          by_key.emplace(Key{weight.tensor, site.pass, weight.shape, weight.dtype,
                             weight.output_axis, weight.input_axis, site.pass->Variant(weight)},
                         jobs.size());
      if (!is_new) {
        jobs[at->second].sites.push_back(&site);
        continue;
      }
    }
    jobs.emplace_back().sites = {&site};
  }

  progress_.stage = info_.name;
  progress_.weights_total += static_cast<int64_t>(jobs.size());
  for (const Job& job : jobs) progress_.bytes_total += InputBytes(job);
  diagnostics_.Report(progress_);

  for (size_t begin = 0; begin < jobs.size();) {
    const size_t end = EndOfRun(jobs, begin);
    if (end > begin) {
      CMLC_RETURN_IF_ERROR(DoInOrder(std::span(jobs).subspan(begin, end - begin), survey, version));
      begin = end;
      continue;
    }
    Compute(jobs[begin], false, version);
    CMLC_RETURN_IF_ERROR(Complete(jobs[begin], survey, version));
    diagnostics_.Report(progress_);
    ++begin;
  }
  return Ok();
}

// Writes what a job made and builds its operations.
Status WeightRunner::Complete(Job& job, Survey& survey, int32_t version) {
  if (job.error) return *job.error;
  CMLC_ASSIGN_OR_RETURN(const std::vector<Value> values, Store(job, version));
  ++progress_.weights_done;
  progress_.bytes_done += InputBytes(job);
  Finish(job, values, survey);
  job.outcome = Skipped{};  // its tensors are written: let go of them
  job.LetGoOfValues();
  return Ok();
}

// Does jobs with a thread for each. They are begun in order and completed in order, by one thread
// at a time, while others compute.
Status WeightRunner::DoInOrder(std::span<Job> jobs, Survey& survey, int32_t version) {
  std::mutex mutex;
  std::condition_variable moved;
  std::vector<bool> is_computed(jobs.size(), false);
  size_t next = 0;  // to be completed
  bool completing = false;
  uint64_t bytes = 0;  // of jobs that are begun and not completed yet
  Status status;
  Progress progress = progress_;

  const auto complete_some = [&](std::unique_lock<std::mutex>& lock) {
    if (completing) return;
    completing = true;
    while (status.ok() && next < jobs.size() && is_computed[next]) {
      Job& job = jobs[next];
      lock.unlock();
      const uint64_t held = ResultBytes(job);
      Status step = Complete(job, survey, version);
      lock.lock();
      bytes -= held;
      progress = progress_;
      status = std::move(step);
      ++next;
      moved.notify_all();
    }
    completing = false;
  };
  pool_.ForUneven(jobs.size(), [&](size_t i, int worker) {
    {
      std::unique_lock lock(mutex);
      // The next one to be completed never waits.
      moved.wait(lock, [&] {
        return !status.ok() || i == next || bytes + InputBytes(jobs[i]) <= kMostAtATime;
      });
      if (!status.ok()) return;
      bytes += InputBytes(jobs[i]);
    }
    Compute(jobs[i], true, version);
    Progress now;
    {
      std::unique_lock lock(mutex);
      is_computed[i] = true;
      bytes += ResultBytes(jobs[i]);
      bytes -= InputBytes(jobs[i]);
      moved.notify_all();
      complete_some(lock);
      now = progress;
    }
    if (worker == 0) diagnostics_.Report(now);
  });
  if (status.ok()) diagnostics_.Report(progress_);
  return status;
}

// Puts the new operations into their blocks, and takes out constants that only fed what is gone.
void WeightRunner::Apply(Survey& survey) {
  std::map<Block*, std::map<size_t, Site*>> by_block;
  std::set<std::pair<Block*, size_t>> dead;
  std::vector<const Definition*> replaced;
  std::map<const Definition*, size_t> uses_lost;
  for (Site& site : survey.sites) {
    if (site.operations.empty()) continue;
    const Definition& definition = *site.found.definition;
    by_block[definition.block][definition.index] = &site;
    replaced.push_back(&definition);
  }
  // What a replaced constexpr read loses a reader; with its last one it goes too, and so on.
  for (const Site& site : survey.sites) {
    if (site.operations.empty() || !site.found.compressed) continue;
    std::vector<const Operation*> queue = {site.found.definition->op};
    while (!queue.empty()) {
      const Operation* op = queue.back();
      queue.pop_back();
      for (const auto& [parameter, argument] : op->inputs)
        for (const Binding& binding : argument.bindings) {
          const auto* name = std::get_if<std::string>(&binding.target);
          const Definition* source = name == nullptr ? nullptr : site.index->Find(op, *name);
          if (source == nullptr || !(IsConst(*source->op) || IsConstexpr(*source->op))) continue;
          ++uses_lost[source];
          size_t uses = 0, lost = 0;
          for (const Definition& other : site.index->definitions())
            if (other.op == source->op) {
              uses += other.uses.size();
              lost += uses_lost[&other];
            }
          if (lost == uses && dead.emplace(source->block, source->index).second)
            queue.push_back(source->op);
        }
    }
  }
  std::set<Block*> touched;
  for (const auto& [block, sites] : by_block) touched.insert(block);
  for (const auto& [block, index] : dead) touched.insert(block);
  for (Block* block : touched) {
    std::vector<Operation> operations;
    operations.reserve(block->operations.size());
    auto& sites = by_block[block];
    for (size_t i = 0; i < block->operations.size(); ++i) {
      if (const auto site = sites.find(i); site != sites.end())
        for (Operation& op : site->second->operations) operations.push_back(std::move(op));
      else if (!dead.contains({block, i}))
        operations.push_back(std::move(block->operations[i]));
    }
    block->operations = std::move(operations);
  }
}

Status WeightRunner::RunPart(const Part& part, const OpsetInfo* target) {
  const std::set<TensorId> counted_before = counted_;
  names_.clear();
  CMLC_ASSIGN_OR_RETURN(Survey survey, SurveyOf(part));
  if (part.format() == ModelFormat::kNetwork) {
    CMLC_RETURN_IF_ERROR(CheckSize(survey));
    CMLC_RETURN_IF_ERROR(KeepLayersWhole(survey, part.model->specification_version));
  }
  CMLC_ASSIGN_OR_RETURN(const int32_t version, VersionFor(part, survey, target));
  if (version > part.model->specification_version) {
    CMLC_RETURN_IF_ERROR(Raise(part, version, package_, report_));
    if (part.format() == ModelFormat::kProgram) {
      // Raising may have moved operations, so everything is looked at again.
      counted_ = counted_before;
      inline_.clear();
      names_.clear();
      CMLC_ASSIGN_OR_RETURN(survey, SurveyOf(part));
    }
  }
  CMLC_RETURN_IF_ERROR(Transform(survey, version));
  Apply(survey);
  for (WeightReport& report : survey.reports) report_.weights.push_back(std::move(report));
  return Ok();
}

}  // namespace

Status RunWeightPass(const PassInfo& info, const RuleSet& rules, const OpsetInfo* target,
                     const RunContext& context, RunReport& report) {
  WeightRunner runner(info, rules, context, report);
  for (const Part& part : PartsOf(context.package.model()))
    CMLC_RETURN_IF_ERROR(runner.RunPart(part, target));
  return Ok();
}

}  // namespace cmlc
