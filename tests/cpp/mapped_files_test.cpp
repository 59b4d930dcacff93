// Tables in mapped files: which pages a batch asks for, and that they are the rows' own.

#include <myemb/memory.h>
#include <myemb/ops.h>

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "testing.h"

namespace myemb {
namespace {

using testing::expect_error;
using testing::longs;

// A file of the current folder, which is on a disk more often than /tmp is; gone with this object.
class TemporaryFile {
 public:
  TemporaryFile() : path_("./myemb_XXXXXX") { close(mkstemp(path_.data())); }
  ~TemporaryFile() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class MappedFiles : public ::testing::Test {
 protected:
  at::Tensor map(at::IntArrayRef shape) const {
    return at::from_file(file_.path(), /*shared=*/true, c10::multiply_integers(shape), at::kFloat)
        .view(shape);
  }

  const int64_t page_ = sysconf(_SC_PAGESIZE);
  const int64_t floats_ = page_ / 4;  // of a page
  TemporaryFile file_;
};

TEST_F(MappedFiles, PagesOfRows) {
  const at::Tensor table = map({40 * floats_ / 64, 64});
  const int64_t rows = floats_ / 64;  // of a page
  EXPECT_EQ(prefetch_rows(table, longs({})), 0);
  EXPECT_EQ(prefetch_rows(table, longs({0, rows - 1, 0})), page_);
  EXPECT_EQ(prefetch_rows(table, longs({0, rows})), 2 * page_);
  EXPECT_EQ(prefetch_rows(table, longs({39 * rows, 5, 39 * rows + 1}).view({1, 3})), 2 * page_);
  EXPECT_EQ(prefetch_rows(table, at::arange(table.size(0)).flip(0)), 40 * page_);
  for (const auto type : testing::kIndexTypes) {
    EXPECT_EQ(prefetch_rows(table, longs({1, 2 * rows}).to(type)), 2 * page_);
  }
}

TEST_F(MappedFiles, PagesOfRowsThatCrossPages) {
  const at::Tensor table = map({30, floats_ + 1});
  EXPECT_EQ(prefetch_rows(table, longs({0})), 2 * page_);
  EXPECT_EQ(prefetch_rows(table, longs({0, 1, 2})), 4 * page_);
  EXPECT_EQ(prefetch_rows(table, longs({0, 28})), 4 * page_);
}

TEST_F(MappedFiles, PagesOfWideRowsViewsAndStates) {
  const at::Tensor table = map({3, 100 * floats_});
  EXPECT_EQ(prefetch_rows(table, longs({2, 0})), 200 * page_);
  EXPECT_EQ(prefetch_rows(table, longs({2, 1, 0})), 300 * page_);
  EXPECT_EQ(prefetch_rows(table.narrow(1, 10, floats_ - 10), longs({2, 0})), 2 * page_);
  EXPECT_EQ(prefetch_rows(table.slice(0, 1), longs({0, 1})), 200 * page_);
  EXPECT_EQ(prefetch_rows(table.select(0, 0), longs({0, floats_})), 2 * page_);  // (V)
  EXPECT_EQ(prefetch_rows(table.narrow(1, 0, 0), longs({0})), 0);
  EXPECT_EQ(prefetch_rows(table.t(), longs({0, 1, 5 * floats_})), 6 * page_);  // column by column
  EXPECT_EQ(prefetch_rows(table.view({3, 100, floats_}).transpose(1, 2), longs({1})), 100 * page_);
}

// What the system was asked for is in memory soon, and nothing else of the file is.
TEST_F(MappedFiles, PagesAreRead) {
  struct statfs system;
  ASSERT_EQ(statfs(file_.path().c_str(), &system), 0);
  if (system.f_type == TMPFS_MAGIC) GTEST_SKIP() << "a file in memory has nothing to be read";
  constexpr int64_t kPages = 4096;
  ASSERT_EQ(truncate(file_.path().c_str(), kPages * page_), 0);
  const at::Tensor table = map({kPages, floats_});
  prefetch_rows(table, longs({7, 2000, 2001}));
  std::vector<unsigned char> present(kPages);
  for (int tries = 0; tries < 500 && !(present[7] && present[2000] && present[2001]); ++tries) {
    usleep(10'000);
    ASSERT_EQ(mincore(table.data_ptr(), table.nbytes(), present.data()), 0);
    for (auto& page : present) page &= 1;
  }
  EXPECT_TRUE(present[7] && present[2000] && present[2001]);
  EXPECT_LT(std::count(present.begin(), present.end(), 1), kPages / 2);
}

TEST_F(MappedFiles, Refused) {
  const at::Tensor table = map({10, 4});
  expect_error<c10::IndexError>("index 10 at position 1 is not in [0, 10)",
                                [&] { prefetch_rows(table, longs({3, 10, -1})); });
  expect_error<c10::IndexError>("index -1 at position 0",
                                [&] { prefetch_rows(table, longs({-1})); });
  expect_error<c10::Error>("prefetch_rows", [&] { prefetch_rows(table, at::ones({2})); });
  expect_error<c10::Error>("expected a table of rows",
                           [&] { prefetch_rows(at::ones({}), longs({0})); });
  expect_error<c10::Error>("prefetch_rows: expected a dense CPU tensor",
                           [&] { prefetch_rows(table.to(at::kMeta), longs({0})); });
  expect_error<c10::Error>("flush: expected a dense CPU tensor", [&] { flush(table.to_sparse()); });
}

TEST_F(MappedFiles, Flush) {
  const at::Tensor table = map({1000, 10});
  table.copy_(at::randn({1000, 10}));
  flush(table);
  flush(table.slice(0, 5, 7));
  flush(at::ones({3}));
  flush(at::ones({0}));
  EXPECT_TRUE(at::equal(map({1000, 10}), table));
}

// Lookups and an update in place, through another mapping of the file, equal those in memory.
TEST_F(MappedFiles, UpdateInPlace) {
  const at::Tensor table = map({50, 8});
  table.copy_(at::randn({50, 8}));
  const at::Tensor expected = table.clone();
  const at::Tensor indices = longs({4, 4, 49, 0}), grad = at::randn({4, 8});
  EXPECT_TRUE(at::equal(myemb::embedding(table, indices), expected.index_select(0, indices)));
  embedding_update_(table, {}, grad, {.lr = 0.5}, {.indices = indices.view({4, 1})});
  expected.index_add_(0, indices, grad, -0.5);
  EXPECT_TRUE(testing::close(map({50, 8}), expected, 1e-6));
}

}  // namespace
}  // namespace myemb
