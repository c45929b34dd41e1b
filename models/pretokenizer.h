// GPT-2's pre-tokenizer: where a text is cut before byte-pair merges run inside each piece.
#pragma once

#include <cstddef>
#include <string_view>

namespace trib::models {

// The end of the piece that starts at text[begin], begin < text.size(). Pieces are the successive matches of
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// (Radford et al. 2019, encoder.py), and together they cover the text. A byte that is not UTF-8 counts as one
// character that is no letter, number or whitespace.
std::size_t next_piece(std::string_view text, std::size_t begin);

}  // namespace trib::models
