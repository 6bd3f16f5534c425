#include <array>

#include "cmlc/pass.h"

namespace cmlc {

#define CMLC_PASS(factory) PassInfo factory();
#include "passes/passes.def"
#undef CMLC_PASS

std::span<const PassInfo> AllPasses() {
#define CMLC_PASS(factory) factory(),
  static const std::array passes = {
#include "passes/passes.def"
  };
#undef CMLC_PASS
  return passes;
}

const PassInfo* FindPass(std::string_view name) {
  for (const PassInfo& info : AllPasses())
    if (info.name == name) return &info;
  return nullptr;
}

}  // namespace cmlc
