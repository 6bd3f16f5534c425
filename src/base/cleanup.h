// Files that must not outlive a run that is cut short.
#ifndef CMLC_BASE_CLEANUP_H_
#define CMLC_BASE_CLEANUP_H_

#include <filesystem>

#include "cmlc/signals.h"

namespace cmlc {

// Names a file or an empty folder to remove if a signal ends the program, last named first. The
// path need not exist yet. Only calls that are safe inside a signal handler are used there.
void RemoveOnSignal(const std::filesystem::path& path);

// Forgets all of them: the work is complete, or removed already.
void ForgetRemovals();

}  // namespace cmlc

#endif  // CMLC_BASE_CLEANUP_H_
