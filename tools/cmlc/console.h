// The program's voice: diagnostics and progress to stderr, results to stdout.
#ifndef CMLC_TOOLS_CONSOLE_H_
#define CMLC_TOOLS_CONSOLE_H_

#include <chrono>
#include <string>
#include <string_view>

#include "cmlc/diagnostics.h"
#include "cmlc/status.h"

namespace cmlc::tool {

class Console final : public Diagnostics {
 public:
  // `quiet`: nothing but errors. `verbose`: every weight that is left alone, too.
  Console(bool quiet, bool verbose);
  ~Console() override;

  void Note(std::string message) override;
  void Warning(std::string message) override;
  // On a terminal one line that is redrawn a few times a second; elsewhere a plain line now and
  // then, so that a log shows that there is life.
  void Report(const Progress& progress) override;
  void Failure(const Error& error);

  // A line of the summary.
  void Say(std::string_view line);
  // Wipes the progress line.
  void EndProgress();

  bool verbose() const { return verbose_; }

 private:
  using Clock = std::chrono::steady_clock;
  bool quiet_;
  bool verbose_;
  bool terminal_;
  bool drawn_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = Clock::now();
};

}  // namespace cmlc::tool

#endif  // CMLC_TOOLS_CONSOLE_H_
