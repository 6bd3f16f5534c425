#include "cmlc/package.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/fs.h>
#include <sys/syscall.h>
#endif

#include <cerrno>
#include <cstdio>
#include <map>
#include <optional>
#include <set>
#include <system_error>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "format/manifest.h"
#include "format/spec.h"
#include "storage/blob_file.h"

namespace cmlc {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kModelPath = "@model_path/";

Error BadInput(const fs::path& path, std::string_view what) {
  return {ErrorKind::kBadInput, fmt::format("{}: {}", path.string(), what)};
}

Error BadOutput(const fs::path& path, std::string_view what) {
  return {ErrorKind::kOutput, fmt::format("{}: {}", path.string(), what)};
}

// Bytes of all regular files below a folder.
uint64_t BytesBelow(const fs::path& path) {
  uint64_t total = 0;
  std::error_code code;
  for (fs::recursive_directory_iterator it(path, code), end; !code && it != end;
       it.increment(code)) {
    std::error_code file_code;
    if (it->is_regular_file(file_code) && !it->is_symlink(file_code))
      total += it->file_size(file_code);
  }
  return total;
}

}  // namespace

// --- Reading ------------------------------------------------------------------------------------

struct Package::Impl {
  fs::path path;
  Model model;
  TensorStore tensors;
  std::optional<format::Manifest> manifest;          // none: an .mlmodel file
  std::map<std::string, WeightsFile> weights_files;  // by the name that values use
  std::set<WeightsFile> missing_files;
  uint64_t size_bytes = 0;

  // Where a path inside the package really is, links followed: there its new version goes, and the
  // links are copied.
  fs::path RealPath(const fs::path& relative) const {
    std::error_code code;
    return fs::weakly_canonical(path / relative, code)
        .lexically_relative(fs::weakly_canonical(path, code));
  }

  std::optional<WeightsFile> FileAt(const fs::path& relative) const {
    for (const WeightsFile file : tensors.files())
      if (tensors.RelativePath(file) == relative) return file;
    return std::nullopt;
  }

  // The model message as the place of a network's weights. What a run makes of them lies beside the
  // new message until that is written.
  std::optional<WeightsFile> message_weights;
  Result<WeightsFile> MessageWeights(const fs::path& model_file) {
    if (message_weights) return *message_weights;
    fs::path relative = RelativeModelPath();
    relative += ".codes";
    message_weights = tensors.AddFile("", relative);
    CMLC_RETURN_IF_ERROR(tensors.OpenMessage(*message_weights, model_file));
    return *message_weights;
  }
  // Of the model message, in the package; a file alone is all there is.
  fs::path RelativeModelPath() const {
    return manifest ? RealPath(manifest->model_path()) : fs::path("model.mlmodel");
  }

  // Finds, opens and checks the weights file that values call `name`.
  Result<WeightsFile> FindWeightsFile(const std::string& name, const ReadOptions& options,
                                      bool& missing);
};

Result<WeightsFile> Package::Impl::FindWeightsFile(const std::string& name,
                                                   const ReadOptions& options, bool& missing) {
  missing = false;
  if (const auto found = weights_files.find(name); found != weights_files.end()) {
    missing = missing_files.contains(found->second);
    return found->second;
  }
  if (!manifest) return BadInput(path, "an ML Program with weights needs its .mlpackage folder");
  const fs::path model_file = path / manifest->model_path();
  if (!std::string_view(name).starts_with(kModelPath))
    return BadInput(model_file, fmt::format("weights file name '{}' does not start with '{}'", name,
                                            kModelPath));
  const fs::path below(name.substr(kModelPath.size()));
  fs::path relative = manifest->model_path().parent_path() / below;
  CMLC_ASSIGN_OR_RETURN(fs::path full,
                        format::ResolveInside(path, relative, model_file, "weights file"));
  std::error_code code;
  if (!fs::exists(full, code) && !manifest->weights_path().empty()) {
    // Apple's own reader goes by the last part of the name, inside the folder of weights.
    const fs::path other = manifest->weights_path() / below.filename();
    CMLC_ASSIGN_OR_RETURN(const fs::path other_full,
                          format::ResolveInside(path, other, model_file, "weights file"));
    if (fs::exists(other_full, code)) {
      relative = other;
      full = other_full;
    }
  }
  relative = RealPath(relative);
  if (const std::optional<WeightsFile> known = FileAt(relative)) {  // under another name
    missing = missing_files.contains(*known);
    weights_files.emplace(name, *known);
    return *known;
  }
  const WeightsFile file = tensors.AddFile(name, relative);
  if (!fs::exists(full, code)) {
    if (!options.allow_missing_weights)
      return BadInput(full, fmt::format("is missing, and '{}' refers to it", model_file.string()));
    missing = true;
    missing_files.insert(file);
  } else {
    CMLC_RETURN_IF_ERROR(tensors.OpenInput(file, full));
  }
  weights_files.emplace(name, file);
  return file;
}

