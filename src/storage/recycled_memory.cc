#include "storage/recycled_memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <new>

#include "base/check.h"

namespace cmlc {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSlab = 4 * kHugePage;
constexpr size_t kAlignment = 64;
// Free slabs beyond this go back to the system: as much as may be worked on at a time.
constexpr size_t kMostFree = size_t{96} << 20;

size_t RoundUp(size_t size, size_t to) { return (size + to - 1) / to * to; }

// Aligned to huge pages, so that the system can use some.
std::byte* Map(size_t size) {
  void* mapped =
      mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<std::byte*>(mapped);
  const size_t before =
      RoundUp(reinterpret_cast<uintptr_t>(begin), kHugePage) - reinterpret_cast<uintptr_t>(begin);
  if (before > 0) munmap(begin, before);
  munmap(begin + before + size, kHugePage - before);
#ifdef MADV_HUGEPAGE
  madvise(begin + before, size, MADV_HUGEPAGE);
#endif
  return begin + before;
}

class Slabs {
 public:
  std::byte* Take(size_t size) {
    size = RoundUp(size == 0 ? 1 : size, kAlignment);
    const std::lock_guard lock(mutex_);
    auto at = slabs_.begin();
    while (at != slabs_.end() && at->second.size - at->second.used < size) ++at;
    if (at == slabs_.end()) {
      const size_t whole = RoundUp(size, kSlab);
      at = slabs_.emplace(Map(whole), Slab{.size = whole}).first;
    } else if (at->second.pieces == 0) {
      free_ -= at->second.size;
    }
    std::byte* memory = at->first + at->second.used;
    at->second.used += size;
    ++at->second.pieces;
    return memory;
  }

  void GiveBack(std::byte* memory) {
    const std::lock_guard lock(mutex_);
    auto at = slabs_.upper_bound(memory);
    CMLC_CHECK(at != slabs_.begin());
    --at;
    CMLC_CHECK(memory < at->first + at->second.used && at->second.pieces > 0);
    if (--at->second.pieces > 0) return;
    at->second.used = 0;
    if (free_ + at->second.size <= kMostFree) {
      free_ += at->second.size;
      return;
    }
    munmap(at->first, at->second.size);
    slabs_.erase(at);
  }

 private:
  struct Slab {
    size_t size;
    size_t used = 0;    // from the front
    size_t pieces = 0;  // that were not given back yet
  };
  std::mutex mutex_;
  std::map<std::byte*, Slab> slabs_;  // by where they begin
  size_t free_ = 0;                   // bytes of slabs without pieces
};

// Never destroyed: what outlives main may still give back.
Slabs& TheSlabs() {
  static auto* const slabs = new Slabs;
  return *slabs;
}

}  // namespace

std::byte* TakeRecycled(size_t size) { return TheSlabs().Take(size); }
void GiveBackRecycled(std::byte* memory) {
  if (memory != nullptr) TheSlabs().GiveBack(memory);
}

}  // namespace cmlc
