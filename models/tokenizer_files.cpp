#include "models/tokenizer_files.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <limits>
#include <optional>
#include <utility>

#include "common/files.h"
#include "models/json_file.h"

namespace trib::models {
namespace {

namespace json = boost::json;
using Path = std::filesystem::path;

std::optional<std::int32_t> token_id(const json::value* value) {
  const std::int64_t* number = value != nullptr ? value->if_int64() : nullptr;
  if (number == nullptr || *number < 0 || *number >= std::numeric_limits<std::int32_t>::max()) return std::nullopt;
  return static_cast<std::int32_t>(*number);
}

std::optional<std::string_view> text_of(const json::value* value) {
  const json::string* text = value != nullptr ? value->if_string() : nullptr;
  if (text == nullptr) return std::nullopt;
  return std::string_view(*text);
}

bool is_true(const json::value* value) {
  return value != nullptr && value->is_bool() && value->get_bool();
}

Result<Vocabulary> read_vocabulary(const json::object& entries, const Path& path) {
  Vocabulary vocabulary;
  vocabulary.reserve(entries.size());
  for (const auto& [token, value] : entries) {
    const std::optional<std::int32_t> id = token_id(&value);
    if (!id)
      return corrupt_file(path,
                          fmt::format("the id of token \"{}\" must be a whole number from 0", std::string_view(token)));
    vocabulary.emplace(token, *id);
  }
  return vocabulary;
}

Status check_ids_differ(const TokenizerFiles& files) {
  std::unordered_map<std::int32_t, std::string_view> owners;
  owners.reserve(files.vocabulary.size());
  for (const auto& [token, id] : files.vocabulary) {
    const auto [owner, inserted] = owners.emplace(id, token);
    if (inserted) continue;
    const auto [first, second] = std::minmax({owner->second, std::string_view(token)});
    return corrupt_file(files.vocabulary_path, fmt::format("tokens \"{}\" and \"{}\" share id {}", first, second, id));
  }
  return {};
}

// The rule that two tokens, or a line "left right", state.
Result<MergeRule> parse_merge(const Vocabulary& vocabulary, std::string_view left, std::string_view right,
                              std::string_view where) {
  MergeRule rule;
  const std::string joined = std::string(left) + std::string(right);
  for (const auto& [token, id] :
       {std::pair{left, &rule.left}, {right, &rule.right}, {std::string_view(joined), &rule.joined}}) {
    const auto found = vocabulary.find(token);
    if (found == vocabulary.end()) {
      return Error{Errc::corrupt, fmt::format("{}: the vocabulary has no token \"{}\" for this merge", where, token)};
    }
    *id = found->second;
  }
  return rule;
}

Result<MergeRule> parse_merge(const Vocabulary& vocabulary, std::string_view text, std::string_view where) {
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
    return Error{Errc::corrupt, fmt::format("{}: \"{}\" is not two tokens with a space between", where, text)};
  }
  return parse_merge(vocabulary, text.substr(0, space), text.substr(space + 1), where);
}

Result<TokenizerFiles> read_vocab_and_merges(const Path& directory) {
  const Path merges_path = directory / "merges.txt";
  TokenizerFiles files;
  files.vocabulary_path = directory / "vocab.json";
  TRIB_ASSIGN(const json::object entries, read_json_object(files.vocabulary_path));
  TRIB_ASSIGN(files.vocabulary, read_vocabulary(entries, files.vocabulary_path));
  TRIB_ASSIGN(const std::string text, read_file(merges_path));
  std::size_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line(text.data() + begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (line_number == 1 && line.starts_with("#version"))) continue;
    TRIB_ASSIGN(const MergeRule rule,
                parse_merge(files.vocabulary, line, fmt::format("{}:{}", merges_path.string(), line_number)));
    files.merges.push_back(rule);
  }
  // What Hugging Face's RobertaTokenizer declares: only <mask> takes the whitespace before it.
  for (const std::string_view content : {"<s>", "<pad>", "</s>", "<unk>", "<mask>"}) {
    const auto found = files.vocabulary.find(content);
    if (found == files.vocabulary.end()) continue;
    files.special_tokens.push_back({std::string(content), found->second, content == "<mask>"});
  }
  return files;
}