Package::Package() : impl_(std::make_unique<Impl>()) {}
Package::~Package() = default;
const fs::path& Package::path() const { return impl_->path; }
Model& Package::model() { return impl_->model; }
const Model& Package::model() const { return impl_->model; }
TensorStore& Package::tensors() { return impl_->tensors; }
const TensorStore& Package::tensors() const { return impl_->tensors; }
uint64_t Package::size_bytes() const { return impl_->size_bytes; }

WeightsFile Package::DefaultWeightsFile(ModelFormat format) {
  if (format == ModelFormat::kNetwork) {
    CMLC_CHECK(impl_->message_weights.has_value());
    return *impl_->message_weights;
  }
  const fs::path relative =
      impl_->RealPath(impl_->manifest->model_path().parent_path() / "weights" / "weight.bin");
  if (const std::optional<WeightsFile> known = impl_->FileAt(relative)) return *known;
  return impl_->tensors.AddFile(std::string(kModelPath) + "weights/weight.bin", relative);
}

Result<std::unique_ptr<Package>> Package::Open(const fs::path& path, const ReadOptions& options) {
  std::unique_ptr<Package> package(new Package);
  Impl& impl = *package->impl_;
  // "model.mlpackage/" is the same package; a path that ends in a slash has no file name.
  impl.path = path.has_filename() ? path : path.parent_path();
  std::error_code code;
  const fs::file_status status = fs::status(impl.path, code);
  if (status.type() == fs::file_type::not_found)
    return BadInput(impl.path, "no such file or folder, expected an .mlpackage or .mlmodel");
  if (code) return BadInput(impl.path, code.message());

  fs::path model_file = impl.path;
  if (fs::is_directory(status)) {
    if (!fs::exists(impl.path / format::kManifestName, code))
      return BadInput(impl.path, fmt::format("is a folder without a {}, so not an .mlpackage",
                                             format::kManifestName));
    CMLC_ASSIGN_OR_RETURN(impl.manifest,
                          format::Manifest::Read(impl.path, options.allow_missing_weights));
    model_file = impl.path / impl.manifest->model_path();
    impl.size_bytes = BytesBelow(impl.path);
  } else if (!fs::is_regular_file(status)) {
    return BadInput(impl.path,
                    "is neither a folder nor a regular file, expected an .mlpackage or .mlmodel");
  } else {
    impl.size_bytes = fs::file_size(impl.path, code);
  }

  CMLC_ASSIGN_OR_RETURN(const File message, File::OpenForReading(model_file));
  if (message.size() > format::kMostMessageBytes)
    return BadInput(model_file,
                    fmt::format("has {} bytes, a model message has at most 2 GiB", message.size()));
  // Of a large message most is weights of networks, which are passed over.
  constexpr uint64_t kSmallMessage = uint64_t{16} << 20;
  CMLC_ASSIGN_OR_RETURN(const FileWindow window,
                        message.Map(0, message.size(), message.size() <= kSmallMessage));
  const format::MessageFile from{
      .path = model_file.string(),
      .bytes = {reinterpret_cast<const char*>(window.bytes().data()), window.bytes().size()},
      .file = [&]() -> Result<WeightsFile> { return impl.MessageWeights(model_file); }};
  const auto resolve = [&](const std::string& name, uint64_t offset) -> Result<TensorId> {
    bool missing = false;
    CMLC_ASSIGN_OR_RETURN(const WeightsFile file, impl.FindWeightsFile(name, options, missing));
    if (missing) return impl.tensors.AddMissing(file, offset);
    return impl.tensors.AddBlob(file, offset);
  };
  CMLC_ASSIGN_OR_RETURN(impl.model, format::ParseModel(from, impl.tensors, resolve));
  return package;
}

Result<std::string> SerializedModel(const Package& package) {
  const TensorStore& tensors = package.tensors();
  CMLC_ASSIGN_OR_RETURN(
      const format::WireMessage message,
      format::SerializeModel(package.model(), tensors, [&](TensorId id) -> format::BlobPlace {
        const TensorInfo& info = tensors.info(id);
        return {tensors.FileName(info.file), info.offset};
      }));
  return format::ToBytes(message, tensors);
}

// --- Writing ------------------------------------------------------------------------------------

