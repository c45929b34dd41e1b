// Base models with random weights in the published sizes, for measuring speed and memory: neither depends on what the
// weights are.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "common/result.h"

namespace trib::models {

struct EncoderSize {
  std::int64_t hidden = 0, layers = 0, heads = 0, intermediate = 0;
};

// RoBERTa's "base" and "large" (Liu et al. 2019, table 9). Errc::invalid_argument lists them.
Result<EncoderSize> roberta_size(std::string_view name);

// Writes config.json and model.safetensors as Hugging Face has them, bfloat16: weights uniform with RoBERTa's initial
// standard deviation of 0.02, biases 0, norms 1, RoBERTa's vocabulary of 50,265 and 514 positions. No tokenizer. The
// same numbers each time.
Status write_random_checkpoint(const std::filesystem::path& directory, const EncoderSize& size);

}  // namespace trib::models
