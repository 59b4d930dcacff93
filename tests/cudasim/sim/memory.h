// Device memory as the simulator sees it: which addresses exist, which bytes were written, who
// touched them last.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <new>
#include <utility>
#include <vector>

namespace cudasim {

// Zeros that cost memory only where they are touched: the shadow of a table of many gigabytes is
// mostly untouched.
template <class T>
class LazyArray {
 public:
  LazyArray() = default;
  explicit LazyArray(size_t size) : size_(size) {
    if (bytes() < kMapFrom) {
      data_ = static_cast<T*>(std::calloc(size == 0 ? 1 : size, sizeof(T)));
    } else {
      void* map = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      data_ = map == MAP_FAILED ? nullptr : static_cast<T*>(map);
    }
    if (data_ == nullptr) throw std::bad_alloc();
  }
  LazyArray(LazyArray&& other) noexcept { swap(other); }
  LazyArray& operator=(LazyArray&& other) noexcept {
    swap(other);
    return *this;
  }
  ~LazyArray() {
    if (bytes() < kMapFrom) {
      std::free(data_);
    } else {
      munmap(data_, bytes());
    }
  }

  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  size_t size() const { return size_; }

 private:
  static constexpr size_t kMapFrom = size_t{1} << 20;
  size_t bytes() const { return size_ * sizeof(T); }
  void swap(LazyArray& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  T* data_ = nullptr;
  size_t size_ = 0;
};

// One bit per byte of a range, all equal at first.
class ByteFlags {
 public:
  ByteFlags() = default;
  ByteFlags(size_t bytes, bool initial)
      : bytes_(bytes), initial_(initial), changed_(bytes / 64 + 2) {}

  // `count` <= 64 bytes from an offset that is aligned to a power of two >= count.
  bool all_set(size_t offset, unsigned count) const {
    return ((word(offset / 64) >> offset % 64) & ones(count)) == ones(count);
  }
  // Of the same bytes, those whose bit is set in `which`.
  bool all_set_of(size_t offset, unsigned count, uint64_t which) const {
    const uint64_t bits = ones(count) & which;
    return ((word(offset / 64) >> offset % 64) & bits) == bits;
  }
  void set_aligned(size_t offset, unsigned count) {
    const uint64_t bits = ones(count) << offset % 64;
    if (initial_) {
      changed_[offset / 64] &= ~bits;
    } else {
      changed_[offset / 64] |= bits;
    }
  }

  void assign(size_t offset, size_t count, bool value);
  size_t count_clear(size_t offset, size_t count) const;
  void reset();

 private:
  static uint64_t ones(unsigned count) {
    return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
  }
  uint64_t word(size_t i) const { return initial_ ? ~changed_[i] : changed_[i]; }

  size_t bytes_ = 0;
  bool initial_ = false;
  LazyArray<uint64_t> changed_;  // where the flag is not `initial_`
};

// The threads that last read, or last wrote, a granule of memory.
struct Accessors {
  uint32_t block = 0;  // serial number of the block over all launches; 0: nobody yet
  uint32_t epoch = 0;  // barriers that the block had passed
  uint32_t clock = 0;  // __syncwarp()s that the lanes had passed
  uint32_t lanes = 0;
  uint8_t warp = 0;
  bool synchronising = false;  // all of them by atomics, volatile, relaxed, ... accesses
  bool several_warps = false;
  bool several_blocks = false;
  bool released = false;  // writers: a fence came before, so who sees the value sees what the block
                          // wrote earlier
};

struct Granule {
  Accessors readers, writers;
};

// A range of addresses with everything known about it.
class Region {
 public:
  Region(uint64_t begin, size_t bytes, unsigned char* data, bool initialised);

  bool contains(uint64_t address, unsigned bytes) const {
    return address >= begin_ && address - begin_ + bytes <= bytes_ && address - begin_ < bytes_;
  }
  uint64_t begin() const { return begin_; }
  uint64_t end() const { return begin_ + bytes_; }
  size_t bytes() const { return bytes_; }
  unsigned char* data(uint64_t address) const { return data_ + (address - begin_); }

  // Flags are indexed from an aligned address at or before `begin`.
  size_t flag(uint64_t address) const { return address - origin_; }
  ByteFlags& written() { return written_; }

  // Granules start at 4 bytes and shrink when a smaller access comes; who was there before is
  // forgotten then.
  void refine(unsigned access_bytes) {
    const unsigned shift = access_bytes >= 4 ? 2 : access_bytes - 1;
    if (granule_shift_ > shift) make_granules(shift);
  }
  Granule* granules(uint64_t address) { return &granules_[(address - origin_) >> granule_shift_]; }
  unsigned granule_shift() const { return granule_shift_; }

 private:
  void make_granules(unsigned shift);

  uint64_t begin_, origin_;
  size_t bytes_;
  unsigned char* data_;
  ByteFlags written_;
  LazyArray<Granule> granules_;
  unsigned granule_shift_ = 3;  // more than any access asks for: there are no granules yet
};

// The device's global memory: a set of disjoint regions.
class GlobalMemory {
 public:
  void add(const void* p, size_t bytes, bool initialised);
  void remove(const void* p);

  Region* find(uint64_t address) {
    if (last_ != nullptr && address >= last_->begin() && address < last_->end()) return last_;
    return search(address);
  }
  // The region that starts last at or before the address, for messages; null if there is none.
  const Region* before(uint64_t address) const;
  const Region* after(uint64_t address) const;

 private:
  Region* search(uint64_t address);

  std::map<uint64_t, Region> regions_;
  Region* last_ = nullptr;
};

GlobalMemory& global_memory();

}  // namespace cudasim