Status check_is_byte_level_bpe(const json::object& root, const json::object& model, const Path& path) {
  TRIB_ASSIGN(const json::object* pre_tokenizer, object_at(root, "pre_tokenizer", path));
  const json::value* normalizer = root.if_contains("normalizer");
  const bool has_normalizer = normalizer != nullptr && !normalizer->is_null();
  if (text_of(model.if_contains("type")).value_or("BPE") != "BPE" || has_normalizer ||
      text_of(pre_tokenizer->if_contains("type")) != "ByteLevel" ||
      is_true(pre_tokenizer->if_contains("add_prefix_space"))) {
    return Error{Errc::unsupported, fmt::format("{}: only byte-level BPE without a normalizer and without "
                                                "add_prefix_space is supported (GPT-2's and RoBERTa's tokenizers)",
                                                path.string())};
  }
  return {};
}

Result<SpecialToken> parse_added_token(const json::value& value, const Path& path) {
  const json::object* token = value.if_object();
  const auto field = [&](std::string_view name) { return token != nullptr ? token->if_contains(name) : nullptr; };
  const std::optional<std::string_view> content = text_of(field("content"));
  const std::optional<std::int32_t> id = token_id(field("id"));
  if (!content || content->empty() || !id) {
    return corrupt_file(path, "every entry of \"added_tokens\" must have a \"content\" and an \"id\"");
  }
  if (is_true(field("rstrip")) || is_true(field("single_word"))) {
    return Error{Errc::unsupported, fmt::format("{}: added token \"{}\": rstrip and single_word are not supported",
                                                path.string(), *content)};
  }
  return SpecialToken{std::string(*content), *id, is_true(field("lstrip"))};
}

Result<TokenizerFiles> read_tokenizer_json(const Path& path) {
  TokenizerFiles files;
  files.vocabulary_path = path;
  TRIB_ASSIGN(const json::object root, read_json_object(path));
  TRIB_ASSIGN(const json::object* model, object_at(root, "model", path));
  TRIB_TRY(check_is_byte_level_bpe(root, *model, path));
  TRIB_ASSIGN(const json::object* entries, object_at(*model, "vocab", path));
  TRIB_ASSIGN(files.vocabulary, read_vocabulary(*entries, path));
  TRIB_ASSIGN(const json::array* merges, array_at(*model, "merges", path));
  for (std::size_t i = 0; i < merges->size(); ++i) {
    const std::string where = fmt::format("{}: model.merges[{}]", path.string(), i);
    // "a b", or ["a", "b"] as newer versions of Hugging Face's tokenizers write it.
    if (const std::optional<std::string_view> text = text_of(&(*merges)[i])) {
      TRIB_ASSIGN(const MergeRule rule, parse_merge(files.vocabulary, *text, where));
      files.merges.push_back(rule);
      continue;
    }
    const json::array* pair = (*merges)[i].if_array();
    const bool is_pair = pair != nullptr && pair->size() == 2 && (*pair)[0].is_string() && (*pair)[1].is_string();
    if (!is_pair) return Error{Errc::corrupt, fmt::format("{}: must be two tokens", where)};
    TRIB_ASSIGN(const MergeRule rule,
                parse_merge(files.vocabulary, (*pair)[0].get_string(), (*pair)[1].get_string(), where));
    files.merges.push_back(rule);
  }
  TRIB_ASSIGN(const json::array* added_tokens, array_at(root, "added_tokens", path));
  for (const json::value& value : *added_tokens) {
    TRIB_ASSIGN(SpecialToken token, parse_added_token(value, path));
    files.vocabulary.insert_or_assign(token.content, token.id);
    files.special_tokens.push_back(std::move(token));
  }
  return files;
}

Status check_adds_no_prefix_space(const Path& settings_path) {
  if (!std::filesystem::exists(settings_path)) return {};
  TRIB_ASSIGN(const json::object settings, read_json_object(settings_path));
  if (!is_true(settings.if_contains("add_prefix_space"))) return {};
  return Error{Errc::unsupported, fmt::format("{}: add_prefix_space = true is not supported", settings_path.string())};
}

Result<TokenizerFiles> read_either_form(const Path& directory) {
  if (std::filesystem::exists(directory / "vocab.json")) return read_vocab_and_merges(directory);
  if (std::filesystem::exists(directory / "tokenizer.json")) return read_tokenizer_json(directory / "tokenizer.json");
  return Error{Errc::not_found,
               fmt::format("{}: has neither vocab.json and merges.txt nor tokenizer.json", directory.string())};
}

}  // namespace

Result<TokenizerFiles> read_tokenizer_files(const Path& directory) {
  TRIB_TRY(check_adds_no_prefix_space(directory / "tokenizer_config.json"));
  TRIB_ASSIGN(TokenizerFiles files, read_either_form(directory));
  TRIB_TRY(check_ids_differ(files));
  return files;
}

}  // namespace trib::models
