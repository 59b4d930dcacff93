#include "memory.h"

#include <algorithm>
#include <bit>

#include "cudasim.h"

namespace cudasim {

void ByteFlags::assign(size_t offset, size_t count, bool value) {
  const size_t end = offset + count;
  while (offset < end) {
    const unsigned bit = offset % 64;
    const unsigned length = static_cast<unsigned>(std::min<size_t>(64 - bit, end - offset));
    const uint64_t bits = ones(length) << bit;
    uint64_t& changed = changed_[offset / 64];
    const uint64_t wanted = value != initial_ ? changed | bits : changed & ~bits;
    if (wanted != changed) changed = wanted;  // an untouched page stays untouched
    offset += length;
  }
}

size_t ByteFlags::count_clear(size_t offset, size_t count) const {
  const size_t end = offset + count;
  size_t clear = 0;
  while (offset < end) {
    const unsigned bit = offset % 64;
    const unsigned length = static_cast<unsigned>(std::min<size_t>(64 - bit, end - offset));
    clear += static_cast<size_t>(std::popcount(~(word(offset / 64) >> bit) & ones(length)));
    offset += length;
  }
  return clear;
}

void ByteFlags::reset() { changed_ = LazyArray<uint64_t>(changed_.size()); }

Region::Region(uint64_t begin, size_t bytes, unsigned char* data, bool initialised)
    : begin_(begin),
      origin_(begin / 64 * 64),
      bytes_(bytes),
      data_(data),
      written_(bytes + (begin - origin_), initialised) {}

void Region::make_granules(unsigned shift) {
  granule_shift_ = shift;
  granules_ = LazyArray<Granule>(((bytes_ + (begin_ - origin_)) >> shift) + 64);
}

void GlobalMemory::add(const void* p, size_t bytes, bool initialised) {
  if (bytes == 0) return;
  const uint64_t begin = reinterpret_cast<uint64_t>(p);
  auto first = regions_.lower_bound(begin);  // whatever was announced here before is gone
  if (first != regions_.begin() && std::prev(first)->second.end() > begin) --first;
  while (first != regions_.end() && first->first < begin + bytes) first = regions_.erase(first);
  last_ = nullptr;
  auto* data = const_cast<unsigned char*>(static_cast<const unsigned char*>(p));
  regions_.try_emplace(begin, begin, bytes, data, initialised);
}

void GlobalMemory::remove(const void* p) {
  regions_.erase(reinterpret_cast<uint64_t>(p));
  last_ = nullptr;
}

Region* GlobalMemory::search(uint64_t address) {
  auto next = regions_.upper_bound(address);
  if (next == regions_.begin()) return nullptr;
  Region& region = std::prev(next)->second;
  if (address >= region.end()) return nullptr;
  return last_ = &region;
}

const Region* GlobalMemory::before(uint64_t address) const {
  const auto next = regions_.upper_bound(address);
  return next == regions_.begin() ? nullptr : &std::prev(next)->second;
}

const Region* GlobalMemory::after(uint64_t address) const {
  const auto next = regions_.upper_bound(address);
  return next == regions_.end() ? nullptr : &next->second;
}

GlobalMemory& global_memory() {
  static auto* const memory =
      new GlobalMemory;  // allocators use it until the very end of the process
  return *memory;
}

namespace {

// Calls f(region, address, bytes) for the parts of [p, p + bytes) that are device memory.
template <class F>
void for_each_region(const void* p, size_t bytes, F f) {
  uint64_t address = reinterpret_cast<uint64_t>(p);
  const uint64_t end = address + bytes;
  while (address < end) {
    Region* region = global_memory().find(address);
    if (region == nullptr) {
      const Region* next = global_memory().after(address);
      if (next == nullptr || next->begin() >= end) return;
      address = next->begin();
      continue;
    }
    const uint64_t stop = std::min(end, region->end());
    f(*region, address, stop - address);
    address = stop;
  }
}

}  // namespace

void add_memory(const void* p, size_t bytes, bool initialised) {
  global_memory().add(p, bytes, initialised);
}
void remove_memory(const void* p) { global_memory().remove(p); }

void mark_written(const void* p, size_t bytes) {
  for_each_region(p, bytes, [](Region& region, uint64_t address, size_t count) {
    region.written().assign(region.flag(address), count, true);
  });
}

void mark_unwritten(const void* p, size_t bytes) {
  for_each_region(p, bytes, [](Region& region, uint64_t address, size_t count) {
    region.written().assign(region.flag(address), count, false);
  });
}

size_t unwritten_bytes(const void* p, size_t bytes) {
  size_t unwritten = 0;
  for_each_region(p, bytes, [&](Region& region, uint64_t address, size_t count) {
    unwritten += region.written().count_clear(region.flag(address), count);
  });
  return unwritten;
}

}  // namespace cudasim
