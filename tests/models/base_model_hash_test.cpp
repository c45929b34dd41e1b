#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "models/text_classifier.h"

namespace trib::models {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class BaseModelHash : public testing::Test {
 protected:
  BaseModelHash() {
    std::string name = (fs::temp_directory_path() / "base-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot create " + name);
    directory_ = name;
    write("config.json", "{}");
    write("model.safetensors", "weights");
    write("vocab.json", "{\"a\":0}");
    write("merges.txt", "a b\n");
  }
  ~BaseModelHash() override { fs::remove_all(directory_); }
  void write(const char* name, const char* text) const { std::ofstream(directory_ / name) << text; }
  Sha256 hash() const { return base_model_hash(directory_).value(); }

  fs::path directory_;
};

// printf 'tributary base model 1\n' and, of each file that is there, "NAME SIZE SHA256", through sha256sum.
TEST_F(BaseModelHash, OfTheShippedModelIsWhatSha256sumGives) {
  const fs::path base = fs::path(TRIBUTARY_SOURCE_DIR) / "base/roberta-mini-imdb";
  EXPECT_EQ(to_hex(base_model_hash(base).value()), "32eb4f1867c4c75ff65dbe6bf2960ab84096c52c4f64ede98edaefd981e55ac3");
}

TEST_F(BaseModelHash, ChangesWithTheContentOfEveryFile) {
  const Sha256 before = hash();
  for (const char* name : {"config.json", "model.safetensors", "vocab.json", "merges.txt"}) {
    const fs::path kept = directory_ / "kept";
    fs::rename(directory_ / name, kept);
    write(name, "other");
    EXPECT_NE(hash(), before) << name;
    fs::rename(kept, directory_ / name);
    EXPECT_EQ(hash(), before) << name;
  }
}

TEST_F(BaseModelHash, ChangesWhereAContentMovesToAnotherName) {
  const Sha256 before = hash();
  fs::rename(directory_ / "merges.txt", directory_ / "tokenizer.json");
  EXPECT_NE(hash(), before);
}

TEST_F(BaseModelHash, TakesNoNoticeOfOtherFiles) {
  const Sha256 before = hash();
  write("README.md", "about");
  EXPECT_EQ(hash(), before);
}

TEST_F(BaseModelHash, NamesTheFileThatAModelCannotDoWithout) {
  fs::remove(directory_ / "model.safetensors");
  const Result<Sha256> result = base_model_hash(directory_);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, Errc::not_found);
  EXPECT_THAT(result.error().message, HasSubstr("model.safetensors is missing"));
  EXPECT_THAT(base_model_hash("/nowhere").error().message, HasSubstr("/nowhere: no base model there"));
}

}  // namespace
}  // namespace trib::models
