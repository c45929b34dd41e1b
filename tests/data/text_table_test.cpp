#include "tasks/data/text_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <set>

namespace trib::tasks::data {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Optional;
using testing::SizeIs;

const TextTableOptions with_labels{.format = TableFormat::automatic, .text_column = "text", .label_column = "label"};

fs::path shared_directory() {
  const char* configured = std::getenv("TRIBUTARY_SHARED");
  return configured != nullptr ? fs::path(configured) : fs::path(TRIBUTARY_SOURCE_DIR) / "../shared";
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (fs::temp_directory_path() / "text-table-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot create " + name);
    path_ = name;
  }
  ~TemporaryDirectory() { fs::remove_all(path_); }
  fs::path operator/(const char* name) const { return path_ / name; }

 private:
  fs::path path_;
};

std::vector<std::string> texts(const TextTable& table) {
  std::vector<std::string> result;
  for (const TextRow& row : table.rows) result.push_back(row.text);
  return result;
}

std::vector<std::string> labels(const TextTable& table) {
  std::vector<std::string> result;
  for (const TextRow& row : table.rows) result.push_back(row.label.value());
  return result;
}

std::vector<std::int64_t> line_numbers(const TextTable& table) {
  std::vector<std::int64_t> result;
  for (const TextRow& row : table.rows) result.push_back(row.line);
  return result;
}

TextTable parse(std::string_view bytes, const char* name, const TextTableOptions& options = with_labels) {
  return parse_text_table(bytes, name, options).value();
}

TEST(Tsv, ReadsColumnsByNameInAnyOrder) {
  const TextTable table = parse("id\tlabel\ttext\n1\tgood\tone two\n2\tbad\tthree\n", "a.tsv");
  EXPECT_THAT(texts(table), ElementsAre("one two", "three"));
  EXPECT_THAT(labels(table), ElementsAre("good", "bad"));
  EXPECT_THAT(line_numbers(table), ElementsAre(2, 3));
}

TEST(Tsv, TakesQuotesAndCommasAsTheyAre) {
  const TextTable table = parse("text\tlabel\n\"please, set 5 minute timer\t1\nsay \"hi\"\t0\n", "a.tsv");
  EXPECT_THAT(texts(table), ElementsAre("\"please, set 5 minute timer", "say \"hi\""));
}

TEST(Tsv, KeepsSpacesAndEmptyFields) {
  const TextTable table = parse("text\tlabel\n hide new secretions \t0\n\t1\n", "a.tsv");
  EXPECT_THAT(texts(table), ElementsAre(" hide new secretions ", ""));
}

TEST(AnyTable, DropsByteOrderMarksCarriageReturnsAndEmptyLines) {
  const TextTable tsv = parse("\xEF\xBB\xBFtext\tlabel\r\n\r\none\ta\r\n\r\n\r\ntwo\tb\r\n", "a.tsv");
  EXPECT_THAT(texts(tsv), ElementsAre("one", "two"));
  EXPECT_THAT(labels(tsv), ElementsAre("a", "b"));
  EXPECT_THAT(line_numbers(tsv), ElementsAre(3, 6));
  const TextTable csv = parse("\xEF\xBB\xBF\"text\",label\r\none,a\r\n\r\ntwo,b\r", "a.csv");
  EXPECT_THAT(labels(csv), ElementsAre("a", "b"));
  const TextTable jsonl =
      parse("\xEF\xBB\xBF{\"text\":\"one\",\"label\":\"a\"}\r\n \r\n{\"text\":\"two\",\"label\":\"b\"}", "a.jsonl");
  EXPECT_THAT(texts(jsonl), ElementsAre("one", "two"));
  EXPECT_THAT(line_numbers(jsonl), ElementsAre(1, 3));
}

TEST(AnyTable, NeedsNoNewlineAtTheEnd) {
  EXPECT_THAT(labels(parse("text\tlabel\none\ta", "a.tsv")), ElementsAre("a"));
  EXPECT_THAT(labels(parse("text,label\none,a", "a.csv")), ElementsAre("a"));
  EXPECT_THAT(labels(parse("text,label\none,", "a.csv")), ElementsAre(""));
  EXPECT_THAT(labels(parse("text,label\none,\"a\"", "a.csv")), ElementsAre("a"));
}

