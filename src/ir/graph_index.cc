#include "ir/graph_index.h"

namespace cmlc {

GraphIndex::GraphIndex(Block& block, std::span<const NamedValueType> inputs) {
  AddInputs(inputs, block, scopes_.emplace_back());
  Visit(block);
  scopes_.clear();
}

void GraphIndex::AddInputs(std::span<const NamedValueType> inputs, Block& block, Scope& scope) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    inputs_.push_back(
        {.op = nullptr, .output = i, .block = &block, .index = 0, .value = &inputs[i], .uses = {}});
    scope[inputs[i].name] = &inputs_.back();
  }
}

Definition* GraphIndex::Lookup(const std::string& name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
    if (const auto found = scope->find(name); found != scope->end()) return found->second;
  return nullptr;
}

void GraphIndex::Visit(Block& block) {
  AddInputs(block.inputs, block, scopes_.emplace_back());
  for (size_t i = 0; i < block.operations.size(); ++i) {
    Operation& op = block.operations[i];
    for (auto& [parameter, argument] : op.inputs)
      for (size_t position = 0; position < argument.bindings.size(); ++position) {
        const auto* name = std::get_if<std::string>(&argument.bindings[position].target);
        if (name == nullptr) continue;
        Definition* definition = Lookup(*name);
        bound_[&op][*name] = definition;
        if (definition != nullptr) definition->uses.push_back({&op, parameter, position});
      }
    for (Block& inner : op.blocks) Visit(inner);
    for (size_t output = 0; output < op.outputs.size(); ++output) {
      definitions_.push_back({.op = &op,
                              .output = output,
                              .block = &block,
                              .index = i,
                              .value = &op.outputs[output],
                              .uses = {}});
      scopes_.back()[op.outputs[output].name] = &definitions_.back();
    }
  }
  for (const std::string& name : block.outputs)
    if (Definition* definition = Lookup(name))
      definition->uses.push_back({.op = nullptr, .parameter = {}, .position = 0});
  scopes_.pop_back();
}

const Definition* GraphIndex::Find(const Operation* op, const std::string& name) const {
  const Definition* definition = FindValue(op, name);
  return definition == nullptr || definition->op == nullptr ? nullptr : definition;
}

const Definition* GraphIndex::FindValue(const Operation* op, const std::string& name) const {
  const auto names = bound_.find(op);
  if (names == bound_.end()) return nullptr;
  const auto found = names->second.find(name);
  return found == names->second.end() ? nullptr : found->second;
}

}  // namespace cmlc
