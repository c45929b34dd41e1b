// What a byte-level BPE's files say: vocab.json + merges.txt, or tokenizer.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/result.h"

namespace trib::models {

struct TransparentStringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using Vocabulary = std::unordered_map<std::string, std::int32_t, TransparentStringHash, std::equal_to<>>;

// Two neighbouring tokens and the one that takes their place.
struct MergeRule {
  std::int32_t left = 0, right = 0, joined = 0;
};

// A token that is matched in the text itself, before it is cut into pieces.
struct SpecialToken {
  std::string content;
  std::int32_t id = 0;
  bool takes_whitespace_before = false;  // Hugging Face's lstrip
};

struct TokenizerFiles {
  std::filesystem::path vocabulary_path;  // for errors
  Vocabulary vocabulary;                  // ids are distinct, not negative, and need not be dense
  std::vector<MergeRule> merges;          // the earliest rule merges first
  std::vector<SpecialToken> special_tokens;
};

// Prefers vocab.json + merges.txt where both forms are there. Errc::not_found, corrupt (file, line or entry, token), or
// unsupported for a tokenizer that is not byte-level BPE as GPT-2 and RoBERTa have it.
Result<TokenizerFiles> read_tokenizer_files(const std::filesystem::path& directory);

}  // namespace trib::models