TEST(AnyTable, LeavesLabelsOutWhereNoneAreAskedFor) {
  const TextTable table = parse("text\tlabel\none\ta\n", "a.tsv", {});
  EXPECT_EQ(table.rows[0].label, std::nullopt);
}

TEST(AnyTable, IsReadInTheFormatThatWasNamedWhateverTheEnding) {
  TextTableOptions options = with_labels;
  options.format = TableFormat::csv;
  EXPECT_THAT(texts(parse("text,label\n\"a,b\",1\n", "data.txt", options)), ElementsAre("a,b"));
  EXPECT_THAT(texts(parse("text,label\nx,1\n", "DATA.CSV")), ElementsAre("x"));
}

TEST(Csv, ReadsQuotedFields) {
  const TextTable table = parse("text,label\n\"a, b\",1\n\"say \"\"hi\"\"\",2\n\"\",3\n\"\"\"\",4\n", "a.csv");
  EXPECT_THAT(texts(table), ElementsAre("a, b", "say \"hi\"", "", "\""));
  EXPECT_THAT(labels(table), ElementsAre("1", "2", "3", "4"));
}

TEST(Csv, KeepsNewlinesInsideQuotesAndCountsTheirLines) {
  const TextTable table = parse("text,label\n\"one\r\ntwo\n\nthree\",1\nfour,2\n", "a.csv");
  EXPECT_THAT(texts(table), ElementsAre("one\r\ntwo\n\nthree", "four"));
  EXPECT_THAT(line_numbers(table), ElementsAre(2, 6));
}

TEST(Csv, TakesAQuoteInsideAnUnquotedFieldAsACharacter) {
  EXPECT_THAT(texts(parse("text,label\n5\" screen,1\n", "a.csv")), ElementsAre("5\" screen"));
}

TEST(Csv, MayHaveQuotedColumnNames) {
  EXPECT_THAT(texts(parse("\"label\",\"text\"\n1,x\n", "a.csv")), ElementsAre("x"));
}

TEST(Jsonl, ReadsStringsWithEscapesAndLabelsOfEveryScalarKind) {
  const TextTable table = parse(
      "{\"text\": \"a\\tb\\n\\u00e9\", \"label\": \"x\"}\n{\"label\": 3, \"text\": \"\"}\n"
      "{\"text\": \"t\", \"label\": true, \"more\": [1]}\n{\"text\": \"u\", \"label\": 18446744073709551615}\n",
      "a.jsonl");
  EXPECT_THAT(texts(table), ElementsAre("a\tb\n\xC3\xA9", "", "t", "u"));
  EXPECT_THAT(labels(table), ElementsAre("x", "3", "true", "18446744073709551615"));
}

struct BadTable {
  const char* name;
  std::string bytes;
  const char* expected;
};

void PrintTo(const BadTable& table, std::ostream* out) {
  *out << table.name << ": " << table.expected;
}

class BadTables : public testing::TestWithParam<BadTable> {};

TEST_P(BadTables, AreRefusedWithFileLineAndValue) {
  const Result<TextTable> result = parse_text_table(GetParam().bytes, GetParam().name, with_labels);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, Errc::invalid_argument);
  EXPECT_EQ(result.error().message, GetParam().expected);
}