namespace {

bool IsPackage(const fs::path& path) {
  std::error_code code;
  return fs::is_directory(path, code) && format::Manifest::Read(path).ok();
}

bool IsModelFile(const fs::path& path) {
  std::error_code code;
  return fs::is_regular_file(path, code) && Package::Open(path).ok();
}

bool HoldsProgram(const Model& model) {
  bool holds = false;
  ForEachModel(model, [&](const Model& each) { holds = holds || each.program.has_value(); });
  return holds;
}

bool IsInside(const fs::path& inner, const fs::path& outer) {
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

enum class RenameMode { kMustBeNew, kExchange };

// One atomic step where the system has one; false with errno set where it fails.
bool AtomicRename(const fs::path& from, const fs::path& to, RenameMode mode) {
#if defined(__linux__) && defined(SYS_renameat2)
  const unsigned flags = mode == RenameMode::kExchange ? RENAME_EXCHANGE : RENAME_NOREPLACE;
  if (syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) == 0) return true;
#elif defined(__APPLE__)
  const unsigned flags = mode == RenameMode::kExchange ? RENAME_SWAP : RENAME_EXCL;
  if (renamex_np(from.c_str(), to.c_str(), flags) == 0) return true;
#else
  errno = ENOSYS;
#endif
  if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) return false;
  if (mode == RenameMode::kMustBeNew) {
    std::error_code code;
    if (fs::exists(to, code)) {
      errno = EEXIST;
      return false;
    }
    return std::rename(from.c_str(), to.c_str()) == 0;
  }
  // Without an exchange the old package steps aside for a moment.
  fs::path aside = from;
  aside += ".old";
  if (std::rename(to.c_str(), aside.c_str()) != 0) return false;
  if (std::rename(from.c_str(), to.c_str()) != 0) {
    const int error = errno;
    std::rename(aside.c_str(), to.c_str());
    errno = error;
    return false;
  }
  return std::rename(aside.c_str(), from.c_str()) == 0;
}

}  // namespace

struct PackageWriter::Impl {
  Package* package = nullptr;
  fs::path destination;
  fs::path staging;
  bool exists = false;  // something to replace is at the destination
  bool committed = false;
  std::set<fs::path> folders;  // made in `staging`, relative to it
  uint64_t size_bytes = 0;

  // Makes a folder inside the staging folder, with all above it.
  Status MakeFolder(const fs::path& relative);
  Status WriteFile(const fs::path& relative, const std::string& bytes);
  // The model message; returns what stands for its content in the manifest's identifiers.
  Result<std::string> WriteModel(const fs::path& relative, const format::WireMessage& message);
  Status WriteAll(ThreadPool& pool);
  Status CommitFile();
  Status CopyTheRest(const std::set<fs::path>& ours);
};

Status PackageWriter::Impl::MakeFolder(const fs::path& relative) {
  fs::path below;
  for (const fs::path& part : relative) {
    below /= part;
    if (!folders.insert(below).second) continue;
    RemoveOnSignal(staging / below);
    std::error_code code;
    if (!fs::create_directory(staging / below, code))
      return BadOutput(staging / below, fmt::format("cannot make this folder: {}", code.message()));
  }
  return Ok();
}

Status PackageWriter::Impl::WriteFile(const fs::path& relative, const std::string& bytes) {
  CMLC_RETURN_IF_ERROR(MakeFolder(relative.parent_path()));
  RemoveOnSignal(staging / relative);
  CMLC_ASSIGN_OR_RETURN(File file, File::Create(staging / relative));
  CMLC_RETURN_IF_ERROR(file.WriteAt(0, std::as_bytes(std::span(bytes))));
  return file.Sync();
}

Result<std::string> PackageWriter::Impl::WriteModel(const fs::path& relative,
                                                    const format::WireMessage& message) {
  CMLC_RETURN_IF_ERROR(MakeFolder(relative.parent_path()));
  RemoveOnSignal(staging / relative);
  CMLC_ASSIGN_OR_RETURN(File file, File::Create(staging / relative));
  uint64_t end = 0;
  BlobHasher hasher;
  const auto write = [&](std::span<const std::byte> bytes) {
    hasher.AddChunk(bytes);
    const uint64_t begin = end;
    end += bytes.size();
    return file.WriteAt(begin, bytes);
  };
  CMLC_RETURN_IF_ERROR(format::Stream(message, package->tensors(), write));
  CMLC_RETURN_IF_ERROR(file.Sync());
  return ToHex(hasher.Finish());
}

