// The subcommands that collect statistics of activations: `calibrate` and `stats`.
#ifndef CMLC_TOOLS_CALIBRATING_H_
#define CMLC_TOOLS_CALIBRATING_H_

#include <CLI/CLI.hpp>
#include <memory>

namespace cmlc::tool {

class CalibratingCommands {
 public:
  // Adds them to the command line. The object must live until after Run.
  explicit CalibratingCommands(CLI::App& root);
  ~CalibratingCommands();

  // Whether the command line has one of them.
  bool asked() const;
  // Runs it, and gives the exit code.
  int Run();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cmlc::tool

#endif  // CMLC_TOOLS_CALIBRATING_H_
