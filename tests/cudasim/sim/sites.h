// Statistics of memory instructions: coalescing, cache misses, bank conflicts.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "cudasim.h"
#include "program.h"

namespace cudasim {

// 16 KiB of 32-byte sectors, fully associative, least recently used out first.
class SectorCache {
 public:
  void clear();
  bool miss(uint64_t sector);  // and it is in the cache afterwards

 private:
  static constexpr unsigned kSectors = 512, kBuckets = 1024;
  static constexpr uint16_t kNone = 0xffff;
  struct Entry {
    uint64_t sector;
    uint16_t newer, older, next_in_bucket;
  };
  static unsigned bucket_of(uint64_t sector) { return (sector * 0x9E3779B97F4A7C15u) >> 54; }
  void unlink(uint16_t entry);
  void make_newest(uint16_t entry);

  std::array<Entry, kSectors> entries_;
  std::array<uint16_t, kBuckets> buckets_;
  uint16_t newest_ = kNone, oldest_ = kNone;
  unsigned used_ = 0;
  bool dirty_ = true;
};

// Of a block: what was loaded lately, and what was stored (stores of neighbours are joined).
struct SectorCaches {
  SectorCache loads, stores;
};

class SiteTable {
 public:
  explicit SiteTable(const Program& program) : counters_(program.code.size()) {}

  void count(const Instruction& instruction, size_t index,
             const std::array<uint64_t, kLanes>& addresses, uint32_t active, bool shared,
             SectorCaches& caches);
  std::vector<Site> list(const Program& program) const;

 private:
  struct Counters {
    uint64_t requests = 0, lanes = 0, sectors = 0, ideal_sectors = 0, misses = 0,
             bank_conflicts = 0;
    bool shared = false;
  };
  std::vector<Counters> counters_;
};

}  // namespace cudasim
