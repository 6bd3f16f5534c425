#include "support/damage.h"

#include <cstdint>
#include <cstring>
#include <iterator>

namespace cmlc::test {
namespace {

// Numbers at which arithmetic goes wrong.
constexpr uint64_t kExtremes[] = {
    0,          1,         0x7f,       0x80,       0xff,           0x7fff,
    0x8000,     0xffff,    0x7fffffff, 0x80000000, 0xffffffff,     1ull << 32,
    1ull << 62, INT64_MAX, 1ull << 63, UINT64_MAX, UINT64_MAX - 63};

}  // namespace

void Damage(std::string& bytes, const std::string& other, Random& random) {
  const auto below = [&](size_t bound) { return bound == 0 ? 0 : random() % bound; };
  const size_t at = below(bytes.size());
  switch (below(9)) {
    case 0:
    case 1:  // a flipped bit
      if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
      break;
    case 2:  // another byte
      if (!bytes.empty()) bytes[at] = static_cast<char>(random());
      break;
    case 3:  // the end is missing
      bytes.resize(at);
      break;
    case 4:  // something in between is missing
      bytes.erase(at, below(32));
      break;
    case 5: {  // something too much
      std::string more(below(16), '\0');
      for (char& c : more) c = static_cast<char>(random());
      bytes.insert(at, more);
      break;
    }
    case 6: {  // a piece of this or another file
      const std::string& from = below(2) == 0 ? bytes : other;
      const std::string piece = from.substr(below(from.size()), below(64));
      if (below(2) == 0)
        bytes.insert(at, piece);
      else
        bytes.replace(at, piece.size(), piece);
      break;
    }
    case 7: {  // an extreme number, as it lies in a weights file
      const uint64_t number = kExtremes[below(std::size(kExtremes))];
      const size_t width = below(2) == 0 ? 4 : 8;
      const size_t aligned = at / 4 * 4;
      if (aligned + width <= bytes.size()) std::memcpy(bytes.data() + aligned, &number, width);
      break;
    }
    default: {  // an extreme number, as it lies in a message
      uint64_t number = kExtremes[below(std::size(kExtremes))];
      std::string varint;
      for (; number >= 0x80; number >>= 7)
        varint.push_back(static_cast<char>((number & 0x7f) | 0x80));
      varint.push_back(static_cast<char>(number));
      bytes.replace(at, below(3), varint);
      break;
    }
  }
}

}  // namespace cmlc::test
