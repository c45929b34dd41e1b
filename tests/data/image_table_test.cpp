// Sets of pictures: folders of classes and tables of paths.
#include "tasks/data/image_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/files.h"

namespace trib::tasks::data {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class ImageTable : public testing::Test {
 protected:
  ImageTable() : directory_(fs::path(testing::TempDir()) / "image_table_test") {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  void file(const std::string& name, const std::string& content = "x") {
    fs::create_directories((directory_ / name).parent_path());
    write_file_durably(directory_ / name, content).value();
  }
  TextTable read() { return read_image_table(directory_, {}).value(); }
  Error error(const fs::path& path) {
    const auto table = read_image_table(path, {.text_column = "path", .label_column = "label"});
    EXPECT_FALSE(table.ok());
    return table ? Error{} : table.error();
  }
  fs::path directory_;
};

TEST_F(ImageTable, OfADirectoryHasAClassForEachFolderInTheOrderOfNames) {
  file("dog/b.png");
  file("dog/a.JPG");
  file("cat/z.jpeg");
  file("cat/notes.txt");
  file("cat/.hidden.png");
  file(".thumbnails/a.png");
  file("README.md");
  const TextTable table = read();
  std::vector<std::string> paths, labels;
  for (const TextRow& row : table.rows) {
    paths.push_back(row.text);
    labels.push_back(row.label.value());
    EXPECT_TRUE(fs::exists(table.path.parent_path() / row.text)) << row.text;
    EXPECT_EQ(row.line, static_cast<std::int64_t>(paths.size()));
  }
  EXPECT_THAT(paths, ElementsAre("cat/z.jpeg", "dog/a.JPG", "dog/b.png"));
  EXPECT_THAT(labels, ElementsAre("cat", "dog", "dog"));
}

TEST_F(ImageTable, OfATableHasPathsBesideIt) {
  file("all/cat/1.png");
  file("all/dog/2.png");
  file("site-1.tsv", "path\tlabel\nall/dog/2.png\tdog\nall/cat/1.png\tcat\n");
  const TextTable table =
      read_image_table(directory_ / "site-1.tsv", {.text_column = "path", .label_column = "label"}).value();
  ASSERT_EQ(table.rows.size(), std::size_t{2});
  EXPECT_EQ(table.rows[0].text, "all/dog/2.png");
  EXPECT_EQ(table.rows[0].label, "dog");
  EXPECT_TRUE(fs::exists(table.path.parent_path() / table.rows[1].text));
}

TEST_F(ImageTable, NamesWhatIsWrong) {
  EXPECT_EQ(error(directory_).code, Errc::invalid_argument);
  EXPECT_THAT(error(directory_).message, HasSubstr("no classes"));
  file("cat/1.png");
  fs::create_directories(directory_ / "dog");
  EXPECT_THAT(error(directory_).message, HasSubstr("dog: a class without pictures"));
  file("dog/1.png");
  file("stray.png");
  EXPECT_THAT(error(directory_).message, HasSubstr("stray.png: a picture beside the classes"));

  file("table.tsv", "path\tlabel\ncat/1.png\tcat\ncat/2.png\tcat\n");
  const Error missing = error(directory_ / "table.tsv");
  EXPECT_EQ(missing.code, Errc::not_found);
  EXPECT_THAT(missing.message, HasSubstr("table.tsv:3: there is no picture"));
  EXPECT_THAT(missing.message, HasSubstr("cat/2.png"));
  file("other.tsv", "file\tlabel\ncat/1.png\tcat\n");
  EXPECT_THAT(error(directory_ / "other.tsv").message, HasSubstr("path"));
  EXPECT_EQ(error(directory_ / "absent.tsv").code, Errc::not_found);
}

}  // namespace
}  // namespace trib::tasks::data
