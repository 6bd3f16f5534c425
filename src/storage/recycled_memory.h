// Memory for what is made and soon written: taken and given back all the time, a few MiB at a time.
//
// The system clears every page that it hands out, and each costs a fault when it is first touched:
// together as much as quantizing the values that go there. So slabs are taken in huge pages where
// the system has them, filled from front to back, and used again once all that is in them has been
// given back.
#ifndef CMLC_STORAGE_RECYCLED_MEMORY_H_
#define CMLC_STORAGE_RECYCLED_MEMORY_H_

#include <cstddef>

namespace cmlc {

// `size` bytes of no particular content, aligned to 64. Any thread may call both.
std::byte* TakeRecycled(size_t size);
void GiveBackRecycled(std::byte* memory);

}  // namespace cmlc

#endif  // CMLC_STORAGE_RECYCLED_MEMORY_H_
