#include "cmlc/predict.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/thread_pool.h"
#include "cmlc/package.h"
#include "exec/executable.h"
#include "exec/isa/kernels.h"
#include "predict/data.h"
#include "predict/output.h"
#include "predict/run.h"
#include "predict/target.h"

namespace cmlc {

namespace predict {

Status CheckOutputs(const std::vector<std::string>& names, const std::vector<exec::Value>& values,
                    const std::string& place) {
  for (size_t i = 0; i < values.size(); ++i) {
    const exec::Value::Kind kind = values[i].kind;
    if (kind != exec::Value::Kind::kTensor && kind != exec::Value::Kind::kStrings &&
        kind != exec::Value::Kind::kDictionary)
      return Error{ErrorKind::kBadInput,
                   fmt::format("{}: output '{}' is {}, expected a tensor, a string or a dictionary",
                               place, names[i], exec::ToString(values[i]))};
  }
  return Ok();
}

Result<std::vector<exec::Value>> RunStep(exec::Runner& runner, const exec::Executable& executable,
                                         const Target& target, const Sample& sample, size_t step) {
  CMLC_ASSIGN_OR_RETURN(auto values,
                        BindAll(target, sample.steps[step], sample.name, runner.memory()));
  Result<std::vector<exec::Value>> outputs = runner.Run(std::move(values));
  if (!outputs.ok()) return outputs.error();
  CMLC_RETURN_IF_ERROR(CheckOutputs(executable.outputs(), *outputs, target.place));
  for (exec::Value& output : *outputs) {
    CMLC_ASSIGN_OR_RETURN(output, exec::Resident(output, runner.memory()));
  }
  return outputs;
}

Status ChooseIsa(const ExecutionSettings& settings) {
  const auto supported = exec::SupportedKernels();
  const std::string name = settings.isa.empty() ? supported.back()->name : settings.isa;
  if (exec::PinKernels(name)) return Ok();
  std::string names;
  for (const exec::IsaKernels* kernels : supported)
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  return Error{ErrorKind::kUsage, fmt::format("--isa '{}': this processor has {}", name, names)};
}

exec::ExecutionOptions OptionsOf(const ExecutionSettings& settings, uint64_t seed) {
  exec::ExecutionOptions options;
  options.max_memory_bytes = settings.max_memory_bytes;
  options.max_steps = settings.max_steps;
  options.lenient_indices = settings.lenient_indices;
  options.seed = seed;
  return options;
}

}  // namespace predict

Result<PredictReport> Predict(const PredictOptions& options, Diagnostics& diagnostics) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  // An input is never written to, not even at the end.
  std::error_code code;
  if (!options.output.empty())
    for (const std::string& input : options.data.inputs)
      for (const std::string& file : {input, input.substr(input.find('=') + 1)})
        if (std::filesystem::equivalent(file, options.output, code))
          return Error{ErrorKind::kUsage, fmt::format("{}: is an input, expected another output",
                                                      options.output.string())};
  CMLC_RETURN_IF_ERROR(predict::ChooseIsa(options.execution));
  CMLC_ASSIGN_OR_RETURN(const std::unique_ptr<Package> package, Package::Open(options.model));
  CMLC_ASSIGN_OR_RETURN(const predict::Target target,
                        predict::FindTarget(*package, options.execution.function, diagnostics));
  CMLC_ASSIGN_OR_RETURN(const std::unique_ptr<exec::Executable> executable,
                        exec::Executable::Prepare(*target.program, target.function,
                                                  package->tensors(), target.place));
  CMLC_ASSIGN_OR_RETURN(const std::unique_ptr<predict::DataReader> data,
                        predict::DataReader::Open(target, options.data, diagnostics));
  PredictReport report;
  report.function = target.function;
  report.data = data->origin();
  report.isa = exec::Kernels().name;
  report.samples = data->sample_count();
  for (const std::string& name : executable->outputs()) report.outputs.push_back({name, "", ""});

  ThreadPool pool(options.execution.threads);
  exec::Runner runner(*executable, pool, predict::OptionsOf(options.execution, options.data.seed));
  CMLC_ASSIGN_OR_RETURN(const std::unique_ptr<predict::OutputWriter> writer,
                        predict::MakeOutputWriter(options.output, executable->outputs(),
                                                  /*sequences=*/target.has_states, report));
  for (uint64_t i = 0; i < data->sample_count(); ++i) {
    CMLC_ASSIGN_OR_RETURN(const predict::Sample sample, data->Next());
    if (!sample.continues) runner.ResetStates();
    CMLC_RETURN_IF_ERROR(writer->StartSample(sample.continues));
    for (size_t step = 0; step < sample.steps.size(); ++step) {
      CMLC_ASSIGN_OR_RETURN(const std::vector<exec::Value> outputs,
                            predict::RunStep(runner, *executable, target, sample, step));
      CMLC_RETURN_IF_ERROR(writer->Add(outputs));
      if (report.steps++ == 0)
        for (size_t k = 0; k < outputs.size(); ++k)
          report.outputs[k].type = exec::ToString(outputs[k]);
    }
    diagnostics.Report({.stage = "predict",
                        .weights_done = static_cast<int64_t>(i + 1),
                        .weights_total = static_cast<int64_t>(data->sample_count()),
                        .noun = "samples"});
  }
  CMLC_RETURN_IF_ERROR(writer->Finish(report));
  for (std::string& note : runner.TakeNotes()) diagnostics.Note(std::move(note));
  report.peak_bytes = runner.memory().peak_bytes();
  report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return report;
}

}  // namespace cmlc
