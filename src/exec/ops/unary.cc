#include "exec/ops/tables.h"

namespace cmlc::exec {

std::span<const OpKernel> UnaryOps() { return {}; }

}  // namespace cmlc::exec
