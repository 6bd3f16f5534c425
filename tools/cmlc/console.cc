#include "console.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>

#include "text.h"

namespace cmlc::tool {
namespace {

constexpr auto kRedraw = std::chrono::milliseconds(200);
constexpr auto kPlainLine = std::chrono::seconds(10);

}  // namespace

Console::Console(bool quiet, bool verbose)
    : quiet_(quiet), verbose_(verbose), terminal_(isatty(STDERR_FILENO) != 0) {
  auto logger = spdlog::stderr_logger_st("cmlc");
  logger->set_pattern("%v");
  logger->set_level(quiet ? spdlog::level::err : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

Console::~Console() {
  EndProgress();
  spdlog::shutdown();
}

void Console::EndProgress() {
  if (!drawn_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  drawn_ = false;
}

void Console::Note(std::string message) {
  EndProgress();
  spdlog::info("note: {}", message);
}

void Console::Warning(std::string message) {
  EndProgress();
  spdlog::warn("warning: {}", message);
}

void Console::Failure(const Error& error) {
  EndProgress();
  spdlog::error("error: {}", error.message);
}

void Console::Say(std::string_view line) {
  EndProgress();
  spdlog::info("{}", line);
}

void Console::Report(const Progress& progress) {
  if (quiet_) return;
  const auto now = Clock::now();
  const auto since = now - last_;
  if (since < (terminal_ ? std::chrono::duration_cast<Clock::duration>(kRedraw)
                         : std::chrono::duration_cast<Clock::duration>(kPlainLine)))
    return;
  last_ = now;
  std::string line = fmt::format("{}: {} of {} {}", progress.stage, progress.weights_done,
                                 progress.weights_total, progress.noun);
  if (progress.bytes_total > 0)
    line += fmt::format(", {} of {} MB", Thousands(progress.bytes_done / 1'000'000),
                        Thousands(progress.bytes_total / 1'000'000));
  if (progress.bytes_done > 0) {
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    const double left = elapsed * static_cast<double>(progress.bytes_total - progress.bytes_done) /
                        static_cast<double>(progress.bytes_done);
    line += fmt::format(", {:.0f} s left", left);
  }
  if (!terminal_) {
    spdlog::info("{}", line);
    return;
  }
  std::fprintf(stderr, "\r%s\033[K", line.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace cmlc::tool