// Everything in the input that we did not write anew: items that are not ours, and files that no
// manifest mentions.
Status PackageWriter::Impl::CopyTheRest(const std::set<fs::path>& ours) {
  const fs::path& root = package->path();
  std::error_code code;
  for (fs::recursive_directory_iterator it(root, code), end; it != end; it.increment(code)) {
    if (code) return BadInput(root, code.message());
    const fs::path relative = it->path().lexically_relative(root);
    const fs::file_status status = it->symlink_status(code);
    if (ours.contains(relative)) continue;
    if (fs::is_directory(status)) {
      CMLC_RETURN_IF_ERROR(MakeFolder(relative));
      continue;
    }
    CMLC_RETURN_IF_ERROR(MakeFolder(relative.parent_path()));
    const fs::path to = staging / relative;
    RemoveOnSignal(to);
    if (fs::is_symlink(status)) {
      CMLC_RETURN_IF_ERROR(format::ResolveInside(root, relative, root, "file"));
      const fs::path target = fs::read_symlink(it->path(), code);
      if (target.is_absolute())
        return BadInput(it->path(),
                        "is an absolute symbolic link, expected one that stays inside "
                        "the package");
      fs::create_symlink(target, to, code);
    } else if (fs::is_regular_file(status)) {
      fs::copy_file(it->path(), to, code);
      if (!code) {
        const int descriptor = open(to.c_str(), O_RDONLY | O_CLOEXEC);
        if (descriptor >= 0) {
          fsync(descriptor);
          close(descriptor);
        }
      }
    } else {
      return BadInput(it->path(), "is neither a file, a folder nor a link: it cannot be copied");
    }
    if (code) return BadOutput(to, fmt::format("cannot copy: {}", code.message()));
  }
  if (code) return BadInput(root, code.message());
  return Ok();
}

PackageWriter::PackageWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

PackageWriter::~PackageWriter() {
  if (!impl_->committed && !impl_->staging.empty()) {
    std::error_code code;
    fs::remove_all(impl_->staging, code);
    ForgetRemovals();
  }
}

uint64_t PackageWriter::size_bytes() const { return impl_->size_bytes; }

Result<std::unique_ptr<PackageWriter>> PackageWriter::Start(Package& package,
                                                            const fs::path& destination,
                                                            const WriteOptions& options) {
  const auto usage = [&](std::string_view what) {
    return Error{ErrorKind::kUsage, fmt::format("{}: {}", destination.string(), what)};
  };
  const bool is_file = !package.impl().manifest;
  if (is_file && HoldsProgram(package.model()))
    return BadInput(package.path(),
                    "is an .mlmodel file that holds an ML Program, and those can only be written "
                    "as an .mlpackage");
  auto impl = std::make_unique<Impl>();
  impl->package = &package;
  std::error_code code;
  // A link at the destination stays; what it points to is replaced.
  impl->destination = fs::weakly_canonical(
      fs::absolute(destination.has_filename() ? destination : destination.parent_path()), code);
  if (code) return usage(code.message());
  const std::string_view extension = is_file ? ".mlmodel" : ".mlpackage";
  if (impl->destination.extension() != extension)
    return usage(is_file ? "the input is an .mlmodel file, so its output is named *.mlmodel"
                         : "an output package is named *.mlpackage");
  const fs::path input = fs::canonical(package.path(), code);
  if (code) return BadInput(package.path(), code.message());
  const fs::file_status status = fs::symlink_status(impl->destination, code);
  impl->exists = fs::exists(status);
  if (impl->destination == input) {
    if (!options.in_place)
      return usage("is the input itself; say --in-place to replace it, or name another output");
  } else if (IsInside(impl->destination, input) || IsInside(input, impl->destination)) {
    return usage("lies inside the input or the input inside it; name another output");
  } else if (impl->exists &&
             !(is_file ? IsModelFile(impl->destination) : IsPackage(impl->destination))) {
    return usage(fmt::format(
        "exists and is not an {}, so it is not replaced; name another output or remove it",
        extension));
  }

  const fs::path parent = impl->destination.parent_path();
  for (int attempt = 0;; ++attempt) {
    impl->staging = parent / fmt::format(".{}.partial-{}-{}", impl->destination.filename().string(),
                                         getpid(), attempt);
    RemoveOnSignal(impl->staging);
    if (mkdir(impl->staging.c_str(), 0777) == 0) break;
    const int error = errno;
    if (error == EEXIST && attempt < 100) continue;
    const fs::path failed = impl->staging;
    impl->staging.clear();
    return BadOutput(parent, fmt::format("cannot make a folder here for the output: {}",
                                         std::system_category().message(error)));
  }

  Impl* raw = impl.get();
  package.tensors().StartWriting([raw](WeightsFile file) -> Result<fs::path> {
    const fs::path& relative = raw->package->tensors().RelativePath(file);
    CMLC_RETURN_IF_ERROR(raw->MakeFolder(relative.parent_path()));
    const fs::path full = raw->staging / relative;
    RemoveOnSignal(full);
    return full;
  });
  return std::unique_ptr<PackageWriter>(new PackageWriter(std::move(impl)));
}

