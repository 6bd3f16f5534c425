// Damage to files, as a seed decides: the same everywhere.
#ifndef CMLC_TESTS_SUPPORT_DAMAGE_H_
#define CMLC_TESTS_SUPPORT_DAMAGE_H_

#include <random>
#include <string>

namespace cmlc::test {

using Random = std::mt19937_64;

// Does one thing to `bytes`: flips a bit, cuts, inserts, puts an extreme number in, ... `other`: a
// file from which pieces may come.
void Damage(std::string& bytes, const std::string& other, Random& random);

}  // namespace cmlc::test

#endif  // CMLC_TESTS_SUPPORT_DAMAGE_H_
