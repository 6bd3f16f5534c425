#include "cmlc/tensor_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "numeric/bit_pack.h"
#include "storage/blob_file.h"
#include "storage/recycled_memory.h"

namespace cmlc {

struct TensorView::Window {
  FileWindow window;
};

TensorView::TensorView() = default;
TensorView::TensorView(TensorView&&) noexcept = default;
TensorView& TensorView::operator=(TensorView&&) noexcept = default;
TensorView::~TensorView() = default;

TensorView TensorView::Of(std::span<const std::byte> bytes) {
  TensorView view;
  view.bytes_ = bytes;
  return view;
}

TensorView TensorView::Make(size_t size, std::byte** content) {
  TensorView view;
  view.owned_ = std::make_unique_for_overwrite<std::byte[]>(size);
  view.bytes_ = {view.owned_.get(), size};
  *content = view.owned_.get();
  return view;
}

TensorView TensorView::Copy(std::span<const std::byte> bytes) {
  std::byte* content = nullptr;
  TensorView view = Make(bytes.size(), &content);
  std::copy(bytes.begin(), bytes.end(), content);
  return view;
}

void ReadyTensor::GiveBack::operator()(std::byte* content) const { GiveBackRecycled(content); }

Result<ReadyTensor> MakeReady(const TensorSource& source, ThreadPool& pool) {
  ReadyTensor tensor{
      .dtype = source.dtype,
      .element_count = source.element_count,
      .content = nullptr,
      .size_bytes = static_cast<size_t>(*PackedBytes(source.element_count, BitsOf(source.dtype))),
      .hash = {}};
  tensor.content.reset(TakeRecycled(tensor.size_bytes));
  const std::span<std::byte> out(tensor.content.get(), tensor.size_bytes);
  std::vector<std::span<std::byte>> chunks;
  for (size_t begin = 0; begin < out.size(); begin += TensorSource::kChunkBytes)
    chunks.push_back(
        out.subspan(begin, std::min<size_t>(TensorSource::kChunkBytes, out.size() - begin)));
  std::vector<Hash128> hashes(chunks.size());
  std::vector<Status> states(chunks.size());
  pool.For(chunks.size(), [&](size_t i, int) {
    states[i] = source.fill(i * TensorSource::kChunkBytes, chunks[i]);
    if (states[i].ok()) hashes[i] = HashBytes(chunks[i]);
  });
  for (Status& status : states) CMLC_RETURN_IF_ERROR(std::move(status));
  const Hash128 hash = HashBytes(std::as_bytes(std::span(hashes)));
  tensor.hash = {hash.low, hash.high};
  return tensor;
}

ReadyTensor MakeReady(DataType dtype, uint64_t element_count, std::span<const std::byte> bytes,
                      ThreadPool& pool) {
  Result<ReadyTensor> ready =
      MakeReady({.dtype = dtype,
                 .element_count = element_count,
                 .fill =
                     [bytes](uint64_t begin, std::span<std::byte> out) {
                       std::memcpy(out.data(), bytes.data() + begin, out.size());
                       return Ok();
                     }},
                pool);
  return std::move(*ready);
}

namespace {

struct Tensor {
  enum class Where { kMapped, kWritten, kInline, kMissing };
  TensorInfo info;
  Where where = Where::kInline;
  BitOrder order = BitOrder::kLowFirst;
  uint64_t payload_offset = 0;  // kMapped: in the input's file
  uint64_t output_offset = 0;   // kWritten, or after Finish: of its record in the output's file
  std::string bytes;            // kInline
};

struct FileEntry {
  std::string name;
  std::filesystem::path relative;
  std::optional<BlobReader> reader;
  std::optional<File> message;  // instead of a reader; then what is written is for this run alone
  std::optional<BlobWriter> writer;
  std::map<uint64_t, TensorId> by_offset;         // blobs of the input
  std::map<uint64_t, TensorId> by_output_offset;  // blobs of the output
  std::vector<TensorId> aliases;                  // of those, seen as another type
};

}  // namespace

struct TensorStore::Impl {
  std::deque<FileEntry> files;
  std::deque<Tensor> tensors;
  std::function<Result<std::filesystem::path>(WeightsFile)> path_of;