// Moves a model file to its destination, over an old one if there was one.
Status PackageWriter::Impl::CommitFile() {
  const fs::path made = staging / package->impl().RelativeModelPath();
  if (exists ? std::rename(made.c_str(), destination.c_str()) != 0
             : !AtomicRename(made, destination, RenameMode::kMustBeNew))
    return BadOutput(destination,
                     fmt::format("cannot put the model in place: {}", LastSystemError()));
  committed = true;
  std::error_code code;
  fs::remove_all(staging, code);
  ForgetRemovals();
  return SyncDirectory(destination.parent_path());
}

// Writes all files of the result into the staging folder.
Status PackageWriter::Impl::WriteAll(ThreadPool& pool) {
  TensorStore& tensors = package->tensors();
  std::set<TensorId> live;
  ForEachModel(package->model(), [&](Model& model) {
    if (!model.program) return;
    ForEachValue(*model.program, [&](Value& value) {
      if (const auto* id = std::get_if<TensorId>(&value.content)) live.insert(*id);
    });
  });
  CMLC_RETURN_IF_ERROR(tensors.Finish({live.begin(), live.end()}, pool));

  const auto place = [&](TensorId id) -> format::BlobPlace {
    return {tensors.FileName(tensors.info(id).file), tensors.OutputOffset(id)};
  };
  CMLC_ASSIGN_OR_RETURN(const format::WireMessage message,
                        format::SerializeModel(package->model(), tensors, place));
  const fs::path model_path = package->impl().RelativeModelPath();
  CMLC_ASSIGN_OR_RETURN(const std::string model_hash, WriteModel(model_path, message));
  // What a network's weights became is part of the message now.
  if (package->impl().message_weights) {
    std::error_code code;
    fs::remove(staging / tensors.RelativePath(*package->impl().message_weights), code);
  }
  if (!package->impl().manifest) return Ok();

  std::set<fs::path> ours = {format::kManifestName, model_path};
  std::string weights_text;
  for (const WeightsFile file : tensors.files()) {
    if (file == package->impl().message_weights) continue;
    ours.insert(tensors.RelativePath(file));
    if (tensors.HasOutput(file))
      weights_text += fmt::format("{} {}\n", tensors.FileName(file), tensors.OutputHash(file));
  }
  const auto hash = [](const std::string& text) {
    return ToHex(HashBytes(std::as_bytes(std::span(text))));
  };
  const std::string manifest_text = package->impl().manifest->Text(
      hash("model " + model_hash), weights_text.empty() ? "" : hash("weights " + weights_text));
  CMLC_RETURN_IF_ERROR(WriteFile(format::kManifestName, manifest_text));
  return CopyTheRest(ours);
}

Status PackageWriter::Commit(ThreadPool& pool) {
  CMLC_RETURN_IF_ERROR(impl_->WriteAll(pool));
  for (const fs::path& folder : impl_->folders)
    CMLC_RETURN_IF_ERROR(SyncDirectory(impl_->staging / folder));
  CMLC_RETURN_IF_ERROR(SyncDirectory(impl_->staging));
  impl_->size_bytes = BytesBelow(impl_->staging);

  if (!impl_->package->impl().manifest) return impl_->CommitFile();

  // The old package takes the staging folder's place in an exchange, so a signal from here on must
  // find its files there too.
  if (impl_->exists) {
    std::error_code code;
    for (fs::recursive_directory_iterator it(impl_->destination, code), end; !code && it != end;
         it.increment(code))
      RemoveOnSignal(impl_->staging / it->path().lexically_relative(impl_->destination));
  }

  // Beyond this point the new package is complete; one rename makes it visible.
  if (!AtomicRename(impl_->staging, impl_->destination,
                    impl_->exists ? RenameMode::kExchange : RenameMode::kMustBeNew))
    return BadOutput(impl_->destination,
                     fmt::format("cannot put the package in place: {}", LastSystemError()));
  impl_->committed = true;
  if (impl_->exists) {
    std::error_code code;
    fs::remove_all(impl_->staging, code);
  }
  ForgetRemovals();
  return SyncDirectory(impl_->destination.parent_path());
}

}  // namespace cmlc