INSTANTIATE_TEST_SUITE_P(
    AnyTable, BadTables,
    testing::Values(
        BadTable{"a.txt", "text\tlabel\na\t1\n",
                 "a.txt: cannot tell the format from the ending \".txt\": name it (tsv, csv or jsonl), or rename the "
                 "file to end in .tsv, .csv or .jsonl"},
        BadTable{"a.tsv", "", "a.tsv: is empty; its first line must name the columns"},
        BadTable{"a.csv", "\n\r\n\n", "a.csv: is empty; its first line must name the columns"},
        BadTable{"a.tsv", "text\tlabel\n", "a.tsv: holds no records"},
        BadTable{"a.jsonl", "\n\n", "a.jsonl: holds no records"},
        BadTable{"a.tsv", "sentence\tlabel\nx\t1\n",
                 "a.tsv:1: there is no column \"text\"; columns: \"sentence\", \"label\""},
        BadTable{"a.csv", "text,category\nx,1\n",
                 "a.csv:1: there is no column \"label\"; columns: \"text\", \"category\""},
        BadTable{"a.csv", "text\tlabel\nx\t1\n", "a.csv:1: there is no column \"text\"; columns: \"text\\tlabel\""},
        BadTable{"a.tsv", "text\tlabel\ttext\nx\t1\ty\n", "a.tsv:1: there are two columns \"text\""},
        BadTable{"a.tsv", "text\tlabel\nx\t1\ny\n", "a.tsv:3: has 1 fields where the header names 2"},
        BadTable{"a.tsv", "text\tlabel\n\nx\ty\t1\n", "a.tsv:3: has 3 fields where the header names 2"},
        BadTable{"a.csv", "text,label\n\"a\nb\",1\nhello, world,2\n", "a.csv:4: has 3 fields where the header names 2"},
        BadTable{"a.csv", "text,label\nx,1\n\"never closed,2\ny,3\n",
                 "a.csv:3: a quoted field starts here and has no closing quote"},
        BadTable{"a.csv", "text,label\nx,\"", "a.csv:2: a quoted field starts here and has no closing quote"},
        BadTable{"a.csv", "text,label\n\"say \"hi\"\",1\n",
                 "a.csv:2: a quoted field goes on after its closing quote; a quote inside it must be doubled"},
        BadTable{"a.tsv", "text\tlabel\nfine\t1\ncaf\xE9\t0\n",
                 "a.tsv:3: byte 4 of the line (0xE9) is not UTF-8: convert the file to UTF-8"},
        BadTable{"a.csv", "\xFF\xFEt\0e\0",
                 "a.csv:1: byte 1 of the line (0xFF) is not UTF-8: convert the file to UTF-8"},
        BadTable{"a.jsonl", "{\"text\":\"\xC0\x80\",\"label\":1}",
                 "a.jsonl:1: byte 10 of the line (0xC0) is not UTF-8: convert the file to UTF-8"},
        BadTable{"a.jsonl", "{\"text\":\"a\",\"label\":1}\n[1]\n", "a.jsonl:2: must be a JSON object, is \"[1]\""},
        BadTable{"a.jsonl", "{\"label\":1,\"body\":\"x\"}\n",
                 "a.jsonl:1: there is no key \"text\"; keys: \"label\", \"body\""},
        BadTable{"a.jsonl", "{\"text\":\"a\"}\n", "a.jsonl:1: there is no key \"label\"; keys: \"text\""},
        BadTable{"a.jsonl", "{\"text\":7,\"label\":1}\n", "a.jsonl:1: \"text\" must be a string, is \"7\""},
        BadTable{"a.jsonl", "{\"text\":\"a\",\"label\":[1]}\n",
                 "a.jsonl:1: \"label\" must be a string, a whole number or a boolean, is \"[1]\""},
        BadTable{"a.jsonl", "{\"text\":\"a\",\"label\":null}\n",
                 "a.jsonl:1: \"label\" must be a string, a whole number or a boolean, is \"null\""}));

TEST(Jsonl, SaysWhichLineIsNotJson) {
  const Result<TextTable> result =
      parse_text_table("{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\",\n", "a.jsonl", with_labels);
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr("a.jsonl:2: is not JSON"));
}

TEST(AnyTable, ThatIsNotThereIsNamed) {
  const Result<TextTable> result = read_text_table("/nowhere/data.tsv", with_labels);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, Errc::not_found);
  EXPECT_THAT(result.error().message, HasSubstr("/nowhere/data.tsv"));
}

TEST(TableFormats, AreNamedInErrors) {
  EXPECT_EQ(table_format_from_string("auto").value(), TableFormat::automatic);
  EXPECT_EQ(table_format_from_string("tsv").value(), TableFormat::tsv);
  EXPECT_EQ(table_format_from_string("csv").value(), TableFormat::csv);
  EXPECT_EQ(table_format_from_string("jsonl").value(), TableFormat::jsonl);
  EXPECT_EQ(table_format_from_string("xml").error().message,
            "\"xml\" is no table format; accepted: \"auto\", \"tsv\", \"csv\", \"jsonl\"");
}

