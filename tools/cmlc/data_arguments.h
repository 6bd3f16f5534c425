// Options of commands that run a model on data.
#ifndef CMLC_TOOLS_DATA_ARGUMENTS_H_
#define CMLC_TOOLS_DATA_ARGUMENTS_H_

#include <CLI/CLI.hpp>
#include <string>

#include "cmlc/predict.h"

namespace cmlc::tool {

struct DataArguments {
  DataOptions data;
  ExecutionSettings execution;
  bool json = false;
  bool quiet = false;

  // Adds them to a command; the object must live until it has run.
  void Add(CLI::App& app);
  // For commands with --threads, --json and --quiet of their own: where data comes from, under this
  // name, and how the model is run on it.
  void AddData(CLI::App& app, const std::string& name);
  void AddExecution(CLI::App& app);
};

}  // namespace cmlc::tool

#endif  // CMLC_TOOLS_DATA_ARGUMENTS_H_
