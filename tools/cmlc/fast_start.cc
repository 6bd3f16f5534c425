// Starting takes as long as a small model does, so what is not needed is left out.
#include <cstdint>

// Highway's library measures the resolution of the clock while it is being loaded, for benchmarks
// of its own: four milliseconds, half of what starting the program takes. Nothing here asks for
// that resolution, and a program's own function comes before a library's. Where that is not so (on
// macOS) this changes nothing.
namespace hwy::platform {

uint64_t TimerResolution();
uint64_t TimerResolution() { return 1; }

}  // namespace hwy::platform
