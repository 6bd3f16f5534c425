// Options of commands that run a model on data.
#ifndef CMLC_TOOLS_DATA_ARGUMENTS_H_
#define CMLC_TOOLS_DATA_ARGUMENTS_H_

#include <CLI/CLI.hpp>

#include "cmlc/predict.h"

namespace cmlc::tool {

struct DataArguments {
  DataOptions data;
  ExecutionSettings execution;
  bool json = false;
  bool quiet = false;

  // Adds them to a command; the object must live until it has run.
  void Add(CLI::App& app);
};

}  // namespace cmlc::tool

#endif  // CMLC_TOOLS_DATA_ARGUMENTS_H_
