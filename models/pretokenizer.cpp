#include "models/pretokenizer.h"

#include "common/utf8.h"
#include "models/unicode_categories.h"

namespace trib::models {
namespace {

struct Character {
  UnicodeCategory category = UnicodeCategory::other;
  std::size_t byte_count = 1;
};

Character character_at(std::string_view text, std::size_t position) {
  const Utf8CodePoint code_point = decode_utf8(text, position);
  if (code_point.byte_count == 0) return {};
  return {unicode_category(code_point.value), code_point.byte_count};
}

// The length of the contraction that starts at text[begin] == '\'', or 0.
std::size_t contraction_length(std::string_view text, std::size_t begin) {
  const std::string_view rest = text.substr(begin + 1, 2);
  if (rest.empty()) return 0;
  if (std::string_view("stmd").find(rest[0]) != std::string_view::npos) return 2;
  return rest == "re" || rest == "ve" || rest == "ll" ? 3 : 0;
}

// The end of the run of whitespace from `begin`, less its last character if something follows and more than one was
// there: that character belongs to the word after it.
std::size_t end_of_whitespace(std::string_view text, std::size_t begin) {
  std::size_t end = begin, last = begin;
  while (end < text.size()) {
    const Character character = character_at(text, end);
    if (character.category != UnicodeCategory::whitespace) break;
    last = end;
    end += character.byte_count;
  }
  return end < text.size() && last > begin ? last : end;
}

}  // namespace

std::size_t next_piece(std::string_view text, std::size_t begin) {
  if (text[begin] == '\'') {
    if (const std::size_t length = contraction_length(text, begin)) return begin + length;
  }
  std::size_t end = begin;
  Character character = character_at(text, begin);
  if (text[begin] == ' ' && begin + 1 < text.size()) {
    const Character next = character_at(text, begin + 1);
    if (next.category != UnicodeCategory::whitespace) {
      character = next;
      end = begin + 1;
    }
  }
  if (character.category == UnicodeCategory::whitespace) return end_of_whitespace(text, begin);
  const UnicodeCategory category = character.category;
  do {
    end += character.byte_count;
    if (end >= text.size()) break;
    character = character_at(text, end);
  } while (character.category == category);
  return end;
}

}  // namespace trib::models
