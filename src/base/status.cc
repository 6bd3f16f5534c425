#include "cmlc/status.h"

namespace cmlc {

int ExitCode(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return 2;
    case ErrorKind::kBadInput:
      return 3;
    case ErrorKind::kOutput:
      return 4;
    case ErrorKind::kStrict:
      return 6;
    case ErrorKind::kInternal:
      break;
  }
  return 1;
}

}  // namespace cmlc
