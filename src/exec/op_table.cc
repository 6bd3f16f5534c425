// The table of all operations, put together from op_table.def, which says what there is, and the
// tables of kernels in ops/, which say what can be run.
#include <algorithm>
#include <map>

#include "base/check.h"
#include "exec/op.h"
#include "exec/ops/tables.h"

namespace cmlc::exec {
namespace {

struct Row {
  std::string_view type;
  int opset;
  std::string_view parameters;
};

constexpr Row kRows[] = {
#define CMLC_OP(name, opset, parameters) {#name, opset, parameters},
#include "exec/op_table.def"
#undef CMLC_OP
};

std::string_view RefusalOf(std::string_view type) {
  if (type == "custom_layer") return "what it does is in an app's own code";
  if (type == "conv_quantized")
    return "it was never released, and what its quantization means is not documented";
  return "it is not run yet";
}

std::vector<OpInfo> MakeTable() {
  std::map<std::string_view, Kernel> kernels;
  for (const std::span<const OpKernel> table : KernelTables())
    for (const OpKernel& row : table) CMLC_CHECK(kernels.emplace(row.type, row.kernel).second);
  std::vector<OpInfo> ops;
  for (const Row& row : kRows) {
    OpInfo info{.type = row.type, .opset = row.opset, .required = {}, .optional = {}};
    for (std::string_view rest = row.parameters; !rest.empty();) {
      const size_t end = std::min(rest.find(' '), rest.size());
      std::string_view name = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      const bool optional = name.ends_with('?');
      if (optional) name.remove_suffix(1);
      (optional ? info.optional : info.required).push_back(name);
    }
    info.structural = row.type == "const" || row.type.starts_with("constexpr_");
    if (const auto found = kernels.find(row.type); found != kernels.end()) {
      info.kernel = found->second;
      kernels.erase(found);
    } else if (!info.structural) {
      info.refusal = RefusalOf(row.type);
    }
    ops.push_back(std::move(info));
  }
  CMLC_CHECK(kernels.empty());  // every kernel is of an op that there is
  CMLC_CHECK(std::is_sorted(ops.begin(), ops.end(),
                            [](const OpInfo& a, const OpInfo& b) { return a.type < b.type; }));
  return ops;
}

}  // namespace

std::span<const OpInfo> AllOps() {
  static const std::vector<OpInfo> ops = MakeTable();
  return ops;
}

const OpInfo* FindOp(std::string_view type) {
  const std::span<const OpInfo> ops = AllOps();
  const auto found =
      std::lower_bound(ops.begin(), ops.end(), type,
                       [](const OpInfo& info, std::string_view name) { return info.type < name; });
  return found != ops.end() && found->type == type ? &*found : nullptr;
}

}  // namespace cmlc::exec
