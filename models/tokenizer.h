// Byte-level BPE as GPT-2 and RoBERTa use it, from Hugging Face's vocab.json and merges.txt.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace trib::models {

class Tokenizer {
 public:
  // Reads vocab.json + merges.txt (or tokenizer.json) from a model directory.
  static Result<Tokenizer> load(const std::filesystem::path& directory);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // <s> text </s>, truncated to `max_tokens` including both, as RobertaTokenizer does. Any UTF-8 is accepted.
  std::vector<std::int32_t> encode(std::string_view text, std::int64_t max_tokens) const;
  std::int64_t vocabulary_size() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace trib::models
