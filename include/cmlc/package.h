// A Core ML package on disk: start here.
//
//   CMLC_ASSIGN_OR_RETURN(auto package, Package::Open("in.mlpackage"));
//   CMLC_ASSIGN_OR_RETURN(auto writer, PackageWriter::Start(*package, "out.mlpackage"));
//   ... change package->model() ...
//   CMLC_RETURN_IF_ERROR(writer->Commit(threads));
//
// The folder on disk:
//
//   Foo.mlpackage/
//     Manifest.json                 what items there are, and which of them is the model
//     Data/com.apple.CoreML/
//       model.mlmodel               the model message: graph, types, small values
//       weights/weight.bin          the bulk of the weights
//
// Opening reads the manifest and the model message, checks every blob that a value refers to, and
// maps nothing for long: the cost does not depend on the size of the weights.
#ifndef CMLC_PACKAGE_H_
#define CMLC_PACKAGE_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "cmlc/model.h"
#include "cmlc/status.h"
#include "cmlc/tensor_store.h"

namespace cmlc {

struct ReadOptions {
  // Accept references to weights files that are not there. Such values keep their file name and
  // offset and cannot be looked at.
  bool allow_missing_weights = false;
};

class Package {
 public:
  // Opens an .mlpackage folder or an .mlmodel file. kBadInput, with the file and the place, if
  // anything about it is wrong. The input is never written to.
  static Result<std::unique_ptr<Package>> Open(const std::filesystem::path& path,
                                               const ReadOptions& options = {});
  ~Package();

  const std::filesystem::path& path() const;
  Model& model();
  const Model& model() const;
  TensorStore& tensors();
  const TensorStore& tensors() const;

  // Bytes of all files of the package.
  uint64_t size_bytes() const;

  // The weights file that new tensors of a program without one go to; of a network, which has
  // weights, the place of what is to be part of its message.
  WeightsFile DefaultWeightsFile(ModelFormat format = ModelFormat::kProgram);

  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  Package();
  std::unique_ptr<Impl> impl_;
};

struct WriteOptions {
  bool in_place = false;  // the output may be the input
};

// Writes a package (or, if that is what was opened, an .mlmodel file without ML Programs) beside
// its destination and puts it in place when it is complete. Until Commit returns, and if it fails,
// the destination is as it was; a signal that ends the program leaves nothing behind either.
class PackageWriter {
 public:
  // Checks the destination and starts a hidden folder beside it. From here on `package.tensors()`
  // can be written to. kUsage if the destination is the input (without `in_place`), is not named
  // as the input is (*.mlpackage or *.mlmodel), or exists and is no such model; kOutput if the
  // folder cannot be made.
  static Result<std::unique_ptr<PackageWriter>> Start(Package& package,
                                                      const std::filesystem::path& destination,
                                                      const WriteOptions& options = {});

  // Abandons what is not committed.
  ~PackageWriter();
  PackageWriter(const PackageWriter&) = delete;
  PackageWriter& operator=(const PackageWriter&) = delete;

  // Writes what is left, flushes everything to the disk and renames the package into place.
  Status Commit(ThreadPool& pool);

  // After Commit: bytes of all files of the new package.
  uint64_t size_bytes() const;

 private:
  struct Impl;
  explicit PackageWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The serialized model message of a package as it would be written now, for tests and tools that
// compare models. Offsets of weights are those of the input.
Result<std::string> SerializedModel(const Package& package);

}  // namespace cmlc

#endif  // CMLC_PACKAGE_H_
