// Where notes, warnings and progress go.
//
// The library never prints. It hands what it has to say to a Diagnostics, and only the program
// that owns it decides what becomes text, and where.
#ifndef CMLC_DIAGNOSTICS_H_
#define CMLC_DIAGNOSTICS_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace cmlc {

// How far a long piece of work has come.
struct Progress {
  std::string_view stage;  // "palettize", "read", ...
  int64_t weights_done = 0;
  int64_t weights_total = 0;
  uint64_t bytes_done = 0;            // of `bytes_total`, the bytes of the weights before the pass
  uint64_t bytes_total = 0;           // 0: bytes say nothing here
  std::string_view noun = "weights";  // what is counted, where it is something else
};

class Diagnostics {
 public:
  virtual ~Diagnostics() = default;

  // Something a user should know although all is well. One line, no period at the end.
  virtual void Note(std::string message) = 0;

  // Something that is probably not what the user wants.
  virtual void Warning(std::string message) = 0;

  // Called from the thread that started the work, at most a few thousand times in a run. The
  // receiver decides how often to show it.
  virtual void Report(const Progress& progress) = 0;
};

}  // namespace cmlc

#endif  // CMLC_DIAGNOSTICS_H_
