#include "models/tokenizer.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>
#include <queue>
#include <string>
#include <unordered_map>
#include <utility>

#include "common/utf8.h"
#include "models/json_file.h"
#include "models/pretokenizer.h"
#include "models/tokenizer_files.h"
#include "models/unicode_categories.h"

namespace trib::models {
namespace {

struct Merge {
  std::int32_t rank;  // lower merges first
  std::int32_t result;
};

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
}

// GPT-2's printable stand-in for each byte (encoder.py, bytes_to_unicode), as UTF-8: printable Latin-1 stands for
// itself, and the other bytes, in order, are U+0100, U+0101, …
std::array<std::string, 256> byte_symbols() {
  std::array<std::string, 256> symbols;
  unsigned next_substitute = 0x100;
  for (unsigned byte = 0; byte < symbols.size(); ++byte) {
    const bool is_printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const unsigned code_point = is_printable ? byte : next_substitute++;
    if (code_point < 0x80) {
      symbols[byte] = static_cast<char>(code_point);
    } else {
      symbols[byte] = {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
    }
  }
  return symbols;
}

std::string_view without_trailing_whitespace(std::string_view text) {
  while (!text.empty()) {
    std::size_t last = text.size() - 1;
    while (last > 0 && (text[last] & 0xC0) == 0x80) --last;
    const Utf8CodePoint code_point = decode_utf8(text, last);
    const bool is_whitespace = last + code_point.byte_count == text.size() &&
                               unicode_category(code_point.value) == UnicodeCategory::whitespace;
    if (!is_whitespace) break;
    text = text.substr(0, last);
  }
  return text;
}

}  // namespace

struct Tokenizer::Impl {
  std::unordered_map<std::uint64_t, Merge> merges;  // by pair_key(left id, right id)
  std::vector<SpecialToken> special_tokens;
  std::array<std::int32_t, 256> byte_ids{};
  std::int32_t begin_id = 0, end_id = 0;
  std::int64_t vocabulary_size = 0;

