#include <cpu/large_blocks.h>

#include <myemb/memory.h>

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <list>
#include <mutex>
#include <new>
#include <optional>
#include <unordered_map>
#include <utility>

namespace myemb {
namespace {

// glibc never keeps a block of 32 MiB. A smaller one it keeps or not, as the sizes of earlier ones
// have it: in a program that does other things, too, bags of 2 MiB took twice as long as alone.
constexpr size_t kLarge = kHugePage;

// From here on scratch memory is worth a block: less than glibc's own DEFAULT_MMAP_THRESHOLD.
constexpr size_t kKeptScratch = size_t{64} << 10;

// A mapping of whole huge pages, or null.
char* map_huge_pages(size_t bytes) {
  const size_t length = bytes + kHugePage;  // room to begin where a page does
  void* mapped = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* begin = static_cast<char*>(mapped);
  const auto address = reinterpret_cast<uintptr_t>(begin);
  const size_t before = up_to_huge_page(address) - address;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, length - before - bytes);
#if defined(MADV_HUGEPAGE)
  madvise(begin + before, bytes, MADV_HUGEPAGE);  // where it fails, pages are small
#endif
  return begin + before;
}

int64_t initial_limit() {
  if (const char* const limit = std::getenv("MYEMB_CACHE_LIMIT")) {
    char* end = nullptr;
    const int64_t bytes = std::strtoll(limit, &end, 10);
    if (end != limit && *end == '\0' && bytes >= 0) return bytes;
    TORCH_WARN("MYEMB_CACHE_LIMIT: expected a number of bytes, but got '", limit, "'");
  }
  const int64_t memory = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  return std::min(memory / 16, int64_t{4} << 30);
}

// The blocks that tensors have, and those that are kept for the next ones.
class Blocks {
 public:
  // Never destroyed: tensors may live longer than any static object.
  static Blocks& instance() {
    static auto* const blocks = new Blocks;
    return *blocks;
  }

  // A block of at least so many bytes, or null if there is no memory.
  char* take(size_t bytes) {
    const size_t rounded = up_to_huge_page(bytes);
    const std::lock_guard lock(mutex_);
    if (char* data = take_kept(rounded)) return data;
    char* data = map_huge_pages(rounded);
    if (!data) {
      drop_until(0);
      data = map_huge_pages(rounded);
    }
    if (data) used_[data] = {rounded, /*zero=*/true};
    return data;
  }

  void give_back(char* data) {
    const std::lock_guard lock(mutex_);
    const auto block = used_.find(data);
    const size_t bytes = block->second.bytes;
    used_.erase(block);
    if (bytes > limit_) {
      munmap(data, bytes);
      return;
    }
    drop_until(limit_ - bytes);
    offer_idle_blocks(bytes);
    kept_.push_front({data, bytes});
    kept_bytes_ += bytes;
  }

  // Whether the block has not been written to since the system gave it, full of zeros.
  bool is_zero(char* data) {
    const std::lock_guard lock(mutex_);
    return used_.at(data).zero;
  }

  void set_limit(size_t bytes) {
    const std::lock_guard lock(mutex_);
    limit_ = bytes;
    drop_until(limit_);
  }

  size_t limit() {
    const std::lock_guard lock(mutex_);
    return limit_;
  }

  void drop_all() {
    const std::lock_guard lock(mutex_);
    drop_until(0);
  }

  size_t kept_bytes() {
    const std::lock_guard lock(mutex_);
    return kept_bytes_;
  }

 private:
  struct Used {
    size_t bytes;
    bool zero;
  };
  struct Kept {
    char* data;
    size_t bytes;
    size_t passed = 0;  // bytes of others that were given back since
  };

  // A child of fork() must not find the lock of a thread that it does not have.
  Blocks() {
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                   [] { instance().mutex_.unlock(); });
  }

  // The smallest that fits, unless a quarter of it would lie idle.
  char* take_kept(size_t bytes) {
    auto best = kept_.end();
    for (auto block = kept_.begin(); block != kept_.end(); ++block) {
      const bool fits = block->bytes >= bytes && block->bytes - bytes <= bytes / 4;
      if (fits && (best == kept_.end() || block->bytes < best->bytes)) best = block;
    }
    if (best == kept_.end()) return nullptr;
    char* const data = best->data;
    used_[data] = {best->bytes, /*zero=*/false};
    kept_bytes_ -= best->bytes;
    kept_.erase(best);
    return data;
  }

