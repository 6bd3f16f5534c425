// Where tensor bytes live, and who may look at them.
//
// The graph holds a TensorId and a type, never bytes. The store answers a view of a range:
//   - mapped:  in a weights file of the input, looked at through a window when needed;
//   - written: made by a pass and already in its place in the new weights file;
//   - inline:  small, in memory.
// So the working set of a pass is a few windows for each thread, whatever the size of the model.
#ifndef CMLC_TENSOR_STORE_H_
#define CMLC_TENSOR_STORE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cmlc/model.h"
#include "cmlc/status.h"
#include "cmlc/tensor.h"

namespace cmlc {

class ThreadPool;

// A weights file, by its place in TensorStore.
enum class WeightsFile : uint32_t {};

// How codes of less than a byte are packed: from the low bit of each byte up, as ML Programs have
// it, or from the high bit down, as NeuralNetworks have it.
enum class BitOrder { kLowFirst, kHighFirst };

struct TensorInfo {
  DataType dtype = DataType::kUnused;
  uint64_t element_count = 0;
  uint64_t size_bytes = 0;
  WeightsFile file{};    // that it is in, or would go to
  bool missing = false;  // the weights file is not there (see ReadOptions)
  uint64_t offset = 0;   // of its record in the input's file
};

// A readable range of a tensor's bytes. Valid while it lives.
class TensorView {
 public:
  TensorView();
  TensorView(TensorView&&) noexcept;
  TensorView& operator=(TensorView&&) noexcept;
  ~TensorView();
  std::span<const std::byte> bytes() const { return bytes_; }

  // A view of bytes that someone else keeps alive.
  static TensorView Of(std::span<const std::byte> bytes);
  // A view of bytes of its own: a copy, or `size` bytes for the caller to fill.
  static TensorView Copy(std::span<const std::byte> bytes);
  static TensorView Make(size_t size, std::byte** content);

 private:
  friend class TensorStore;
  struct Window;
  std::unique_ptr<Window> window_;
  std::unique_ptr<std::byte[]> owned_;
  std::span<const std::byte> bytes_;
};

// A tensor that is made a chunk at a time, so that it need not fit in memory.
struct TensorSource {
  // Bytes of every chunk but the last. A multiple of 1 to 8, 16 and 32 bits times eight, so no
  // element of any type lies across two chunks.
  static constexpr uint64_t kChunkBytes = 3 * 5 * 7 * 8 * 1024;

  DataType dtype = DataType::kUnused;
  uint64_t element_count = 0;
  // Fills `out` with the packed bytes that start `begin` bytes into the tensor; `begin` is a
  // multiple of kChunkBytes. Called for every chunk once, in any order, by several threads.
  std::function<Status(uint64_t begin, std::span<std::byte> out)> fill;
};

// A tensor in memory, with all that can be prepared for writing it by any thread.
struct ReadyTensor {
  DataType dtype = DataType::kUnused;
  uint64_t element_count = 0;
  struct GiveBack {
    void operator()(std::byte* content) const;
  };
  std::unique_ptr<std::byte[], GiveBack> content;  // packed
  size_t size_bytes = 0;
  std::array<uint64_t, 2> hash{};

  std::span<const std::byte> bytes() const { return {content.get(), size_bytes}; }
};

// Makes all chunks of a source. It has to fit in memory.
Result<ReadyTensor> MakeReady(const TensorSource& source, ThreadPool& pool);
ReadyTensor MakeReady(DataType dtype, uint64_t element_count, std::span<const std::byte> bytes,
                      ThreadPool& pool);

class TensorStore {
 public:
  TensorStore();
  ~TensorStore();
  TensorStore(const TensorStore&) = delete;
  TensorStore& operator=(const TensorStore&) = delete;

  // --- Input ---

  // Declares the weights file that values call `name`; it lies at `relative` inside the package.
  // The same name gives the same file.
  WeightsFile AddFile(const std::string& name, const std::filesystem::path& relative);
  const std::string& FileName(WeightsFile file) const;
  const std::filesystem::path& RelativePath(WeightsFile file) const;
  std::vector<WeightsFile> files() const;

  // Opens the input's weights file and checks its header. kBadInput if anything is wrong with it.
  Status OpenInput(WeightsFile file, const std::filesystem::path& path);

  // The blob whose record starts `offset` bytes into the file, checked against the file's bounds.
  // The same (file, offset) gives the same id.
  Result<TensorId> AddBlob(WeightsFile file, uint64_t offset);

  // The model message of NeuralNetworks, as a weights file: its weights are ranges of it, of any
  // alignment, and what is appended goes to a file for the time of the run (the message itself is
  // written by who knows it). kBadInput if it cannot be opened.
  Status OpenMessage(WeightsFile file, const std::filesystem::path& path);
  // Bytes of such a file, which must lie inside it.
  TensorId AddRange(WeightsFile file, uint64_t offset, DataType dtype, uint64_t element_count,
                    BitOrder order);

  // A blob of a file that is not there: it has no type and cannot be viewed.
  TensorId AddMissing(WeightsFile file, uint64_t offset);

  // A tensor kept in memory.
  TensorId AddInline(DataType dtype, uint64_t element_count, std::string bytes, WeightsFile file);

  // The same bytes seen as elements of another type. The sizes in bytes must agree.
  TensorId Reinterpret(TensorId id, DataType dtype, uint64_t element_count);

  const TensorInfo& info(TensorId id) const;

  // Bytes [begin, begin + size) of a tensor, aligned to its elements, codes in the given order. Any
  // thread may call it, also while another appends.
  Result<TensorView> View(TensorId id, uint64_t begin, uint64_t size,
                          BitOrder order = BitOrder::kLowFirst) const;

  // --- Output ---

  // From now on tensors can be written. `path_of` says where a weights file of the output goes; it
  // is asked when a file gets its first tensor.
  void StartWriting(std::function<Result<std::filesystem::path>(WeightsFile)> path_of);

  // Writes a tensor to the new weights file. A tensor of the same type and bytes that is already
  // there is stored once: then its id is returned. One caller at a time; `pool` makes chunks.
  Result<TensorId> Append(WeightsFile file, const TensorSource& source, ThreadPool& pool);

  // The same for several tensors that are in memory, in their order; all threads write.
  Result<std::vector<TensorId>> Append(WeightsFile file,
                                       std::span<const ReadyTensor* const> tensors,
                                       ThreadPool& pool);

  // Finishes all weights files of the output: every tensor of `live` ends up in its file, those of
  // the input in the order in which they lie there, and what nobody needs is left out.
  Status Finish(const std::vector<TensorId>& live, ThreadPool& pool);

  // After Finish: where the record of a live tensor starts in its file.
  uint64_t OutputOffset(TensorId id) const;
  // After Finish: whether the file has any tensor, and a hash of what is in it.
  bool HasOutput(WeightsFile file) const;
  uint64_t OutputBytes(WeightsFile file) const;
  std::string OutputHash(WeightsFile file) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cmlc

#endif  // CMLC_TENSOR_STORE_H_