TEST(Labels, AreFoundByTheirText) {
  const TextTable table = parse("text\tlabel\na\tno\nb\tyes\n", "a.tsv");
  const std::vector<std::string> accepted = {"yes", "no"};
  EXPECT_EQ(label_index(accepted, table, table.rows[0]).value(), 1);
  EXPECT_EQ(label_index(accepted, table, table.rows[1]).value(), 0);
}

TEST(Labels, ThatAreNotAcceptedAreNamedWithFileAndLine) {
  const TextTable table = parse("text\tlabel\na\tno\nb\tmaybe\n", "a.tsv");
  const Result<std::int32_t> result = label_index(std::vector<std::string>{"yes", "no"}, table, table.rows[1]);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message, "a.tsv:3: label \"maybe\" is none of the accepted labels: \"yes\", \"no\"");
}

TEST(Labels, OfALongSetAreNotAllListed) {
  std::vector<std::string> accepted;
  for (int i = 0; i < 77; ++i) accepted.push_back("label " + std::to_string(i));
  const TextTable table = parse("text\tlabel\na\t" + std::string(200, 'x') + "\n", "a.tsv");
  const std::string message = label_index(accepted, table, table.rows[0]).error().message;
  EXPECT_THAT(message, HasSubstr("and 57 more"));
  EXPECT_LT(message.size(), 600u);
}

TEST(Labels, AreMissingWhereTheTableWasReadWithoutThem) {
  const TextTable table = parse("text\tlabel\na\tno\n", "a.tsv", {});
  EXPECT_THAT(label_index(std::vector<std::string>{"no"}, table, table.rows[0]).error().message,
              HasSubstr("a.tsv:2: has no label"));
}

TEST(WrittenCsv, ReadsBackAsItWas) {
  TemporaryDirectory directory;
  const std::vector<TextRow> rows = {{"plain", "a", 1},
                                     {"comma, \"quote\"", "b,c", 2},
                                     {"line\nbreak\r\n", "\"", 3},
                                     {"", "", 4},
                                     {" spaces ", "caf\xC3\xA9", 5}};
  ASSERT_TRUE(write_csv(directory / "out.csv", rows, with_labels));
  const TextTable table = read_text_table(directory / "out.csv", with_labels).value();
  ASSERT_THAT(table.rows, SizeIs(rows.size()));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(table.rows[i].text, rows[i].text);
    EXPECT_EQ(table.rows[i].label, rows[i].label);
  }
}

TEST(AnyTable, ReadsAFurtherColumnWhereTheFileHasIt) {
  TextTableOptions options = with_labels;
  options.extra_column = "phase";
  EXPECT_EQ(parse("phase\ttext\tlabel\n2\ta\tx\n\tb\ty\n", "a.tsv", options).rows[0].extra, "2");
  EXPECT_EQ(parse("phase,text,label\n2,a,x\n,b,y\n", "a.csv", options).rows[1].extra, "");
  EXPECT_EQ(parse("text,label\na,x\n", "a.csv", options).rows[0].extra, std::nullopt);
  const TextTable lines =
      parse("{\"text\": \"a\", \"label\": 1, \"phase\": 3}\n{\"text\": \"b\", \"label\": 1}\n", "a.jsonl", options);
  EXPECT_EQ(lines.rows[0].extra, "3");
  EXPECT_EQ(lines.rows[1].extra, std::nullopt);
  EXPECT_THAT(parse_text_table("{\"text\": \"a\", \"label\": 1, \"phase\": 1.5}\n", "a.jsonl", options).error().message,
              HasSubstr("\"phase\" must be a string, a whole number or a boolean, is \"1.5"));
}

TEST(WrittenCsv, HasAFurtherColumnWhereItsOptionsNameOne) {
  const TemporaryDirectory directory;
  TextTableOptions options = with_labels;
  options.extra_column = "phase";
  const std::vector<TextRow> rows = {{"a, b", "x", 1, "2"}, {"", "y", 2, "1"}};
  ASSERT_TRUE(write_csv(directory / "out.csv", rows, options));
  const TextTable table = read_text_table(directory / "out.csv", options).value();
  ASSERT_THAT(table.rows, SizeIs(2));
  EXPECT_EQ(table.rows[0].extra, "2");
  EXPECT_EQ(table.rows[1].extra, "1");
  EXPECT_THAT(write_csv(directory / "out.csv", std::vector<TextRow>{{"a", "x", 1}}, options).error().message,
              HasSubstr("without an extra value"));
}

