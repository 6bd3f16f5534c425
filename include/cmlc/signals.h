// Leaving nothing behind when a signal ends the program.
#ifndef CMLC_SIGNALS_H_
#define CMLC_SIGNALS_H_

namespace cmlc {

// Installs handlers for the signals that end a program (interrupt, terminate, hang-up, bus error,
// ...): they remove what a PackageWriter has begun, then let the signal do its work. A program that
// writes packages calls it once; signals that it handles or ignores already are left to it.
void InstallSignalCleanup();

}  // namespace cmlc

#endif  // CMLC_SIGNALS_H_
