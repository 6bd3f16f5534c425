#include "exec/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <new>

namespace cmlc::exec {

constexpr size_t kAlignment = 64;
// Blocks from this size on are pages of their own. In a heap, blocks of many sizes that come and go
// leave holes between them, by and by as much as the values take.
constexpr size_t kOwnPages = 256 * 1024;

std::byte* NewBlock(size_t capacity) {
  if (capacity < kOwnPages)
    return static_cast<std::byte*>(
        ::operator new(capacity, std::align_val_t(kAlignment), std::nothrow));
  void* block = mmap(nullptr, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return block == MAP_FAILED ? nullptr : static_cast<std::byte*>(block);
}

void DeleteBlock(std::byte* block, size_t capacity) {
  if (capacity < kOwnPages)
    ::operator delete(block, std::align_val_t(kAlignment));
  else
    munmap(block, capacity);
}

struct Pool {
  explicit Pool(uint64_t limit_bytes) : limit(limit_bytes) {}
  ~Pool() {
    for (const auto& [size, block] : free) DeleteBlock(block, size);
  }

  std::mutex mutex;
  uint64_t limit;
  uint64_t live = 0;
  uint64_t peak = 0;
  uint64_t cached = 0;
  std::multimap<size_t, std::byte*> free;  // by capacity
};

Storage::Storage(TensorView view) : view_(std::move(view)), bytes_(view_.bytes()) {}

Storage::~Storage() {
  if (block_ == nullptr) return;
  const std::lock_guard lock(pool_->mutex);
  pool_->live -= capacity_;
  pool_->cached += capacity_;
  pool_->free.emplace(capacity_, block_);
}

Memory::Memory(uint64_t limit_bytes) : pool_(std::make_shared<Pool>(limit_bytes)) {}
Memory::~Memory() = default;

Result<std::shared_ptr<Storage>> Memory::Make(uint64_t size_bytes) {
  const size_t wanted =
      std::max<size_t>(kAlignment, (size_bytes + kAlignment - 1) / kAlignment * kAlignment);
  const std::lock_guard lock(pool_->mutex);
  std::shared_ptr<Storage> storage(new Storage);
  storage->pool_ = pool_;
  // A block that is a quarter too large is as good.
  const auto found = pool_->free.lower_bound(wanted);
  size_t capacity = wanted;
  std::byte* block = nullptr;
  if (found != pool_->free.end() && found->first <= wanted + wanted / 4) {
    capacity = found->first;
    block = found->second;
    pool_->cached -= capacity;
    pool_->free.erase(found);
  }
  if (pool_->limit != 0 && pool_->live + capacity > pool_->limit) {
    if (block != nullptr) {
      pool_->cached += capacity;
      pool_->free.emplace(capacity, block);
    }
    return Error{ErrorKind::kUsage,
                 fmt::format("needs {} bytes for a value beside {} bytes of others, which is more "
                             "than the {} bytes that --max-memory allows",
                             size_bytes, pool_->live, pool_->limit)};
  }
  if (block == nullptr) {
    // Largest first: few blocks go.
    while (pool_->cached != 0 && pool_->live + pool_->cached + capacity > pool_->peak) {
      const auto last = std::prev(pool_->free.end());
      DeleteBlock(last->second, last->first);
      pool_->cached -= last->first;
      pool_->free.erase(last);
    }
    block = NewBlock(capacity);
    if (block == nullptr)
      return Error{
          ErrorKind::kUsage,
          fmt::format("needs {} bytes for a value, more than the system gives", size_bytes)};
  }
  storage->block_ = block;
  storage->capacity_ = capacity;
  storage->bytes_ = {block, static_cast<size_t>(size_bytes)};
  pool_->live += capacity;
  pool_->peak = std::max(pool_->peak, pool_->live);
  return storage;
}

uint64_t Memory::live_bytes() const {
  const std::lock_guard lock(pool_->mutex);
  return pool_->live;
}

uint64_t Memory::peak_bytes() const {
  const std::lock_guard lock(pool_->mutex);
  return pool_->peak;
}

}  // namespace cmlc::exec
