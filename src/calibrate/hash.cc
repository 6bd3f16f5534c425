#include "calibrate/hash.h"

#include <algorithm>
#include <map>
#include <vector>

#include "storage/blob_file.h"

namespace cmlc::calibrate {
namespace {

// Collects all that counts as text, with the hashes of tensors in it.
class Describer {
 public:
  Describer(const TensorStore& store, ThreadPool& pool) : store_(store), pool_(pool) {}

  Status Add(Block& block) {
    for (const NamedValueType& input : block.inputs) Add(input);
    for (Operation& op : block.operations) {
      Text(op.type);
      for (const NamedValueType& output : op.outputs) Add(output);
      for (auto& [parameter, argument] : op.inputs) {
        Text(parameter);
        for (Binding& binding : argument.bindings) {
          if (const auto* name = std::get_if<std::string>(&binding.target)) Text(*name);
          if (auto* value = std::get_if<Value>(&binding.target)) CMLC_RETURN_IF_ERROR(Add(*value));
        }
      }
      for (auto& [name, value] : op.attributes) {
        Text(name);
        CMLC_RETURN_IF_ERROR(Add(value));
      }
      for (Block& inner : op.blocks) CMLC_RETURN_IF_ERROR(Add(inner));
    }
    for (const std::string& output : block.outputs) Text(output);
    text_ += '\n';
    return Ok();
  }
  void Add(const NamedValueType& value) {
    Text(value.name);
    if (value.type) Text(ToString(*value.type));
  }
  const std::string& text() const { return text_; }

 private:
  void Text(const std::string& text) {
    text_ += text;
    text_ += '\0';
  }
  Status Add(Value& value) {
    Text(ToString(value.type));
    if (const auto* id = std::get_if<TensorId>(&value.content)) return Add(*id);
    if (const auto* collection = std::get_if<Collection>(&value.content)) {
      for (const Value& element : collection->elements) {
        Value copy = element;
        CMLC_RETURN_IF_ERROR(Add(copy));
      }
    } else if (const std::optional<std::string> bytes = ImmediateBytes(value)) {
      Text(*bytes);
    } else if (const std::optional<std::string> string = ImmediateString(value)) {
      Text(*string);
    }
    return Ok();
  }
  Status Add(TensorId id) {
    const auto found = hashes_.find(id);
    if (found != hashes_.end()) {
      Text(found->second);
      return Ok();
    }
    constexpr uint64_t kChunk = TensorSource::kChunkBytes;
    const TensorInfo& info = store_.info(id);
    std::string& hash = hashes_[id];
    if (!info.missing) {
      std::vector<Hash128> chunks(static_cast<size_t>((info.size_bytes + kChunk - 1) / kChunk));
      std::vector<Status> states(chunks.size());
      pool_.For(chunks.size(), [&](size_t i, int) {
        const uint64_t begin = i * kChunk;
        const Result<TensorView> view =
            store_.View(id, begin, std::min(kChunk, info.size_bytes - begin));
        if (view.ok())
          chunks[i] = HashBytes(view->bytes());
        else
          states[i] = view.error();
      });
      for (const Status& status : states) CMLC_RETURN_IF_ERROR(status);
      hash = ToHex(HashBytes(std::as_bytes(std::span(chunks))));
    }
    Text(hash);
    return Ok();
  }

  const TensorStore& store_;
  ThreadPool& pool_;
  std::map<TensorId, std::string> hashes_;
  std::string text_;
};

}  // namespace

Result<std::string> HashModel(Program& program, const std::string& function,
                              const TensorStore& store, ThreadPool& pool) {
  Describer describer(store, pool);
  Function& found = program.functions.at(function);
  for (const NamedValueType& input : found.inputs) describer.Add(input);
  CMLC_RETURN_IF_ERROR(describer.Add(*ActiveBlock(found)));
  return ToHex(HashBytes(std::as_bytes(std::span(describer.text()))));
}

}  // namespace cmlc::calibrate
