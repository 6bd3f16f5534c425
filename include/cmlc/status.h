// What goes wrong, and how it is handed up.
//
// Three kinds of trouble have three answers. Bad input, a bad disk or a request that cannot be met
// is an `Error` inside a `Result`. Something worth knowing while work goes on is a note or warning
// to `Diagnostics`. A broken promise of our own code stops the program (CMLC_CHECK).
#ifndef CMLC_STATUS_H_
#define CMLC_STATUS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace cmlc {

// What kind of trouble; the program's exit code is made from it (see ExitCode).
enum class ErrorKind {
  kUsage,     // an option, a rule or a combination of them cannot be met
  kBadInput,  // the input is missing, truncated, corrupt or not what it should be
  kOutput,    // the output cannot be written
  kMissed,    // a comparison misses a threshold
  kStrict,    // something asked for by name was skipped, and --strict was given
  kInternal,  // a fault of cmlc itself
};

// `message` is one line that starts small, ends without a period, and names the thing: the file or
// the option, what was found, what was expected, and what would help.
struct Error {
  Error() = default;
  // Control characters in `text`, which may come from names in a file, are written as escapes.
  Error(ErrorKind error_kind, std::string text);

  ErrorKind kind = ErrorKind::kInternal;
  std::string message;
};

// The exit code of a run that ends in this kind of error: 2 usage, 3 bad input, 4 output,
// 5 a missed threshold, 6 strict, 1 internal. (0 is success.)
int ExitCode(ErrorKind kind);

// Either a value or an error. `ok()` must be asked before either is taken.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit

  bool ok() const { return state_.index() == 0; }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

// Success, or an error.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}  // NOLINT: implicit

  bool ok() const { return !error_.has_value(); }
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

inline Status Ok() { return Status(); }

#define CMLC_CONCAT_INNER(a, b) a##b
#define CMLC_CONCAT(a, b) CMLC_CONCAT_INNER(a, b)

// Hands an error up to the caller.
#define CMLC_RETURN_IF_ERROR(expression)                                                \
  do {                                                                                  \
    if (auto cmlc_status = (expression); !cmlc_status.ok()) return cmlc_status.error(); \
  } while (false)

// `CMLC_ASSIGN_OR_RETURN(auto x, F())`: x gets the value of F(), or its error is handed up.
#define CMLC_ASSIGN_OR_RETURN(declaration, expression) \
  CMLC_ASSIGN_OR_RETURN_INNER(CMLC_CONCAT(cmlc_result_, __LINE__), declaration, expression)
#define CMLC_ASSIGN_OR_RETURN_INNER(result, declaration, expression) \
  auto result = (expression);                                        \
  if (!result.ok()) return result.error();                           \
  declaration = std::move(result).value()

}  // namespace cmlc

#endif  // CMLC_STATUS_H_
