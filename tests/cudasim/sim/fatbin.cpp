#include "fatbin.h"

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace cudasim {
namespace {

constexpr uint32_t kWrapperMagic = 0x466243b1, kContainerMagic = 0xba55ed50;
constexpr uint16_t kPtx = 1;
constexpr uint64_t kCompressedLz4 = 0x2000, kCompressedZstd = 0x8000;

struct Wrapper {
  uint32_t magic, version;
  const unsigned char* container;
  void* names;
};

struct ContainerHeader {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;  // of the entries that follow
};

struct EntryHeader {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;
  uint32_t compressed_bytes, options_offset;
  uint16_t minor, major;
  uint32_t arch;  // 75, 120
  uint32_t name_offset, name_bytes;
  uint64_t flags;
};

template <class T>
T read(const unsigned char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

}  // namespace

std::vector<PtxImage> ptx_images(const void* wrapper) {
  std::vector<PtxImage> images;
  const auto outer = read<Wrapper>(static_cast<const unsigned char*>(wrapper));
  if (outer.magic != kWrapperMagic) return images;
  const auto container = read<ContainerHeader>(outer.container);
  if (container.magic != kContainerMagic) return images;
  const unsigned char* at = outer.container + container.header_bytes;
  const unsigned char* const end = at + container.bytes;
  while (at + sizeof(EntryHeader) <= end) {
    const auto entry = read<EntryHeader>(at);
    if (entry.header_bytes == 0) break;
    const auto* text = reinterpret_cast<const char*>(at + entry.header_bytes);
    if (entry.kind == kPtx && (entry.flags & (kCompressedLz4 | kCompressedZstd)) != 0) {
      std::fprintf(stderr, "cudasim: the PTX is compressed; compile with nvcc --no-compress\n");
    } else if (entry.kind == kPtx) {
      images.push_back(
          {static_cast<int>(entry.arch), std::string(text, strnlen(text, entry.bytes))});
    }
    at += entry.header_bytes + entry.bytes;
  }
  return images;
}

}  // namespace cudasim