TEST(WrittenCsv, ReadsBackWithoutLabelsAndWithEmptyTexts) {
  TemporaryDirectory directory;
  const std::vector<TextRow> rows = {{"", std::nullopt, 1}, {"x", std::nullopt, 2}, {"", std::nullopt, 3}};
  ASSERT_TRUE(write_csv(directory / "out.csv", rows, {}));
  EXPECT_THAT(texts(read_text_table(directory / "out.csv", {}).value()), ElementsAre("", "x", ""));
}

TEST(WrittenCsv, RefusesARowWithoutItsLabel) {
  TemporaryDirectory directory;
  const std::vector<TextRow> rows = {{"x", std::nullopt, 7}};
  EXPECT_FALSE(write_csv(directory / "out.csv", rows, with_labels).ok());
  EXPECT_FALSE(fs::exists(directory / "out.csv"));
}

TEST(ShippedClinc150, HasTheSameNumberOfRecordsOfEachDomainInEverySplit) {
  const std::pair<const char*, std::size_t> splits[] = {{"train.tsv", 1500}, {"valid.tsv", 300}, {"test.tsv", 450}};
  for (const auto& [name, of_each_domain] : splits) {
    const fs::path path = fs::path(TRIBUTARY_SOURCE_DIR) / "datasets/clinc150" / name;
    std::map<std::string, std::size_t> counts;
    for (const std::string& label : labels(read_text_table(path, with_labels).value())) ++counts[label];
    EXPECT_THAT(counts, SizeIs(10)) << name;
    for (const auto& [label, count] : counts) EXPECT_EQ(count, of_each_domain) << name << ", " << label;
  }
}

struct PublicSet {
  const char* packed;
  const char* unpacked;
  const char* text_column;
  const char* label_column;
  std::size_t rows;
  std::size_t classes;
};

void PrintTo(const PublicSet& set, std::ostream* out) {
  *out << set.packed;
}

class PublicSets : public testing::TestWithParam<PublicSet> {};

TEST_P(PublicSets, HaveAllTheirRowsAndClasses) {
  const PublicSet& set = GetParam();
  const fs::path packed = shared_directory() / "data" / set.packed;
  if (!fs::exists(packed)) GTEST_SKIP() << packed << " is absent";
  TemporaryDirectory directory;
  const fs::path unpacked = directory / set.unpacked;
  ASSERT_EQ(std::system(("xz -dc '" + packed.string() + "' > '" + unpacked.string() + "'").c_str()), 0);
  const TextTableOptions options{
      .format = TableFormat::automatic, .text_column = set.text_column, .label_column = set.label_column};
  const TextTable table = read_text_table(unpacked, options).value();
  const std::vector<std::string> all = labels(table);
  EXPECT_THAT(table.rows, SizeIs(set.rows));
  EXPECT_THAT(std::set<std::string>(all.begin(), all.end()), SizeIs(set.classes));
}

INSTANTIATE_TEST_SUITE_P(
    FromTheirPublishers, PublicSets,
    testing::Values(PublicSet{"sst2/SST-2_train.tsv.xz", "train.tsv", "sentence", "label", 67349, 2},
                    PublicSet{"sst2/SST-2_dev.tsv.xz", "dev.tsv", "sentence", "label", 872, 2},
                    PublicSet{"sst2/SST-2_test-labeled.tsv.xz", "test.tsv", "sentence", "label", 1821, 2},
                    PublicSet{"banking77/train.csv.xz", "train.csv", "text", "category", 10003, 77},
                    PublicSet{"banking77/test.csv.xz", "test.csv", "text", "category", 3080, 77},
                    PublicSet{"imdb/train.tsv.xz", "imdb.tsv", "sentence", "label", 25000, 2}));

}  // namespace
}  // namespace trib::tasks::data
