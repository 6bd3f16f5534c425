// The subcommands that run models: `predict` and `compare`.
#ifndef CMLC_TOOLS_RUNNING_H_
#define CMLC_TOOLS_RUNNING_H_

#include <CLI/CLI.hpp>
#include <memory>

namespace cmlc::tool {

class RunningCommands {
 public:
  // Adds both to the command line. The object must live until after Run.
  explicit RunningCommands(CLI::App& root);
  ~RunningCommands();

  // Whether the command line has one of them.
  bool asked() const;
  // Runs it, and gives the exit code.
  int Run();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cmlc::tool

#endif  // CMLC_TOOLS_RUNNING_H_
