#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <vector>

namespace cmlc {
namespace {

TEST(ThreadPool, VisitsEveryIndexOnce) {
  for (const int threads : {1, 2, 5})
    for (const size_t count : {0u, 1u, 2u, 7u, 1000u}) {
      ThreadPool pool(threads);
      EXPECT_EQ(pool.threads(), threads);
      std::vector<std::atomic<int>> visits(count);
      pool.For(count, [&](size_t i, int) { ++visits[i]; });
      for (size_t i = 0; i < count; ++i) EXPECT_EQ(visits[i], 1) << i;
    }
}

TEST(ThreadPool, NeverSharesAWorkerNumber) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> busy(4);
  std::atomic<bool> shared = false;
  pool.For(2000, [&](size_t, int worker) {
    if (busy[static_cast<size_t>(worker)].fetch_add(1) != 0) shared = true;
    --busy[static_cast<size_t>(worker)];
  });
  EXPECT_FALSE(shared);
}

TEST(ThreadPool, ALoopInALoopStaysOnItsWorker) {
  ThreadPool pool(3);
  std::atomic<int> total = 0;
  std::atomic<bool> moved = false;
  pool.For(10, [&](size_t, int outer) {
    pool.For(20, [&](size_t, int inner) {
      if (inner != outer) moved = true;
      ++total;
    });
  });
  EXPECT_EQ(total, 200);
  EXPECT_FALSE(moved);
}

TEST(ThreadPool, KnowsWhenALoopWouldStayOnItsThread) {
  ThreadPool single(1);
  EXPECT_TRUE(single.alone());
  ThreadPool pool(3);
  EXPECT_FALSE(pool.alone());
  std::atomic<int> alone = 0;
  pool.For(10, [&](size_t, int) { alone += pool.alone() ? 1 : 0; });
  EXPECT_EQ(alone, 10);
  pool.For(1, [&](size_t, int) { alone = pool.alone() ? 1 : 0; });
  EXPECT_EQ(alone, 0);
}

TEST(ThreadPool, RunsOneLoopAfterTheOther) {
  ThreadPool pool(3);
  std::atomic<int> total = 0;
  for (int i = 0; i < 500; ++i) pool.For(3, [&](size_t, int) { ++total; });
  EXPECT_EQ(total, 1500);
}

TEST(ThreadPool, HasOneThreadForEachProcessorByDefault) {
  ThreadPool pool(0);
  EXPECT_GE(pool.threads(), 1);
}

}  // namespace
}  // namespace cmlc
