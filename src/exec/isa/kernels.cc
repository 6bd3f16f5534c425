// Which level this processor has. It is asked for itself, not by names of features, as compilers
// know different sets of those; and the system must save the wide registers, too.
#include "exec/isa/kernels.h"

#include <algorithm>
#include <atomic>
#include <vector>

#ifdef CMLC_ISA_LEVELS
#include <cpuid.h>
#endif

namespace cmlc::exec {

const IsaKernels* KernelsV1();
#ifdef CMLC_ISA_LEVELS
const IsaKernels* KernelsV3();
#endif

namespace {

#ifdef CMLC_ISA_LEVELS

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers Cpuid(unsigned leaf) {
  Registers r;
  if (__get_cpuid_count(leaf, 0, &r.a, &r.b, &r.c, &r.d) == 0) return {};
  return r;
}

constexpr unsigned Bits(std::initializer_list<int> positions) {
  unsigned bits = 0;
  for (const int position : positions) bits |= 1u << position;
  return bits;
}

// What of its state the operating system saves when it switches threads (XCR0).
unsigned SavedState() {
  unsigned low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool Has(unsigned have, unsigned wanted) { return (have & wanted) == wanted; }

// Level 3: AVX2, BMI1, BMI2, F16C, FMA, LZCNT and MOVBE on top of level 2. There is nothing for
// level 4 (AVX-512) yet: kernels for it are worth having once they can be tested on such a
// processor.
bool HasLevel3() {
  const Registers basic = Cpuid(1), extended = Cpuid(7), amd = Cpuid(0x80000001u);
  // SSE3, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, OSXSAVE, AVX, F16C
  if (!Has(basic.c, Bits({0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29}))) return false;
  if (!Has(amd.c, Bits({0, 5}))) return false;          // LAHF, LZCNT
  if (!Has(extended.b, Bits({3, 5, 8}))) return false;  // BMI1, AVX2, BMI2
  return Has(SavedState(), Bits({1, 2}));
}

#endif

std::vector<const IsaKernels*> Supported() {
  std::vector<const IsaKernels*> kernels = {KernelsV1()};
#ifdef CMLC_ISA_LEVELS
  if (HasLevel3()) kernels.push_back(KernelsV3());
#endif
  return kernels;
}

std::atomic<const IsaKernels*>& Current() {
  static std::atomic<const IsaKernels*> current = SupportedKernels().back();
  return current;
}

}  // namespace

std::span<const IsaKernels* const> SupportedKernels() {
  static const std::vector<const IsaKernels*> kernels = Supported();
  return kernels;
}

const IsaKernels& Kernels() { return *Current().load(std::memory_order_relaxed); }

bool PinKernels(std::string_view name) {
  const auto supported = SupportedKernels();
  const auto found = std::find_if(supported.begin(), supported.end(),
                                  [&](const IsaKernels* one) { return one->name == name; });
  if (found == supported.end()) return false;
  Current().store(*found, std::memory_order_relaxed);
  return true;
}

}  // namespace cmlc::exec
