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
  // Reads vocab.json + merges.txt (or tokenizer.json) from a model directory. Errc::not_found, corrupt, or unsupported
  // for a tokenizer of another kind; the message names the file and the token or line.
  static Result<Tokenizer> load(const std::filesystem::path& directory);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // <s> text </s>, truncated to `max_tokens` including both (at least 2), as RobertaTokenizer does. Special tokens
  // written in the text, such as <mask>, count as themselves. Any bytes are accepted; where they are not UTF-8, each
  // counts as a symbol. Safe to call from several threads.
  std::vector<std::int32_t> encode(std::string_view text, std::int64_t max_tokens) const;
  // One more than the largest id: a model's embedding must have at least this many rows.
  std::int64_t vocabulary_size() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace trib::models
