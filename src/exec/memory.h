// Memory of values while a program runs: counted, limited, and used again.
//
// A network makes and drops values of the same few sizes over and over. Handing pages back to the
// system and asking for new ones would cost as much as many of its ops, so blocks that are let go
// are kept for the next value of about that size; never so many that all together take more than
// the values alone took at their most.
#ifndef CMLC_EXEC_MEMORY_H_
#define CMLC_EXEC_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "cmlc/status.h"
#include "cmlc/tensor_store.h"

namespace cmlc::exec {

class Memory;

// Bytes of a value, aligned to 64, or a view of a weights file. Whoever has the only pointer to a
// block that is not a view may write to it.
class Storage {
 public:
  explicit Storage(TensorView view);  // read-only
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  bool writable() const { return block_ != nullptr; }
  std::byte* data() { return block_; }  // null for a view

 private:
  friend class Memory;
  Storage() = default;
  std::shared_ptr<struct Pool> pool_;
  std::byte* block_ = nullptr;
  size_t capacity_ = 0;
  TensorView view_;
  std::span<const std::byte> bytes_;
};

class Memory {
 public:
  // `limit_bytes`: what all values together may take; 0 means no limit.
  explicit Memory(uint64_t limit_bytes = 0);
  ~Memory();

  // A block with undefined content. kUsage, with both numbers, if it goes beyond the limit. Any
  // thread may call it; the block may outlive this object.
  Result<std::shared_ptr<Storage>> Make(uint64_t size_bytes);

  uint64_t live_bytes() const;
  uint64_t peak_bytes() const;  // the most that was live at a time

 private:
  std::shared_ptr<struct Pool> pool_;
};

}  // namespace cmlc::exec

#endif  // CMLC_EXEC_MEMORY_H_