  // Some threads may look at tensors while another one adds some. What is in a deque stays where it
  // is when it grows, but finding it is not safe then.
  std::mutex mutex;

  FileEntry& file(WeightsFile id) {
    const std::lock_guard lock(mutex);
    return files[static_cast<size_t>(id)];
  }
  Tensor& tensor(TensorId id) {
    const std::lock_guard lock(mutex);
    return tensors[static_cast<size_t>(id)];
  }

  TensorId Add(Tensor tensor) {
    const std::lock_guard lock(mutex);
    tensors.push_back(std::move(tensor));
    return static_cast<TensorId>(tensors.size() - 1);
  }

  // The tensor that was written there, which may be known already.
  TensorId AddWritten(WeightsFile id, DataType dtype, uint64_t element_count,
                      const BlobWriter::Written& written) {
    FileEntry& entry = file(id);
    if (!written.is_new) {
      const auto found = entry.by_output_offset.find(written.offset);
      if (found != entry.by_output_offset.end()) return found->second;
    }
    Tensor tensor;
    tensor.info = {.dtype = dtype,
                   .element_count = element_count,
                   .size_bytes = *PackedBytes(element_count, BitsOf(dtype)),
                   .file = id,
                   .missing = false,
                   .offset = 0};
    tensor.where = Tensor::Where::kWritten;
    tensor.output_offset = written.offset;
    const TensorId added = Add(std::move(tensor));
    entry.by_output_offset.emplace(written.offset, added);
    return added;
  }

  // The bytes as they are stored.
  Result<TensorView> Stored(const Tensor& tensor, uint64_t begin, uint64_t size);

