#include "sites.h"

#include <algorithm>
#include <bit>

namespace cudasim {
namespace {

struct Sorted {
  std::array<uint64_t, kLanes * 2> values;
  unsigned count = 0;

  void add(uint64_t value) {
    if (count == 0 || values[count - 1] != value) values[count++] = value;
  }
  void finish() {
    if (std::is_sorted(values.begin(), values.begin() + count)) return;
    std::sort(values.begin(), values.begin() + count);
    count =
        static_cast<unsigned>(std::unique(values.begin(), values.begin() + count) - values.begin());
  }
};

// The banks serve 32 words of 4 bytes at a time; wider accesses go in halves or quarters of a warp.
unsigned extra_passes(const std::array<uint64_t, kLanes>& addresses, uint32_t active,
                      unsigned bytes) {
  const unsigned lanes_at_once = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
  unsigned extra = 0;
  for (unsigned first = 0; first < kLanes; first += lanes_at_once) {
    std::array<unsigned, 32> words_of_bank{};
    std::array<uint64_t, 64> words;
    unsigned count = 0, worst = 1;
    for (unsigned lane = first; lane < first + lanes_at_once; ++lane) {
      if ((active >> lane & 1) == 0) continue;
      for (uint64_t word = addresses[lane] / 4;
           word <= (addresses[lane] + bytes - 1) / 4 && count < 64; ++word) {
        if (count != 0 && words[count - 1] == word) continue;
        words[count++] = word;
      }
    }
    std::sort(words.begin(), words.begin() + count);
    count =
        static_cast<unsigned>(std::unique(words.begin(), words.begin() + count) - words.begin());
    for (unsigned i = 0; i < count; ++i) worst = std::max(worst, ++words_of_bank[words[i] % 32]);
    extra += worst - 1;
  }
  return extra;
}

}  // namespace

void SectorCache::clear() {
  if (!dirty_) return;
  buckets_.fill(kNone);
  newest_ = oldest_ = kNone;
  used_ = 0;
  dirty_ = false;
}

void SectorCache::unlink(uint16_t entry) {
  const Entry& e = entries_[entry];
  (e.newer == kNone ? newest_ : entries_[e.newer].older) = e.older;
  (e.older == kNone ? oldest_ : entries_[e.older].newer) = e.newer;
}

void SectorCache::make_newest(uint16_t entry) {
  entries_[entry].newer = kNone;
  entries_[entry].older = newest_;
  (newest_ == kNone ? oldest_ : entries_[newest_].newer) = entry;
  newest_ = entry;
}

bool SectorCache::miss(uint64_t sector) {
  dirty_ = true;
  uint16_t* const bucket = &buckets_[bucket_of(sector)];
  for (uint16_t entry = *bucket; entry != kNone; entry = entries_[entry].next_in_bucket) {
    if (entries_[entry].sector != sector) continue;
    if (entry != newest_) {
      unlink(entry);
      make_newest(entry);
    }
    return false;
  }
  uint16_t entry;
  if (used_ < kSectors) {
    entry = static_cast<uint16_t>(used_++);
  } else {
    entry = oldest_;
    unlink(entry);
    uint16_t* link = &buckets_[bucket_of(entries_[entry].sector)];
    while (*link != entry) link = &entries_[*link].next_in_bucket;
    *link = entries_[entry].next_in_bucket;
  }
  entries_[entry].sector = sector;
  entries_[entry].next_in_bucket = *bucket;
  *bucket = entry;
  make_newest(entry);
  return true;
}

void SiteTable::count(const Instruction& instruction, size_t index,
                      const std::array<uint64_t, kLanes>& addresses, uint32_t active, bool shared,
                      SectorCaches& caches) {
  const unsigned bytes = instruction.memory->bytes();
  Counters& site = counters_[index];
  ++site.requests;
  site.lanes += static_cast<unsigned>(std::popcount(active));
  site.shared = shared;
  if (shared) {
    site.bank_conflicts += extra_passes(addresses, active, bytes);
    return;
  }
  Sorted distinct, sectors;
  for (uint32_t rest = active; rest != 0; rest &= rest - 1) {
    const uint64_t address = addresses[static_cast<size_t>(std::countr_zero(rest))];
    distinct.add(address);
    sectors.add(address / 32);  // aligned, so a lane's bytes are in one sector
  }
  distinct.finish();
  sectors.finish();
  site.sectors += sectors.count;
  site.ideal_sectors += (uint64_t{distinct.count} * bytes + 31) / 32;
  SectorCache& cache = instruction.memory->write ? caches.stores : caches.loads;
  for (unsigned i = 0; i < sectors.count; ++i) site.misses += cache.miss(sectors.values[i]);
}

std::vector<Site> SiteTable::list(const Program& program) const {
  std::vector<Site> sites;
  for (size_t i = 0; i < counters_.size(); ++i) {
    const Counters& from = counters_[i];
    if (from.requests == 0) continue;
    const Instruction& instruction = program.code[i];
    const Source& source = program.sources[instruction.source];
    Site& site = sites.emplace_back();
    site.instruction = source.text;
    site.file = source.location.file;
    site.line = source.location.line;
    site.write = instruction.memory->write;
    site.atomic = instruction.memory->atomic;
    site.shared = from.shared;
    site.bytes = static_cast<int>(instruction.memory->bytes());
    site.requests = from.requests;
    site.lanes = from.lanes;
    site.sectors = from.sectors;
    site.ideal_sectors = from.ideal_sectors;
    site.misses = from.misses;
    site.bank_conflicts = from.bank_conflicts;
  }
  return sites;
}

}  // namespace cudasim
