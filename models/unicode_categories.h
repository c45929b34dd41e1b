// The Unicode categories that GPT-2's pre-tokenizer tells apart.
#pragma once

#include <cstdint>

namespace trib::models {

enum class UnicodeCategory : std::uint8_t {
  other,
  letter,      // \p{L}
  number,      // \p{N}
  whitespace,  // \s: the White_Space property
};

// Unicode 14.0, the version of Hugging Face's tokenizers; anything unassigned there, or no code point at all, is other.
UnicodeCategory unicode_category(char32_t code_point);

}  // namespace trib::models