  Status build(TokenizerFiles files);
  // Appends the ids of the pieces of `text` to `ids` until it holds at least `limit`.
  void append_text(std::string_view text, std::size_t limit, std::vector<std::int32_t>& ids) const;
  void append_piece(std::string_view piece, std::vector<std::int32_t>& ids) const;
  const SpecialToken* find_special(std::string_view text, std::size_t& position) const;
};

Status Tokenizer::Impl::build(TokenizerFiles files) {
  const Vocabulary& vocabulary = files.vocabulary;
  for (const auto& [token, id] : vocabulary) vocabulary_size = std::max<std::int64_t>(vocabulary_size, id + 1);
  for (const auto& [content, id] : {std::pair{"<s>", &begin_id}, {"</s>", &end_id}}) {
    const auto found = vocabulary.find(content);
    if (found == vocabulary.end()) {
      return corrupt_file(files.vocabulary_path,
                          fmt::format("the vocabulary has no token \"{}\", which every record needs", content));
    }
    *id = found->second;
  }
  const auto unknown = vocabulary.find("<unk>");
  const std::array<std::string, 256> symbols = byte_symbols();
  for (std::size_t byte = 0; byte < symbols.size(); ++byte) {
    auto found = vocabulary.find(symbols[byte]);
    if (found == vocabulary.end()) found = unknown;
    if (found == vocabulary.end()) {
      return corrupt_file(
          files.vocabulary_path,
          fmt::format("the vocabulary has neither a token for byte {} (\"{}\") nor \"<unk>\"", byte, symbols[byte]));
    }
    byte_ids[byte] = found->second;
  }
  merges.reserve(files.merges.size());
  for (std::size_t rank = 0; rank < files.merges.size(); ++rank) {
    const MergeRule& rule = files.merges[rank];
    merges.emplace(pair_key(rule.left, rule.right), Merge{static_cast<std::int32_t>(rank), rule.joined});
  }
  special_tokens = std::move(files.special_tokens);
  return {};
}

// Byte-pair merging over a linked list of symbols: the pair of lowest rank merges first, the leftmost of equals.
void Tokenizer::Impl::append_piece(std::string_view piece, std::vector<std::int32_t>& ids) const {
  constexpr std::int32_t none = -1;
  struct Symbol {
    std::int32_t id, previous, next;  // id is none once it has been merged into its left neighbour
  };
  struct Candidate {
    std::int32_t rank, position, left, right, result;
    bool operator>(const Candidate& other) const {
      return std::pair(rank, position) > std::pair(other.rank, other.position);
    }
  };
  std::vector<Symbol> symbols(piece.size());
  for (std::size_t i = 0; i < piece.size(); ++i) {
    const auto position = static_cast<std::int32_t>(i);
    symbols[i] = {byte_ids[static_cast<unsigned char>(piece[i])], position - 1,
                  i + 1 < piece.size() ? position + 1 : none};
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto consider = [&](std::int32_t position) {
    if (position == none || symbols[position].next == none) return;
    const std::int32_t left = symbols[position].id, right = symbols[symbols[position].next].id;
    const auto merge = merges.find(pair_key(left, right));
    if (merge != merges.end()) candidates.push({merge->second.rank, position, left, right, merge->second.result});
  };
  for (std::size_t i = 0; i < piece.size(); ++i) consider(static_cast<std::int32_t>(i));
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = symbols[best.position];
    if (left.id != best.left || left.next == none || symbols[left.next].id != best.right) continue;  // out of date
    Symbol& right = symbols[left.next];
    left.id = best.result;
    left.next = right.next;
    right.id = none;
    if (left.next != none) symbols[left.next].previous = best.position;
    consider(left.previous);
    consider(best.position);
  }
  for (std::int32_t position = 0; position != none; position = symbols[position].next) {
    ids.push_back(symbols[position].id);
  }
}

void Tokenizer::Impl::append_text(std::string_view text, std::size_t limit, std::vector<std::int32_t>& ids) const {
  for (std::size_t begin = 0; begin < text.size() && ids.size() < limit;) {
    const std::size_t end = next_piece(text, begin);
    append_piece(text.substr(begin, end - begin), ids);
    begin = end;
  }
}

// The first special token in `text` from `position`, the longest where two start together; moves `position` to it.
const SpecialToken* Tokenizer::Impl::find_special(std::string_view text, std::size_t& position) const {
  const SpecialToken* best = nullptr;
  std::size_t best_position = text.size();
  for (const SpecialToken& token : special_tokens) {
    const std::size_t found = text.find(token.content, position);
    if (found > best_position || found == std::string_view::npos) continue;
    if (found == best_position && best != nullptr && best->content.size() >= token.content.size()) continue;
    best = &token;
    best_position = found;
  }
  position = best_position;
  return best;
}

Result<Tokenizer> Tokenizer::load(const std::filesystem::path& directory) {
  TRIB_ASSIGN(TokenizerFiles files, read_tokenizer_files(directory));
  auto impl = std::make_unique<Impl>();
  TRIB_TRY(impl->build(std::move(files)));
  return Tokenizer(std::move(impl));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, std::int64_t max_tokens) const {
  const auto limit = static_cast<std::size_t>(std::max<std::int64_t>(max_tokens - 1, 1));
  std::vector<std::int32_t> ids = {impl_->begin_id};
  for (std::size_t begin = 0; begin < text.size() && ids.size() < limit;) {
    std::size_t position = begin;
    const SpecialToken* special = impl_->find_special(text, position);
    std::string_view before = text.substr(begin, position - begin);
    if (special != nullptr && special->takes_whitespace_before) before = without_trailing_whitespace(before);
    impl_->append_text(before, limit, ids);
    if (special == nullptr) break;
    ids.push_back(special->id);
    begin = position + special->content.size();
  }
  ids.resize(std::min(ids.size(), limit));
  ids.push_back(impl_->end_id);
  return ids;
}

std::int64_t Tokenizer::vocabulary_size() const {
  return impl_->vocabulary_size;
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

}  // namespace trib::models
