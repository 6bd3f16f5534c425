// CMLC_CHECK(condition): stops the program if one of our own promises is broken. For what a file or
// a user may get wrong there is Result instead.
#ifndef CMLC_BASE_CHECK_H_
#define CMLC_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>

#define CMLC_CHECK(condition)                                                                    \
  do {                                                                                           \
    if (!(condition)) {                                                                          \
      std::fprintf(stderr, "cmlc: internal error: %s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                              \
    }                                                                                            \
  } while (false)

#endif  // CMLC_BASE_CHECK_H_
