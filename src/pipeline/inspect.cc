#include "cmlc/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>
#include <set>

#include "base/thread_pool.h"
#include "ir/decode.h"
#include "ir/graph_index.h"
#include "ir/opset.h"
#include "ir/weights.h"
#include "numeric/convert.h"
#include "numeric/value_summary.h"

namespace cmlc {
namespace {

// Values of one step. Those of fp16 stay in the second-level cache.
constexpr uint64_t kHalfStep = 64 * 1024;
constexpr uint64_t kFloatStep = 1024 * 1024;

// What a thread counts with, from one weight to the next.
struct Counters {
  numeric::HalfCounts halves;
  numeric::FloatSummary floats;
  std::vector<float> values;
  std::vector<uint16_t> patterns;
};

Status LookAt(const TensorReader& reader, Counters& counters, WeightInfo& info) {
  const bool is_half = reader.dtype() == DataType::kFloat16;
  counters.halves.Clear();
  counters.floats.Clear();
  std::vector<float>& values = counters.values;
  const uint64_t step = is_half ? kHalfStep : kFloatStep;
  for (uint64_t begin = 0; begin < reader.element_count(); begin += step) {
    values.resize(static_cast<size_t>(std::min(step, reader.element_count() - begin)));
    CMLC_RETURN_IF_ERROR(reader.Read(begin, values));
    if (is_half) {
      counters.patterns.resize(values.size());
      numeric::FloatsToHalves(values.data(), values.size(), counters.patterns.data());
      counters.halves.Add(counters.patterns);
    } else {
      counters.floats.Add(values);
    }
  }
  const numeric::ValueSummary summary =
      is_half ? numeric::SummaryOf(counters.halves) : counters.floats.Summary();
  info.zeros = summary.zeros;
  info.distinct = summary.distinct;
  info.not_finite = summary.not_finite;
  if (summary.least <= summary.greatest) {
    info.least = summary.least;
    info.greatest = summary.greatest;
  }
  return Ok();
}

// Of a network layers alone: constants are no layers.
void CountOps(const Block& block, bool is_network, std::map<std::string, uint64_t>& counts) {
  for (const Operation& op : block.operations) {
    if (!is_network || !(IsConst(op) || IsConstexpr(op))) ++counts[op.type];
    for (const Block& inner : op.blocks) CountOps(inner, is_network, counts);
  }
}

struct Seen {
  std::unique_ptr<TensorReader> reader;
  size_t weight = 0;
};

}  // namespace

Result<PackageInfo> Inspect(Package& package, int threads, bool values) {
  PackageInfo info;
  Model& root = package.model();
  info.kind = root.kind;
  info.package_bytes = package.size_bytes();
  info.functions = root.functions;
  if (info.functions.empty()) info.functions.push_back(root.interface);

  std::set<TensorId> counted;
  std::deque<GraphIndex> indices;
  std::vector<Seen> seen;
  std::optional<Error> error;
  const auto visit = [&](auto&& self, Model& model, const std::string& label) -> void {
    info.specification_version = std::max(info.specification_version, model.specification_version);
    if (model.program || model.network || !label.empty()) {
      ProgramInfo& program = info.programs.emplace_back();
      program.label = label;
      program.kind = model.kind;
      program.specification_version = model.specification_version;
      if (model.program)
        for (const auto& [name, function] : model.program->functions)
          program.opsets[name] = function.opset;
    }
    if (model.program || model.network) {
      ProgramInfo& program = info.programs.back();
      for (const ProgramBlock& block : BlocksOf(model, label.empty() ? "" : label + ":")) {
        CountOps(*block.block, block.network != nullptr, program.op_counts);
        GraphIndex& index = indices.emplace_back(*block.block);
        for (WeightSite& site : FindWeights(index, block.network)) {
          const Weight& weight = site.weight;
          if ((weight.element_count <= 1 && block.network == nullptr) ||
              (!IsWeightFloat(weight.dtype) && !site.compressed && weight.element_count < 10))
            continue;
          const Operation& op = *site.definition->op;
          WeightInfo entry;
          entry.function = block.label;
          entry.name = weight.name;
          for (const Consumer& consumer : weight.consumers)
            entry.consumers.push_back(ToString(consumer));
          if (site.feeds_output) entry.consumers.emplace_back("block output");
          entry.dtype = NameOf(weight.dtype);
          entry.shape = weight.shape;
          entry.element_count = weight.element_count;
          entry.compressed = site.compressed;
          const StoredForm form = FormOf(op, index);
          entry.form = form.text;
          entry.bytes = form.immediate_bytes;
          for (const TensorId id : form.tensors)
            if (counted.insert(id).second) entry.bytes += package.tensors().info(id).size_bytes;
          entry.shared = entry.bytes == 0;
          if (!entry.shared) {
            info.weight_elements += entry.element_count;
            info.weight_bytes += entry.bytes;
          }
          // Integers of 32 and more bits have no reader, and no statistics.
          if (values &&
              (site.compressed || BitsOf(weight.dtype) <= 16 || IsWeightFloat(weight.dtype))) {
            auto reader = MakeReader(op, site.definition->output, index, package.tensors());
            if (!reader.ok()) {
              if (!error) error = reader.error();
              return;
            }
            seen.push_back({std::move(*reader), info.weights.size()});
          }
          info.weights.push_back(std::move(entry));
        }
      }
    }
    for (size_t i = 0; i < model.members.size(); ++i)
      self(self, model.members[i], fmt::format("{}{}{}", label, label.empty() ? "" : ".", i));
  };
  visit(visit, root, "");
  if (error) return *error;
  info.systems = SystemsOf(info.specification_version);

  ThreadPool pool(threads);
  std::mutex mutex;
  std::vector<std::unique_ptr<Counters>> counters(static_cast<size_t>(pool.threads()));
  pool.For(seen.size(), [&](size_t i, int worker) {
    auto& mine = counters[static_cast<size_t>(worker)];
    if (!mine) mine = std::make_unique<Counters>();
    Status status = LookAt(*seen[i].reader, *mine, info.weights[seen[i].weight]);
    if (status.ok()) return;
    const std::lock_guard lock(mutex);
    if (!error) error = status.error();
  });
  if (error) return *error;
  return info;
}

}  // namespace cmlc