  Status EnsureWriter(WeightsFile id) {
    FileEntry& entry = file(id);
    if (entry.writer) return Ok();
    CMLC_CHECK(path_of != nullptr);
    CMLC_ASSIGN_OR_RETURN(const std::filesystem::path path, path_of(id));
    CMLC_ASSIGN_OR_RETURN(entry.writer, BlobWriter::Create(path, !entry.message));
    return Ok();
  }
};

TensorStore::TensorStore() : impl_(std::make_unique<Impl>()) {}
TensorStore::~TensorStore() = default;

WeightsFile TensorStore::AddFile(const std::string& name, const std::filesystem::path& relative) {
  for (size_t i = 0; i < impl_->files.size(); ++i)
    if (impl_->files[i].name == name) return static_cast<WeightsFile>(i);
  FileEntry entry;
  entry.name = name;
  entry.relative = relative;
  const std::lock_guard lock(impl_->mutex);
  impl_->files.push_back(std::move(entry));
  return static_cast<WeightsFile>(impl_->files.size() - 1);
}

const std::string& TensorStore::FileName(WeightsFile file) const { return impl_->file(file).name; }

const std::filesystem::path& TensorStore::RelativePath(WeightsFile file) const {
  return impl_->file(file).relative;
}

std::vector<WeightsFile> TensorStore::files() const {
  std::vector<WeightsFile> all;
  for (size_t i = 0; i < impl_->files.size(); ++i) all.push_back(static_cast<WeightsFile>(i));
  return all;
}

Status TensorStore::OpenInput(WeightsFile file, const std::filesystem::path& path) {
  CMLC_ASSIGN_OR_RETURN(impl_->file(file).reader, BlobReader::Open(path));
  return Ok();
}

Result<TensorId> TensorStore::AddBlob(WeightsFile file, uint64_t offset) {
  FileEntry& entry = impl_->file(file);
  CMLC_CHECK(entry.reader.has_value());
  if (const auto found = entry.by_offset.find(offset); found != entry.by_offset.end())
    return found->second;
  CMLC_ASSIGN_OR_RETURN(const BlobRecord record, entry.reader->Record(offset));
  Tensor tensor;
  tensor.info = {.dtype = record.dtype,
                 .element_count = record.element_count,
                 .size_bytes = record.size_bytes,
                 .file = file,
                 .missing = false,
                 .offset = offset};
  tensor.where = Tensor::Where::kMapped;
  tensor.payload_offset = record.payload_offset;
  const TensorId id = impl_->Add(std::move(tensor));
  entry.by_offset.emplace(offset, id);
  return id;
}

Status TensorStore::OpenMessage(WeightsFile file, const std::filesystem::path& path) {
  CMLC_ASSIGN_OR_RETURN(impl_->file(file).message, File::OpenForReading(path));
  return Ok();
}

TensorId TensorStore::AddRange(WeightsFile file, uint64_t offset, DataType dtype,
                               uint64_t element_count, BitOrder order) {
  Tensor tensor;
  tensor.info = {.dtype = dtype,
                 .element_count = element_count,
                 .size_bytes = *PackedBytes(element_count, BitsOf(dtype)),
                 .file = file,
                 .missing = false,
                 .offset = offset};
  tensor.where = Tensor::Where::kMapped;
  tensor.order = order;
  tensor.payload_offset = offset;
  const uint64_t file_size = impl_->file(file).message->size();
  CMLC_CHECK(offset <= file_size && tensor.info.size_bytes <= file_size - offset);
  return impl_->Add(std::move(tensor));
}

TensorId TensorStore::AddMissing(WeightsFile file, uint64_t offset) {
  FileEntry& entry = impl_->file(file);
  if (const auto found = entry.by_offset.find(offset); found != entry.by_offset.end())
    return found->second;
  Tensor tensor;
  tensor.info.file = file;
  tensor.info.missing = true;
  tensor.info.offset = offset;
  tensor.where = Tensor::Where::kMissing;
  const TensorId id = impl_->Add(std::move(tensor));
  entry.by_offset.emplace(offset, id);
  return id;
}

TensorId TensorStore::AddInline(DataType dtype, uint64_t element_count, std::string bytes,
                                WeightsFile file) {
  CMLC_CHECK(PackedBytes(element_count, BitsOf(dtype)) == bytes.size());
  Tensor tensor;
  tensor.info = {.dtype = dtype,
                 .element_count = element_count,
                 .size_bytes = bytes.size(),
                 .file = file,
                 .missing = false,
                 .offset = 0};
  tensor.where = Tensor::Where::kInline;
  tensor.bytes = std::move(bytes);
  return impl_->Add(std::move(tensor));
}

TensorId TensorStore::Reinterpret(TensorId id, DataType dtype, uint64_t element_count) {
  Tensor tensor = impl_->tensor(id);
  CMLC_CHECK(tensor.where != Tensor::Where::kMissing);
  CMLC_CHECK(PackedBytes(element_count, BitsOf(dtype)) == tensor.info.size_bytes);
  tensor.info.dtype = dtype;
  tensor.info.element_count = element_count;
  const bool written = tensor.where == Tensor::Where::kWritten;
  FileEntry& entry = impl_->file(tensor.info.file);
  const TensorId alias = impl_->Add(std::move(tensor));
  if (written) entry.aliases.push_back(alias);
  return alias;
}

const TensorInfo& TensorStore::info(TensorId id) const { return impl_->tensor(id).info; }

Result<TensorView> TensorStore::Impl::Stored(const Tensor& tensor, uint64_t begin, uint64_t size) {
  TensorView view;
  if (tensor.where == Tensor::Where::kInline) {
    view.bytes_ = std::as_bytes(std::span(tensor.bytes)).subspan(begin, size);
    return view;
  }
  CMLC_CHECK(tensor.where != Tensor::Where::kMissing);
  const FileEntry& entry = file(tensor.info.file);
  const bool written = tensor.where == Tensor::Where::kWritten;
  const File& source = written         ? entry.writer->file()
                       : entry.message ? *entry.message
                                       : entry.reader->file();
  const uint64_t payload = written ? tensor.output_offset + kBlobAlignment : tensor.payload_offset;
  view.window_ = std::make_unique<TensorView::Window>();
  CMLC_ASSIGN_OR_RETURN(view.window_->window, source.Map(payload + begin, size));
  view.bytes_ = view.window_->window.bytes();
  return view;
}

Result<TensorView> TensorStore::View(TensorId id, uint64_t begin, uint64_t size,
                                     BitOrder order) const {
  const Tensor& tensor = impl_->tensor(id);
  CMLC_CHECK(begin <= tensor.info.size_bytes && size <= tensor.info.size_bytes - begin);
  const auto bits = static_cast<uint64_t>(BitsOf(tensor.info.dtype));
  if (tensor.order == order || bits >= 8) {
    CMLC_ASSIGN_OR_RETURN(TensorView view, impl_->Stored(tensor, begin, size));
    // Blobs are aligned; what lies in a message is where it happens to be.
    const auto address = reinterpret_cast<uintptr_t>(view.bytes().data());
    return bits > 8 && address % (bits / 8) != 0 ? TensorView::Copy(view.bytes()) : std::move(view);
  }
  // Eight codes take `bits` bytes in both orders: groups of so many bytes change theirs alone.
  const uint64_t first = begin / bits * bits;
  const uint64_t end = std::min(tensor.info.size_bytes, (begin + size + bits - 1) / bits * bits);
  CMLC_ASSIGN_OR_RETURN(const TensorView stored, impl_->Stored(tensor, first, end - first));
  const uint64_t first_code = first / bits * 8;
  const uint64_t codes = std::min(tensor.info.element_count - first_code, (end - first) * 8 / bits);
  std::byte* content = nullptr;
  TensorView view = TensorView::Make(static_cast<size_t>(end - first), &content);
  const std::span<std::byte> out(content, static_cast<size_t>(end - first));
  const auto convert =
      order == BitOrder::kHighFirst ? numeric::LowToHighFirst : numeric::HighToLowFirst;
  convert(stored.bytes(), static_cast<int>(bits), static_cast<size_t>(codes), out);
  view.bytes_ = out.subspan(static_cast<size_t>(begin - first), static_cast<size_t>(size));
  return view;
}

void TensorStore::StartWriting(std::function<Result<std::filesystem::path>(WeightsFile)> path_of) {
  impl_->path_of = std::move(path_of);
}

Result<TensorId> TensorStore::Append(WeightsFile file, const TensorSource& source,
                                     ThreadPool& pool) {
  CMLC_RETURN_IF_ERROR(impl_->EnsureWriter(file));
  CMLC_ASSIGN_OR_RETURN(const BlobWriter::Written written,
                        impl_->file(file).writer->Append(source, pool));
  return impl_->AddWritten(file, source.dtype, source.element_count, written);
}

Result<std::vector<TensorId>> TensorStore::Append(WeightsFile file,
                                                  std::span<const ReadyTensor* const> tensors,
                                                  ThreadPool& pool) {
  std::vector<TensorId> ids;
  if (tensors.empty()) return ids;
  CMLC_RETURN_IF_ERROR(impl_->EnsureWriter(file));
  std::vector<BlobWriter::Ready> ready;
  for (const ReadyTensor* tensor : tensors)
    ready.push_back({.dtype = tensor->dtype,
                     .element_count = tensor->element_count,
                     .bytes = tensor->bytes(),
                     .hash = {tensor->hash[0], tensor->hash[1]}});
  CMLC_ASSIGN_OR_RETURN(const std::vector<BlobWriter::Written> written,
                        impl_->file(file).writer->Append(ready, pool));
  for (size_t i = 0; i < ready.size(); ++i)
    ids.push_back(impl_->AddWritten(file, ready[i].dtype, ready[i].element_count, written[i]));
  return ids;
}

namespace {

// Makes the bytes of a tensor that lies somewhere else.
TensorSource CopyOf(const TensorStore& store, TensorId id) {
  const TensorInfo& info = store.info(id);
  return {.dtype = info.dtype,
          .element_count = info.element_count,
          .fill = [&store, id](uint64_t begin, std::span<std::byte> out) -> Status {
            CMLC_ASSIGN_OR_RETURN(const TensorView view, store.View(id, begin, out.size()));
            std::memcpy(out.data(), view.bytes().data(), out.size());
            return Ok();
          }};
}

}  // namespace

Status TensorStore::Finish(const std::vector<TensorId>& live, ThreadPool& pool) {
  // What passes wrote is already in place unless a later pass has no use for it any more.
  const std::set<TensorId> wanted(live.begin(), live.end());
  for (size_t i = 0; i < impl_->files.size(); ++i) {
    FileEntry& entry = impl_->files[i];
    if (!entry.writer || entry.message) continue;
    const bool dead = std::any_of(entry.by_output_offset.begin(), entry.by_output_offset.end(),
                                  [&](const auto& blob) { return !wanted.contains(blob.second); });
    const bool retyped = std::any_of(entry.aliases.begin(), entry.aliases.end(),
                                     [&](TensorId id) { return wanted.contains(id); });
    if (!dead && !retyped) continue;
    const std::filesystem::path path = entry.writer->file().path();
    std::filesystem::path compact_path = path;
    compact_path += ".compact";
    RemoveOnSignal(compact_path);
    CMLC_ASSIGN_OR_RETURN(BlobWriter compact, BlobWriter::Create(compact_path));
    // A record has one type, so a tensor that is wanted under another one is copied, too.
    std::vector<TensorId> kept;
    for (const auto& [offset, id] : entry.by_output_offset)
      if (wanted.contains(id)) kept.push_back(id);
    for (const TensorId id : entry.aliases)
      if (wanted.contains(id)) kept.push_back(id);
    std::stable_sort(kept.begin(), kept.end(), [&](TensorId a, TensorId b) {
      return impl_->tensor(a).output_offset < impl_->tensor(b).output_offset;
    });
    std::vector<std::pair<uint64_t, TensorId>> moved;
    for (const TensorId id : kept) {
      CMLC_ASSIGN_OR_RETURN(const BlobWriter::Written written,
                            compact.Append(CopyOf(*this, id), pool));
      moved.emplace_back(written.offset, id);
    }
    std::error_code code;
    std::filesystem::rename(compact_path, path, code);
    if (code)
      return Error{ErrorKind::kOutput,
                   fmt::format("{}: cannot rename: {}", compact_path.string(), code.message())};
    entry.writer = std::move(compact);
    entry.by_output_offset.clear();
    entry.aliases.clear();
    for (const auto& [offset, id] : moved) {
      impl_->tensor(id).output_offset = offset;
      entry.by_output_offset.emplace(offset, id);
    }
  }

  // The rest comes from the input, in the order in which it lies there: a model that nothing
  // changes keeps its layout.
  std::vector<TensorId> rest;
  for (const TensorId id : wanted)
    if (impl_->tensor(id).where != Tensor::Where::kWritten) rest.push_back(id);
  std::stable_sort(rest.begin(), rest.end(), [&](TensorId a, TensorId b) {
    const Tensor& left = impl_->tensor(a);
    const Tensor& right = impl_->tensor(b);
    return std::tuple(left.info.file, left.where, left.info.offset) <
           std::tuple(right.info.file, right.where, right.info.offset);
  });
  for (const TensorId id : rest) {
    Tensor& tensor = impl_->tensor(id);
    if (tensor.where == Tensor::Where::kMissing) {
      tensor.output_offset = tensor.info.offset;
      continue;
    }
    CMLC_RETURN_IF_ERROR(impl_->EnsureWriter(tensor.info.file));
    CMLC_ASSIGN_OR_RETURN(const BlobWriter::Written written,
                          impl_->file(tensor.info.file).writer->Append(CopyOf(*this, id), pool));
    tensor.output_offset = written.offset;
  }
  for (FileEntry& entry : impl_->files)
    if (entry.writer && !entry.message) CMLC_RETURN_IF_ERROR(entry.writer->Finish());
  return Ok();
}

uint64_t TensorStore::OutputOffset(TensorId id) const { return impl_->tensor(id).output_offset; }

bool TensorStore::HasOutput(WeightsFile file) const {
  const FileEntry& entry = impl_->file(file);
  return entry.writer && !entry.message;
}

uint64_t TensorStore::OutputBytes(WeightsFile file) const {
  return HasOutput(file) ? impl_->file(file).writer->size() : 0;
}

std::string TensorStore::OutputHash(WeightsFile file) const {
  CMLC_CHECK(HasOutput(file));
  return ToHex(impl_->file(file).writer->hash());
}

}  // namespace cmlc
