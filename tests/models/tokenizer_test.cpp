#include "models/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <chrono>
#include <cstdlib>
#include <fstream>

#include "common/files.h"
#include "models/pretokenizer.h"

namespace trib::models {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using testing::ElementsAre;
using testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

const fs::path source_directory = TRIBUTARY_SOURCE_DIR;
const fs::path base_directory = source_directory / "base/roberta-mini-imdb";

fs::path shared_directory() {
  const char* configured = std::getenv("TRIBUTARY_SHARED");
  return configured != nullptr ? fs::path(configured) : source_directory / "../shared";
}

// A directory that goes away with the test.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (fs::temp_directory_path() / "tokenizer-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot create " + name);
    path_ = name;
  }
  ~TemporaryDirectory() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }
  const TemporaryDirectory& write(const std::string& name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return *this;
  }

 private:
  fs::path path_;
};

const Tokenizer& base_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::load(base_directory).value();
  return tokenizer;
}

json::object base_vocabulary() {
  return json::parse(read_file(base_directory / "vocab.json").value()).as_object();
}

// What the base's files say, as a tokenizer.json whose merges have the given form.
json::object tokenizer_json(bool merges_are_pairs) {
  json::array merges;
  std::ifstream lines(base_directory / "merges.txt");
  std::string line;
  std::getline(lines, line);  // #version
  while (std::getline(lines, line)) {
    const std::size_t space = line.find(' ');
    if (merges_are_pairs) {
      merges.push_back(json::array{line.substr(0, space), line.substr(space + 1)});
    } else {
      merges.push_back(json::value(line));
    }
  }
  json::array added;
  const char* names[] = {"<s>", "<pad>", "</s>", "<unk>", "<mask>"};
  for (int id = 0; id < 5; ++id) {
    added.push_back({{"id", id}, {"content", names[id]}, {"lstrip", id == 4}, {"rstrip", false}, {"special", true}});
  }
  return {{"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"model", {{"type", "BPE"}, {"vocab", base_vocabulary()}, {"merges", merges}}}};
}

std::string load_error(const TemporaryDirectory& directory) {
  const Result<Tokenizer> result = Tokenizer::load(directory.path());
  return result.ok() ? "loaded" : result.error().message;
}

std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string> result;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = next_piece(text, begin);
    result.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  return result;
}

TEST(Pretokenizer, CutsWhereTheReferencePatternDoes) {
  EXPECT_THAT(pieces("it's 2  o'clock"), ElementsAre("it", "'s", " 2", " ", " o", "'", "clock"));
  EXPECT_THAT(pieces("they'll've 'd"), ElementsAre("they", "'ll", "'ve", " '", "d"));
  EXPECT_THAT(pieces("a \n b\n"), ElementsAre("a", " \n", " b", "\n"));
  EXPECT_THAT(pieces("x2\xC2\xBDy"), ElementsAre("x", "2\xC2\xBD", "y"));
  EXPECT_THAT(pieces("e\xCC\x81!"), ElementsAre("e", "\xCC\x81!"));  // a combining mark is no letter
}

TEST(Pretokenizer, TakesBytesThatAreNotUtf8AsSymbols) {
  EXPECT_THAT(pieces("a\xFFz"), ElementsAre("a", "\xFF", "z"));
  EXPECT_THAT(pieces(" \xE6\x97 x"), ElementsAre(" \xE6\x97", " x"));      // cut short
  EXPECT_THAT(pieces("a\xC0\xA0z"), ElementsAre("a", "\xC0\xA0", "z"));    // overlong, so no space
  EXPECT_THAT(pieces("\xED\xA0\x80z"), ElementsAre("\xED\xA0\x80", "z"));  // a surrogate
}

TEST(Tokenizer, GivesTheReferenceIdsForEveryGoldenText) {
  std::ifstream lines(source_directory / "tests/golden/tokenizer/roberta-mini-imdb.jsonl");
  std::string line;
  int count = 0;
  while (std::getline(lines, line)) {
    const json::object record = json::parse(line).as_object();
    const std::string_view text = record.at("text").as_string();
    EXPECT_EQ(base_tokenizer().encode(text, 100'000), json::value_to<Ids>(record.at("ids"))) << line;
    ++count;
  }
  EXPECT_GE(count, 200);
}

TEST(Tokenizer, KeepsTheFirstTokensAndTheClosingOneWhenItTruncates) {
  const Ids whole = base_tokenizer().encode("one two three four five", 100);
  const Ids cut = base_tokenizer().encode("one two three four five", 5);
  ASSERT_EQ(cut.size(), 5u);
  EXPECT_EQ(Ids(cut.begin(), cut.end() - 1), Ids(whole.begin(), whole.begin() + 4));
  EXPECT_EQ(cut.back(), whole.back());
  EXPECT_EQ(base_tokenizer().encode("one two three four five", static_cast<std::int64_t>(whole.size())), whole);
  EXPECT_THAT(base_tokenizer().encode("one", 2), ElementsAre(0, 2));
}

TEST(Tokenizer, CutsInsideAWordOfSeveralTokens) {
  const Ids whole = base_tokenizer().encode("zyzzyvas", 100);
  ASSERT_GT(whole.size(), 4u);
  EXPECT_EQ(base_tokenizer().encode("zyzzyvas", 4), (Ids{whole[0], whole[1], whole[2], 2}));
}

TEST(Tokenizer, ReadsTokenizerJsonWithMergesAsTextAndAsPairs) {
  const std::string text = "It's a <mask>, isn't it? caf\xC3\xA9 1234";
  for (const bool merges_are_pairs : {false, true}) {
    TemporaryDirectory directory;
    directory.write("tokenizer.json", json::serialize(tokenizer_json(merges_are_pairs)));
    const Tokenizer tokenizer = Tokenizer::load(directory.path()).value();
    EXPECT_EQ(tokenizer.encode(text, 100), base_tokenizer().encode(text, 100));
    EXPECT_EQ(tokenizer.vocabulary_size(), 8192);
  }
}

TEST(Tokenizer, ReportsTheSizeOfItsVocabulary) {
  EXPECT_EQ(base_tokenizer().vocabulary_size(), 8192);
}

TEST(Tokenizer, MergesALongRunWithoutSpacesInReasonableTime) {
  const auto start = std::chrono::steady_clock::now();
  const Ids ids = base_tokenizer().encode(std::string(1 << 18, 'a'), 1 << 20);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));  // quadratic merging takes minutes
  EXPECT_GT(ids.size(), 1000u);
}

TEST(Tokenizer, RefusesFilesThatContradictThemselves) {
  const std::string vocabulary = json::serialize(base_vocabulary());
  struct Case {
    std::string vocabulary, merges, expected;
  };
  json::object without_end = base_vocabulary(), shared_id = base_vocabulary(), negative = base_vocabulary(),
               no_bytes = {{"<s>", 0}, {"</s>", 1}};
  without_end.erase("</s>");
  shared_id["</s>"] = 0;
  negative["the"] = -4;
  const Case cases[] = {
      {"[1, 2]", "", "vocab.json: expected one JSON object"},
      {"{\"a\": ", "", "vocab.json: not JSON"},
      {json::serialize(negative), "", "vocab.json: the id of token \"the\""},
      {json::serialize(without_end), "", "vocab.json: the vocabulary has no token \"</s>\""},
      {json::serialize(shared_id), "", "share id 0"},
      {json::serialize(no_bytes), "", "neither a token for byte 0"},
      {vocabulary, "#version: 0.2\nh e\nhello\n", "merges.txt:3: \"hello\" is not two tokens"},
      {vocabulary, "#version: 0.2\nq q q\n", "merges.txt:2: \"q q q\" is not two tokens"},
      {vocabulary, "h e\nqq xx\n", "merges.txt:2: the vocabulary has no token \"qq\""},
  };
  for (const Case& c : cases) {
    TemporaryDirectory directory;
    directory.write("vocab.json", c.vocabulary).write("merges.txt", c.merges);
    EXPECT_THAT(load_error(directory), HasSubstr(c.expected));
  }
}

TEST(Tokenizer, RefusesTokenizersOfOtherKinds) {
  json::object unigram = tokenizer_json(true), normalized = unigram, prefixed = unigram, stripped = unigram;
  unigram["model"].as_object()["type"] = "Unigram";
  normalized["normalizer"] = {{"type", "Lowercase"}};
  prefixed["pre_tokenizer"].as_object()["add_prefix_space"] = true;
  stripped["added_tokens"].as_array()[4].as_object()["rstrip"] = true;
  for (const json::object& file : {unigram, normalized, prefixed}) {
    TemporaryDirectory directory;
    directory.write("tokenizer.json", json::serialize(file));
    EXPECT_THAT(load_error(directory), HasSubstr("only byte-level BPE"));
  }
  TemporaryDirectory directory;
  directory.write("tokenizer.json", json::serialize(stripped));
  EXPECT_THAT(load_error(directory), HasSubstr("added token \"<mask>\""));
  directory.write("tokenizer_config.json", R"({"add_prefix_space": true})");
  EXPECT_THAT(load_error(directory), HasSubstr("tokenizer_config.json: add_prefix_space"));
}

TEST(Tokenizer, NamesTheFilesItLooksFor) {
  TemporaryDirectory directory;
  EXPECT_THAT(load_error(directory), HasSubstr("neither vocab.json and merges.txt nor tokenizer.json"));
  directory.write("vocab.json", json::serialize(base_vocabulary()));
  EXPECT_THAT(load_error(directory), HasSubstr("merges.txt"));
}

// GPT-2's own files; the ids are those that OpenAI's encoder.py gives.
TEST(Tokenizer, EncodesAsGpt2WithGpt2sVocabulary) {
  const fs::path files = shared_directory() / "data/tokenizers";
  if (!fs::exists(files / "gpt2_encoder.json.xz")) GTEST_SKIP() << files << " is absent";
  TemporaryDirectory directory;
  const fs::path packed = files / "gpt2_encoder.json.xz", unpacked = directory.path() / "encoder.json";
  ASSERT_EQ(std::system(("xz -dc '" + packed.string() + "' > '" + unpacked.string() + "'").c_str()), 0);
  json::object vocabulary = json::parse(read_file(unpacked).value()).as_object();
  ASSERT_EQ(vocabulary.size(), 50257u);
  vocabulary["<s>"] = 50257;
  vocabulary["</s>"] = 50258;
  directory.write("vocab.json", json::serialize(vocabulary));
  fs::copy(files / "gpt2_vocab.bpe", directory.path() / "merges.txt");
  const Tokenizer tokenizer = Tokenizer::load(directory.path()).value();
  EXPECT_THAT(tokenizer.encode("Hello world", 100), ElementsAre(50257, 15496, 995, 50258));
  EXPECT_THAT(tokenizer.encode("Hello, world!", 100), ElementsAre(50257, 15496, 11, 995, 0, 50258));
  EXPECT_THAT(tokenizer.encode(" the", 100), ElementsAre(50257, 262, 50258));
  EXPECT_THAT(tokenizer.encode("The quick brown fox", 100), ElementsAre(50257, 464, 2068, 7586, 21831, 50258));
  EXPECT_THAT(tokenizer.encode("\n\n", 100), ElementsAre(50257, 628, 50258));
}

}  // namespace
}  // namespace trib::models
