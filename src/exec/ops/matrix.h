// Matrices that are read a block at a time, so that weights stay compressed.
//
// What a product needs of a weight is decoded into a small buffer just before, and a 4 GB model
// never takes 16. A weight that lies in memory as fp32 is used where it is. Products are cut into
// the same tiles in both cases, so that they have the same bits.
#ifndef CMLC_EXEC_OPS_MATRIX_H_
#define CMLC_EXEC_OPS_MATRIX_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "exec/op.h"

namespace cmlc::exec {

// Elements that are decoded at a time: 1 MB of fp32.
constexpr int64_t kBlockElements = 256 * 1024;

// `total` in equal pieces of at most `most`, each but the last a multiple of `multiple` where that
// is possible. At least 1.
inline int64_t PieceSize(int64_t total, int64_t most, int64_t multiple) {
  most = std::clamp<int64_t>(most, 1, std::max<int64_t>(total, 1));
  if (most >= total) return std::max<int64_t>(total, 1);
  if (most > multiple) most -= most % multiple;
  const int64_t pieces = (total + most - 1) / most;
  const int64_t even = (total + pieces - 1) / pieces;
  const int64_t rounded = (even + multiple - 1) / multiple * multiple;
  return rounded <= most ? rounded : even;
}

inline int64_t PieceCount(int64_t total, int64_t piece) { return (total + piece - 1) / piece; }

// Elements seen as rows: of a value, or of fp32 in memory. It refers to them only.
class MatrixSource {
 public:
  explicit MatrixSource(const float* data) : direct_(data) {}
  explicit MatrixSource(const Value& value) : value_(&value) {
    if (value.storage != nullptr && value.dtype == DataType::kFloat32)
      direct_ = value.As<float>().data();
  }

  bool direct() const { return direct_ != nullptr; }

  struct Block {
    const float* data = nullptr;
    int64_t ld = 0;
  };

  // Rows of `cols` elements, the first one `begin` elements into the value, the next ones `ld`
  // apart. `buffer` is filled if it has to be.
  Result<Block> Load(int64_t begin, int64_t rows, int64_t cols, int64_t ld,
                     std::vector<float>& buffer) const {
    if (direct_ != nullptr) return Block{direct_ + begin, ld};
    if (rows == 0 || cols == 0) return Block{buffer.data(), cols};
    const auto size = static_cast<size_t>(rows * cols);
    if (buffer.size() < size) buffer.resize(size);
    const bool whole = cols == ld || rows == 1;
    const int64_t step = whole ? rows : 1;
    for (int64_t row = 0; row < rows; row += step)
      CMLC_RETURN_IF_ERROR(
          ReadFloats(*value_, static_cast<uint64_t>(begin + row * ld),
                     {buffer.data() + row * cols, static_cast<size_t>(step * cols)}));
    return Block{buffer.data(), cols};
  }

 private:
  const Value* value_ = nullptr;
  const float* direct_ = nullptr;
};

// The first error of a loop that several threads run.
class FirstError {
 public:
  // Whether `status` is fine. Once anything is not, nothing needs to go on.
  bool Take(const Status& status) {
    if (status.ok()) return true;
    const std::lock_guard lock(mutex_);
    if (!failed_.exchange(true)) status_ = status;
    return false;
  }
  template <typename T>
  bool Take(const Result<T>& result) {
    return result.ok() || Take(Status(result.error()));
  }
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  const Status& status() const { return status_; }

 private:
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  Status status_;
};

}  // namespace cmlc::exec

#endif  // CMLC_EXEC_OPS_MATRIX_H_
