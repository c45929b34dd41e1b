// ChaCha20 (RFC 8439's block function with a 64-bit counter and a 64-bit stream id, as common/random.h has it), one
// block per lane. Included by the simd_*.cpp that draw random numbers.
#pragma once

#include "kernels/cpu/simd_vector.h"

namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE {

inline constexpr int blocks_at_once = 16;
using Words = VectorOf<uint32_t, blocks_at_once>::type;

TRIB_INLINE Words rotate(Words v, int bits) {
  return (v << bits) | (v >> (32 - bits));
}

#define TRIB_QUARTER_ROUND(a, b, c, d) \
  a += b, d = rotate(d ^ a, 16);       \
  c += d, b = rotate(b ^ c, 12);       \
  a += b, d = rotate(d ^ a, 8);        \
  c += d, b = rotate(b ^ c, 7);

// words[w][lane] = word w of the block at counter + lane.
static inline void chacha20_blocks(const uint32_t key[8], uint64_t counter, uint64_t stream_id,
                                   uint32_t words[16][blocks_at_once]) {
  const uint32_t constants[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};  // "expand 32-byte k"
  Words initial[16] = {}, x[16];
  for (int i = 0; i < 4; ++i) initial[i] = Words{} + constants[i];
  for (int i = 0; i < 8; ++i) initial[4 + i] = Words{} + key[i];
  for (int lane = 0; lane < blocks_at_once; ++lane) {
    uint64_t block = counter + static_cast<uint64_t>(lane);
    initial[12][lane] = static_cast<uint32_t>(block);
    initial[13][lane] = static_cast<uint32_t>(block >> 32);
  }
  initial[14] = Words{} + static_cast<uint32_t>(stream_id);
  initial[15] = Words{} + static_cast<uint32_t>(stream_id >> 32);
  for (int i = 0; i < 16; ++i) x[i] = initial[i];
  for (int round = 0; round < 10; ++round) {
    TRIB_QUARTER_ROUND(x[0], x[4], x[8], x[12])
    TRIB_QUARTER_ROUND(x[1], x[5], x[9], x[13])
    TRIB_QUARTER_ROUND(x[2], x[6], x[10], x[14])
    TRIB_QUARTER_ROUND(x[3], x[7], x[11], x[15])
    TRIB_QUARTER_ROUND(x[0], x[5], x[10], x[15])
    TRIB_QUARTER_ROUND(x[1], x[6], x[11], x[12])
    TRIB_QUARTER_ROUND(x[2], x[7], x[8], x[13])
    TRIB_QUARTER_ROUND(x[3], x[4], x[9], x[14])
  }
  for (int i = 0; i < 16; ++i) {
    Words word = x[i] + initial[i];
    memcpy(words[i], &word, sizeof word);
  }
}

#undef TRIB_QUARTER_ROUND

// Clears secrets; the barrier keeps the compiler from leaving it out.
TRIB_INLINE void wipe(void* memory, size_t bytes) {
  __builtin_memset(memory, 0, bytes);
  asm volatile("" : : "r"(memory) : "memory");
}

}  // namespace trib::kernels::cpu::TRIB_SIMD_NAMESPACE
