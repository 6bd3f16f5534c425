#include "cmlc/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <deque>
#include <limits>
#include <mutex>
#include <set>

#include "base/thread_pool.h"
#include "ir/decode.h"
#include "ir/graph_index.h"
#include "ir/opset.h"
#include "ir/weights.h"
#include "numeric/half.h"

namespace cmlc {
namespace {

constexpr uint64_t kStepValues = 256 * 1024;

// Counts distinct fp32 values: a bit for each of the 2^32 patterns, in pages that are made when the
// first of their 65,536 patterns turns up.
class DistinctCounter {
 public:
  DistinctCounter() : pages_(65536) {}

  void Add(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value == 0.0f ? 0.0f : value);
    auto& page = pages_[bits >> 16];
    if (page.empty()) page.resize(65536 / 64);
    page[(bits & 0xffff) / 64] |= uint64_t{1} << (bits % 64);
  }

  uint64_t count() const {
    uint64_t total = 0;
    for (const auto& page : pages_)
      for (const uint64_t word : page) total += static_cast<uint64_t>(std::popcount(word));
    return total;
  }

 private:
  std::vector<std::vector<uint64_t>> pages_;
};

Status LookAt(const TensorReader& reader, WeightInfo& info) {
  DistinctCounter distinct;
  std::vector<float> values;
  info.least = std::numeric_limits<double>::infinity();
  info.greatest = -info.least;
  for (uint64_t begin = 0; begin < reader.element_count(); begin += kStepValues) {
    values.resize(static_cast<size_t>(std::min(kStepValues, reader.element_count() - begin)));
    CMLC_RETURN_IF_ERROR(reader.Read(begin, values));
    for (const float value : values) {
      distinct.Add(value);
      if (!std::isfinite(value)) {
        ++info.not_finite;
        continue;
      }
      info.zeros += value == 0.0f ? 1 : 0;
      info.least = std::min(info.least, static_cast<double>(value));
      info.greatest = std::max(info.greatest, static_cast<double>(value));
    }
  }
  info.distinct = distinct.count();
  if (info.least > info.greatest) info.least = info.greatest = 0;
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
  pool.For(seen.size(), [&](size_t i, int) {
    Status status = LookAt(*seen[i].reader, info.weights[seen[i].weight]);
    if (status.ok()) return;
    const std::lock_guard lock(mutex);
    if (!error) error = status.error();
  });
  if (error) return *error;
  return info;
}

}  // namespace cmlc