  // Lets the system have the pages of blocks that nobody wanted for a while, if it is short of
  // memory. At once would be too early: with two threads, a gradient of 256 MB that is wanted again
  // in the next step took 4.7 ms instead of 3 for it.
  void offer_idle_blocks([[maybe_unused]] size_t bytes) {
#if defined(MADV_FREE)
    constexpr size_t kIdle = 16;  // times its own size
    for (Kept& block : kept_) {
      const bool was_idle = block.passed >= kIdle * block.bytes;
      block.passed += bytes;
      if (!was_idle && block.passed >= kIdle * block.bytes) {
        madvise(block.data, block.bytes, MADV_FREE);
      }
    }
#endif
  }

  // Those first that have been kept the longest.
  void drop_until(size_t bytes) {
    while (kept_bytes_ > bytes) {
      munmap(kept_.back().data, kept_.back().bytes);
      kept_bytes_ -= kept_.back().bytes;
      kept_.pop_back();
    }
  }

  std::mutex mutex_;
  std::unordered_map<char*, Used> used_;
  std::list<Kept> kept_;  // the last that was freed first
  size_t kept_bytes_ = 0;
  size_t limit_ = static_cast<size_t>(initial_limit());
};

// An allocator like PyTorch's own as far as a tensor can tell: it can be resized, shared with other
// processes and profiled.
class LargeBlockAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    char* const data = bytes < kLarge ? nullptr : Blocks::instance().take(bytes);
    if (!data) return c10::GetDefaultCPUAllocator()->allocate(bytes);
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return {data, data, &give_back, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }  // it depends on the size

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  static bool has(const at::Tensor& tensor) {
    return tensor.storage().data_ptr().get_deleter() == &give_back;
  }

 private:
  static void give_back(void* data) {
    c10::profiledCPUMemoryReporter().Delete(data);
    Blocks::instance().give_back(static_cast<char*>(data));
  }
};

LargeBlockAllocator allocator;

bool is_large(at::IntArrayRef shape, const at::TensorOptions& options) {
  size_t bytes = options.dtype().itemsize();
  for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
  return bytes >= kLarge && Blocks::instance().limit() > 0 &&
         c10::GetCPUAllocator() == c10::GetDefaultCPUAllocator();  // unless another one was set
}

at::Tensor large_result(at::IntArrayRef shape, const at::TensorOptions& options) {
  return at::detail::empty_generic(shape, &allocator, c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   c10::typeMetaToScalarType(options.dtype()), std::nullopt);
}

}  // namespace

at::Tensor empty_result(at::IntArrayRef shape, const at::TensorOptions& options) {
  if (is_large(shape, options)) return large_result(shape, options);
  // at::empty is this behind the dispatcher, a tenth of a call on few rows.
  return at::detail::empty_cpu(shape, c10::typeMetaToScalarType(options.dtype()),
                               /*pin_memory=*/false, /*memory_format_opt=*/std::nullopt);
}

MaybeZeros maybe_zeros_result(at::IntArrayRef shape, const at::TensorOptions& options) {
  at::Tensor result = empty_result(shape, options);
  const bool is_zero = LargeBlockAllocator::has(result) &&
                       Blocks::instance().is_zero(static_cast<char*>(result.mutable_data_ptr()));
  return {std::move(result), is_zero};
}

Scratch::Scratch(size_t bytes) : data_(nullptr), kept_(bytes >= kKeptScratch) {
  kept_ = kept_ && Blocks::instance().limit() > 0;
  data_ = kept_ ? Blocks::instance().take(bytes) : nullptr;
  if (data_) return;
  kept_ = false;
  data_ = static_cast<char*>(::operator new(bytes, std::align_val_t{64}));
}

Scratch::Scratch(Scratch&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), kept_(other.kept_), used_(other.used_) {}

Scratch::~Scratch() {
  if (!data_) return;
  if (kept_) {
    Blocks::instance().give_back(data_);
  } else {
    ::operator delete(data_, std::align_val_t{64});
  }
}

void empty_cache() { Blocks::instance().drop_all(); }

void set_cache_limit(int64_t bytes) {
  TORCH_CHECK(bytes >= 0, "set_cache_limit: bytes must not be negative, but is ", bytes);
  Blocks::instance().set_limit(static_cast<size_t>(bytes));
}

int64_t cache_limit() { return static_cast<int64_t>(Blocks::instance().limit()); }

int64_t cached_bytes() { return static_cast<int64_t>(Blocks::instance().kept_bytes()); }

}  // namespace myemb
