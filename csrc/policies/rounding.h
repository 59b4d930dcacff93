#pragma once

// How an updated weight goes back into its 16 bits, with the same bits on every device.

#include <myemb/update.h>
#include <policies/types.h>

#include <bit>

namespace myemb {

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): four random
// words for each counter, of which no two calls share any state.
struct PhiloxWords {
  uint32_t words[4];
};

MYEMB_INLINE PhiloxWords philox(PhiloxWords counter, uint64_t seed) {
  uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
  uint32_t (&c)[4] = counter.words;
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c[0], b = uint64_t{0xCD9E8D57} * c[2];
    c[0] = static_cast<uint32_t>(b >> 32) ^ c[1] ^ low;
    c[1] = static_cast<uint32_t>(b);
    c[2] = static_cast<uint32_t>(a >> 32) ^ c[3] ^ high;
    c[3] = static_cast<uint32_t>(a);
    low += 0x9E3779B9;
    high += 0xBB67AE85;
  }
  return counter;
}

// 16 random bits for each element of a table in each step. Columns in blocks of 8 share a counter.
struct RandomBits {
  static constexpr int kBlock = 8;

  uint64_t seed;
  uint64_t step;

  MYEMB_INLINE PhiloxWords block(int64_t row, int64_t column) const {
    return philox({{static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32),
                    static_cast<uint32_t>(column / kBlock), static_cast<uint32_t>(step)}},
                  seed ^ (step >> 32 << 32));
  }

  MYEMB_INLINE static uint32_t of_column(const PhiloxWords& block, int64_t column) {
    return block.words[column % kBlock / 2] >> (column % 2 * 16) & 0xffff;
  }
};

// x rounded up in magnitude with a probability of what would be cut off, in ulps; `random` is
// uniform in [0, 2^16). Infinities stay, NaN becomes the quiet one.
MYEMB_INLINE BFloat16 round_stochastic(float x, uint32_t random, BFloat16 /*type*/) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fc0};
  return {static_cast<uint16_t>((bits + random) >> 16)};
}

MYEMB_INLINE Half round_stochastic(float x, uint32_t random, Half /*type*/) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
  uint32_t rounded;
  if (magnitude >= 0x7f800000) {
    rounded = magnitude == 0x7f800000 ? 0x7c00 : 0x7e00;
  } else if (magnitude >= 0x47800000) {  // 2^16 and more
    rounded = 0x7c00;
  } else if (magnitude >= 0x38800000) {  // a normal number of 16 bits
    rounded = ((magnitude + (random >> 3)) >> 13) - (112u << 10);
  } else {  // a multiple of 2^-24
    const float ulps = std::bit_cast<float>(magnitude) * 0x1.0p24f;
    const auto whole = static_cast<uint32_t>(ulps);
    const float rest = ulps - static_cast<float>(whole);
    rounded = whole + (static_cast<float>(random) < rest * 65536.0f ? 1 : 0);
  }
  return {static_cast<uint16_t>(sign | rounded)};
}

// The fp32 number whose nearest bf16 number (ties away from zero) is `high`, and whose bits differ
// from that one's by `low`: together they are every bit of it.
MYEMB_INLINE float join_halves(BFloat16 high, int16_t low) {
  return std::bit_cast<float>((uint32_t{high.bits} << 16) + static_cast<uint32_t>(int32_t{low}));
}

// A NaN becomes the quiet one: rounding up the bits of another could give a number.
struct SplitFloat {
  BFloat16 high;
  int16_t low;
};
MYEMB_INLINE SplitFloat split_halves(float x) {
  auto bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffff) > 0x7f800000) bits = 0x7fc00000;
  return {{static_cast<uint16_t>((bits + 0x8000) >> 16)}, static_cast<int16_t>(bits & 0xffff)};
}

}  // namespace myemb
