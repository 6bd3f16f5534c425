#include "pipeline/parts.h"

#include <fmt/format.h>

namespace cmlc {
namespace {

void FindParts(Model& model, const std::string& prefix, bool inside, std::vector<Part>& parts) {
  if (model.program || model.network) parts.push_back({&model, inside ? prefix : ""});
  for (size_t i = 0; i < model.members.size(); ++i)
    FindParts(model.members[i], fmt::format("{}{}:", prefix, i), true, parts);
}

}  // namespace

std::vector<Part> PartsOf(Model& model) {
  std::vector<Part> parts;
  FindParts(model, "", false, parts);
  return parts;
}

std::vector<Part> ProgramsOf(Model& model) {
  std::vector<Part> parts = PartsOf(model);
  std::erase_if(parts, [](const Part& part) { return part.format() != ModelFormat::kProgram; });
  return parts;
}

Status CheckTarget(const Part& part, const OpsetInfo* target, const Package& package) {
  if (target == nullptr || target->spec_version >= part.model->specification_version) return Ok();
  const OpsetInfo* now = FindOpset(part.model->specification_version);
  return Error{ErrorKind::kUsage,
               fmt::format("--target {}: '{}' already needs {}, and a target is never lowered",
                           target->target, package.path().string(),
                           now != nullptr ? now->target : "a newer system")};
}

Error BeyondTarget(const OpsetInfo& target, int32_t version, std::string_view name,
                   std::string_view what) {
  const OpsetInfo* row = FindOpset(version);
  return Error{ErrorKind::kUsage,
               fmt::format("--target {}: '{}' needs {} for {}; choose --target {} or options "
                           "that {} can hold",
                           target.target, name, row->target, what, row->target, target.target)};
}

Status Raise(const Part& part, int32_t version, Package& package, RunReport& report) {
  if (part.format() == ModelFormat::kNetwork) {  // its layers mean the same in every version
    part.model->specification_version = version;
    return Ok();
  }
  std::vector<RaiseNote> notes;
  CMLC_RETURN_IF_ERROR(RaiseProgram(*part.model->program, package.tensors(),
                                    part.model->specification_version, version, notes));
  for (const RaiseNote& note : notes)
    report.rewrites.push_back(fmt::format("'{}': {}", note.op, note.what));
  part.model->specification_version = version;
  return Ok();
}

}  // namespace cmlc
