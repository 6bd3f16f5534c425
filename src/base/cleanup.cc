// The list is an array of C strings that only grows, published by an atomic count, because a signal
// handler may run at any moment and may neither lock nor allocate. A thread that is still writing
// while the handler runs can only create files whose names are on the list already: names are
// added before the files are made. Two sweeps catch a file made between the first one and the end.
#include "base/cleanup.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace cmlc {
namespace {

constexpr size_t kMostPaths = 8192;
std::array<std::atomic<char*>, kMostPaths> paths;
std::atomic<size_t> path_count{0};
std::mutex mutex;

constexpr std::array kSignals = {SIGINT,  SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGBUS,
                                 SIGSEGV, SIGABRT, SIGFPE, SIGILL,  SIGXCPU, SIGXFSZ};

void Say(const char* text) {
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
}

void RemoveAndDie(int signal) {
  const size_t count = path_count.load(std::memory_order_acquire);
  for (int sweep = 0; sweep < 2; ++sweep)
    for (size_t i = count; i-- > 0;) {
      const char* path = paths[i].load(std::memory_order_acquire);
      if (path == nullptr) continue;
      if (unlink(path) != 0) rmdir(path);
    }
  if (signal == SIGBUS) Say("cmlc: a file was cut short while it was read\n");
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

void InstallSignalCleanup() {
  for (const int signal : kSignals) {
    struct sigaction action {};
    struct sigaction before {};
    if (sigaction(signal, nullptr, &before) != 0 || before.sa_handler != SIG_DFL) continue;
    action.sa_handler = RemoveAndDie;
    sigfillset(&action.sa_mask);
    sigaction(signal, &action, nullptr);
  }
}

void RemoveOnSignal(const std::filesystem::path& path) {
  const std::lock_guard lock(mutex);
  const size_t index = path_count.load(std::memory_order_relaxed);
  if (index >= kMostPaths) return;  // the rest would need a package of thousands of extra files
  std::free(paths[index].exchange(strdup(path.c_str()), std::memory_order_acq_rel));
  path_count.store(index + 1, std::memory_order_release);
}

void ForgetRemovals() {
  const std::lock_guard lock(mutex);
  path_count.store(0, std::memory_order_release);  // slots are freed when they are used again
}

}  // namespace cmlc
