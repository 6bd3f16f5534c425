// Who defines a value and who uses it, for one block of a program and all blocks inside it.
//
// A snapshot: it holds pointers into the program and is stale as soon as operations are added,
// removed or moved.
#ifndef CMLC_IR_GRAPH_INDEX_H_
#define CMLC_IR_GRAPH_INDEX_H_

#include <deque>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "cmlc/model.h"

namespace cmlc {

// One place where a value is read.
struct Use {
  Operation* op = nullptr;  // null: an output of a block
  std::string parameter;
  size_t position = 0;  // among the bindings of a variadic parameter
};

// One output of one operation, or an input of the function or of a block inside it.
struct Definition {
  Operation* op = nullptr;  // null: an input
  size_t output = 0;        // among those of the operation, or among the inputs
  Block* block = nullptr;   // that holds the operation, or whose input it is
  size_t index = 0;         // of the operation in its block
  const NamedValueType* value = nullptr;
  std::vector<Use> uses;  // in program order
};

class GraphIndex {
 public:
  // `inputs`: those of the function, if they are of interest.
  explicit GraphIndex(Block& block, std::span<const NamedValueType> inputs = {});

  // Of operations, in program order; the outputs of one operation in their order.
  std::deque<Definition>& definitions() { return definitions_; }
  const std::deque<Definition>& definitions() const { return definitions_; }

  // The definition that a name bound by `op` refers to; null for inputs of functions and blocks.
  const Definition* Find(const Operation* op, const std::string& name) const;

  // Of the inputs of the function, if they were given, and of blocks.
  const std::deque<Definition>& inputs() const { return inputs_; }
  // As Find, but inputs have definitions too.
  const Definition* FindValue(const Operation* op, const std::string& name) const;

 private:
  using Scope = std::unordered_map<std::string, Definition*>;
  void Visit(Block& block);
  void AddInputs(std::span<const NamedValueType> inputs, Block& block, Scope& scope);
  Definition* Lookup(const std::string& name) const;

  std::deque<Definition> definitions_, inputs_;
  std::vector<Scope> scopes_;  // while visiting; innermost last
  // What each operation's names refer to.
  std::unordered_map<const Operation*, std::unordered_map<std::string, Definition*>> bound_;
};

}  // namespace cmlc

#endif  // CMLC_IR_GRAPH_INDEX_H_
