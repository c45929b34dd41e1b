// ChaCha20 on the device: RFC 8439's block function with a 64-bit counter and a 64-bit stream id, as common/random.h
// has it. One block a thread.
#pragma once

#include <cstdint>

namespace trib::kernels::cuda {

struct ChaChaKey {
  std::uint32_t words[8];
};

__device__ inline void quarter_round(std::uint32_t& a, std::uint32_t& b, std::uint32_t& c, std::uint32_t& d) {
  a += b, d ^= a, d = __funnelshift_l(d, d, 16);
  c += d, b ^= c, b = __funnelshift_l(b, b, 12);
  a += b, d ^= a, d = __funnelshift_l(d, d, 8);
  c += d, b ^= c, b = __funnelshift_l(b, b, 7);
}

__device__ inline void chacha20_block(const ChaChaKey& key, std::uint64_t counter, std::uint64_t stream_id,
                                      std::uint32_t (&x)[16]) {
  std::uint32_t initial[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};  // "expand 32-byte k"
#pragma unroll
  for (int i = 0; i < 8; ++i) initial[4 + i] = key.words[i];
  initial[12] = static_cast<std::uint32_t>(counter);
  initial[13] = static_cast<std::uint32_t>(counter >> 32);
  initial[14] = static_cast<std::uint32_t>(stream_id);
  initial[15] = static_cast<std::uint32_t>(stream_id >> 32);
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] = initial[i];
#pragma unroll 1
  for (int round = 0; round < 10; ++round) {
    quarter_round(x[0], x[4], x[8], x[12]);
    quarter_round(x[1], x[5], x[9], x[13]);
    quarter_round(x[2], x[6], x[10], x[14]);
    quarter_round(x[3], x[7], x[11], x[15]);
    quarter_round(x[0], x[5], x[10], x[15]);
    quarter_round(x[1], x[6], x[11], x[12]);
    quarter_round(x[2], x[7], x[8], x[13]);
    quarter_round(x[3], x[4], x[9], x[14]);
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] += initial[i];
}

}  // namespace trib::kernels::cuda
