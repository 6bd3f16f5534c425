#include "storage/recycled_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "base/thread_pool.h"

namespace cmlc {
namespace {

struct Piece {
  std::byte* at;
  size_t size;
  std::byte value;
};

bool Holds(const Piece& piece) {
  return std::all_of(piece.at, piece.at + piece.size,
                     [&](std::byte byte) { return byte == piece.value; });
}

// Takes and gives back in random order; what was written must stay until it is given back.
int Churn(unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Piece> pieces;
  int wrong = 0;
  const auto give_back = [&](size_t i) {
    if (!Holds(pieces[i])) ++wrong;
    GiveBackRecycled(pieces[i].at);
    pieces[i] = pieces.back();
    pieces.pop_back();
  };
  for (int turn = 0; turn < 300; ++turn) {
    if (pieces.size() > 20 || (!pieces.empty() && random() % 3 == 0)) {
      give_back(random() % pieces.size());
      continue;
    }
    const size_t size = random() % 4 == 0 ? random() % 3'000'000 : random() % 1000;
    const Piece piece = {TakeRecycled(size), size, static_cast<std::byte>(random() % 251)};
    if (reinterpret_cast<uintptr_t>(piece.at) % 64 != 0) ++wrong;
    std::fill_n(piece.at, size, piece.value);
    pieces.push_back(piece);
  }
  while (!pieces.empty()) give_back(pieces.size() - 1);
  return wrong;
}

TEST(RecycledMemory, PiecesDoNotOverlap) { EXPECT_EQ(Churn(1), 0); }

TEST(RecycledMemory, ServesThreads) {
  ThreadPool pool(3);
  std::vector<int> wrong(6);
  pool.For(wrong.size(), [&](size_t i, int) { wrong[i] = Churn(static_cast<unsigned>(i)); });
  EXPECT_EQ(wrong, std::vector<int>(6, 0));
}

TEST(RecycledMemory, IsUsedAgain) {
  std::byte* const first = TakeRecycled(1000);
  GiveBackRecycled(first);
  std::byte* const second = TakeRecycled(1000);
  EXPECT_EQ(first, second);
  GiveBackRecycled(second);
  GiveBackRecycled(nullptr);
}

TEST(RecycledMemory, GivesMoreThanASlab) {
  const size_t size = size_t{20} << 20;
  std::byte* const memory = TakeRecycled(size);
  memory[0] = memory[size - 1] = std::byte{7};
  EXPECT_EQ(memory[size - 1], std::byte{7});
  GiveBackRecycled(memory);
}

}  // namespace
}  // namespace cmlc
