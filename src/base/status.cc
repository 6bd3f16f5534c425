#include "cmlc/status.h"

#include <fmt/format.h>

namespace cmlc {

Error::Error(ErrorKind error_kind, std::string text) : kind(error_kind) {
  for (const char c : text) {
    if (const auto code = static_cast<unsigned char>(c); code < 0x20 || code == 0x7f)
      message += fmt::format("\\x{:02x}", code);
    else
      message.push_back(c);
  }
}

int ExitCode(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return 2;
    case ErrorKind::kBadInput:
      return 3;
    case ErrorKind::kOutput:
      return 4;
    case ErrorKind::kMissed:
      return 5;
    case ErrorKind::kStrict:
      return 6;
    case ErrorKind::kInternal:
      break;
  }
  return 1;
}

}  // namespace cmlc
