// `trib data split`: what it deals out is the training file, each record once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/cli/trib_process.h"

namespace trib::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using testing::HasSubstr;

const std::string demo_job = TRIBUTARY_SOURCE_DIR "/experiments/demo/clinc.toml";

// "text,label" or "\"text\",label" as text, tab, label.
std::string without_quotes(const std::string& line) {
  const std::size_t comma = line.rfind(',');
  std::string text = line.substr(0, comma);
  if (text.starts_with('"')) {
    text = text.substr(1, text.size() - 2);
    for (std::size_t at = 0; (at = text.find("\"\"", at)) != std::string::npos; ++at) text.erase(at, 1);
  }
  return text + "\t" + line.substr(comma + 1);
}

std::vector<std::string> sorted_records(const fs::path& file) {
  std::istringstream text(text_of_file(file));
  std::vector<std::string> records;
  std::string line;
  std::getline(text, line);  // the header
  while (std::getline(text, line)) records.push_back(line);
  std::ranges::sort(records);
  return records;
}

TEST(DataSplit, GivesEveryRecordToOneSiteAndSaysHowManyEachHas) {
  const test::TemporaryDirectory directory;
  const ProgramResult result =
      run_trib({"data", "split", demo_job, "--sites", "5", "--out", (directory / "shares").string(), "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json::value said = json::parse(result.out);
  EXPECT_EQ(said.at("data_set").as_string(), "default");
  ASSERT_EQ(said.at("shares").as_array().size(), 5u);

  std::vector<std::string> dealt;  // text and label, the columns that the task reads
  for (const json::value& share : said.at("shares").as_array()) {
    const auto records = sorted_records(std::string(share.at("file").as_string()));
    EXPECT_EQ(records.size(), static_cast<std::size_t>(share.at("records").as_int64()));
    EXPECT_GT(records.size(), 0u);
    for (const std::string& record : records) dealt.push_back(without_quotes(record));
  }
  std::ranges::sort(dealt);
  std::vector<std::string> whole;
  for (const std::string& record : sorted_records(TRIBUTARY_SOURCE_DIR "/datasets/clinc150/train.tsv"))
    whole.push_back(record.substr(0, record.rfind('\t')));
  std::ranges::sort(whole);
  EXPECT_EQ(dealt, whole);
}

TEST(DataSplit, DoesNotMixItsSharesWithOthers) {
  const test::TemporaryDirectory directory;
  write_text(directory / "site-1.tsv", "somebody's\n");
  const ProgramResult result = run_trib({"data", "split", demo_job, "--out", directory.path().string()});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("is not empty"));
  EXPECT_EQ(text_of_file(directory / "site-1.tsv"), "somebody's\n");
}

}  // namespace
}  // namespace trib::cli
