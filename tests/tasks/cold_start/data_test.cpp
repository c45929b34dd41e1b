// Loaders, splits, catalogues and site files: what they read, and what they say of what is wrong.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "common/files.h"
#include "tasks/cold_start/catalogue.h"
#include "tasks/cold_start/split.h"

namespace trib::tasks::cold_start {
namespace {

namespace fs = std::filesystem;

class ColdStartData : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              ("cold-start-data-" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    write("users.dat", "1::F::1::10::48067\n2::M::56::16::X1A\n3::M::25::15::55117\n");
    write("movies.dat", "1::Toy Story (1995)::Animation|Children's|Comedy\n2::Jumanji (1995)::Adventure\n");
    write("ratings.dat", "1::1::5::978300760\n1::2::3::978302109\n2::1::4::978300275\n");
  }
  void TearDown() override { fs::remove_all(folder_); }
  void write(const std::string& name, std::string_view text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  std::string error_of_1m() const {
    const auto read = read_movielens_1m(folder_);
    return read ? "" : read.error().message;
  }
  std::string error_of_site(std::string_view text) const {
    write("site.tsv", text);
    const auto read = read_site_file(folder_ / "site.tsv");
    return read ? "" : read.error().message;
  }
  fs::path folder_;
};

using ::testing::Test;
#define EXPECT_SAYS(message, ...) \
  for (const std::string part : {__VA_ARGS__}) EXPECT_NE((message).find(part), std::string::npos) << (message)

TEST_F(ColdStartData, OfMovielens1mIsReadAsItIsWritten) {
  const Dataset dataset = read_movielens_1m(folder_).value();
  ASSERT_EQ(dataset.users.size(), 3u);
  EXPECT_EQ(dataset.users[0].attributes, (UserAttributes{.gender = 0, .age = 0, .occupation = 10, .region = 4}));
  EXPECT_EQ(dataset.users[1].attributes, (UserAttributes{.gender = 1, .age = 6, .occupation = 16, .region = 10}));
  ASSERT_EQ(dataset.items.size(), 2u);
  EXPECT_EQ(dataset.items[0].title, "Toy Story (1995)");
  EXPECT_EQ(dataset.items[0].year, 1995);
  EXPECT_EQ(dataset.genres, (std::vector<std::string>{"Animation", "Children's", "Comedy", "Adventure"}));
  EXPECT_EQ(dataset.items[1].genres, (std::vector<std::int32_t>{3}));
  ASSERT_EQ(dataset.interactions.size(), 3u);
  EXPECT_EQ(dataset.interactions[1].item, 1);
  EXPECT_EQ(dataset.interactions[1].time, 978302109);
}

TEST_F(ColdStartData, WithoutRatingsAndTimesIsReadToo) {
  write("ratings.dat", "1::1\n2::2\n2::2\n");
  const Dataset dataset = read_movielens_1m(folder_).value();
  EXPECT_EQ(dataset.interactions.size(), 2u) << "a pair counts once";
  EXPECT_EQ(dataset.interactions[0].time, 0);
}

TEST_F(ColdStartData, WithLatin1TitlesBecomesUtf8) {
  write("movies.dat", "1::Mis\xE9rables, Les (1995)::Drama\n2::Cit\xE9 (1994)::Drama\n");
  const Dataset dataset = read_movielens_1m(folder_).value();
  EXPECT_EQ(dataset.items[0].title, "Mis\xC3\xA9rables, Les (1995)");
  EXPECT_EQ(title_words(dataset.items[0].title), (std::vector<std::string>{"mis\xC3\xA9rables", "les"}));
}

TEST_F(ColdStartData, WithAUserTwiceIsRefusedWithBothLines) {
  write("users.dat", "1::F::1::10::48067\n2::M::56::16::70072\n1::M::25::15::55117\n");
  EXPECT_SAYS(error_of_1m(), "users.dat:3", "user 1 is there twice", "line 1");
}

TEST_F(ColdStartData, WithAMovieTwiceIsRefusedWithBothLines) {
  write("movies.dat", "7::A (1990)::Drama\n7::B (1991)::Drama\n");
  EXPECT_SAYS(error_of_1m(), "movies.dat:2", "movie 7 is there twice", "line 1");
}

TEST_F(ColdStartData, WithARatingByAnUnknownUserIsRefused) {
  write("ratings.dat", "1::1::5::978300760\n99::1::5::978300760\n");
  EXPECT_SAYS(error_of_1m(), "ratings.dat:2", "user 99 is not in users.dat");
}

TEST_F(ColdStartData, WithARatingOfAnUnknownMovieIsRefused) {
  write("ratings.dat", "1::404::5::978300760\n");
  EXPECT_SAYS(error_of_1m(), "ratings.dat:1", "movie 404 is not in movies.dat");
}

TEST_F(ColdStartData, WithBadFieldsIsRefusedWithTheValueAndWhatIsAccepted) {
  write("users.dat", "1::Q::1::10::48067\n");
  EXPECT_SAYS(error_of_1m(), "users.dat:1", "gender 'Q'", "F, M");
  write("users.dat", "1::F::1::77::48067\n");
  EXPECT_SAYS(error_of_1m(), "users.dat:1", "occupation '77'", "0 to 23");
  write("users.dat", "1::F::1\n");
  EXPECT_SAYS(error_of_1m(), "users.dat:1", "3 fields", "Gender");
  write("users.dat", "1::F::old::1::4\n");
  EXPECT_SAYS(error_of_1m(), "age 'old'");
  fs::remove(folder_ / "users.dat");
  EXPECT_SAYS(error_of_1m(), "users.dat", "original MovieLens files");
}

TEST_F(ColdStartData, OfMovielens100kIsReadAsItIsWritten) {
  write("u.genre", "unknown|0\nAction|1\nDrama|2\n\n");
  write("u.user", "1|24|M|technician|85711\n2|53|F|salesman|V0R2M\n");
  write("u.item", "1|Toy Story (1995)|01-Jan-1995||http://x|0|1|1\n2|unknown|||http://x|1|0|0\n");
  write("u.data", "2\t1\t3\t881250949\n");
  const Dataset dataset = read_movielens_100k(folder_).value();
  EXPECT_EQ(dataset.users[0].attributes, (UserAttributes{.gender = 1, .age = 1, .occupation = 22, .region = 8}));
  EXPECT_EQ(dataset.users[1].attributes, (UserAttributes{.gender = 0, .age = 5, .occupation = 14, .region = 10}));
  EXPECT_EQ(dataset.items[0].genres, (std::vector<std::int32_t>{1, 2}));
  EXPECT_EQ(dataset.items[0].year, 1995);
  EXPECT_EQ(dataset.items[1].year, 0);
  EXPECT_EQ(dataset.interactions[0].user, 1);
}

TEST_F(ColdStartData, OfTheOriginalsHasTheirDocumentedSizes) {
  const char* data = std::getenv("TRIBUTARY_DATA");
  if (data == nullptr || !fs::exists(fs::path(data) / "ml-100k" / "u.data"))
    GTEST_SKIP() << "TRIBUTARY_DATA names no folder with ml-100k/u.data: MovieLens may not be redistributed "
                    "(experiments/data/README.md says how to get it)";
  const fs::path originals = fs::path(data) / "ml-100k";
  const Dataset dataset = read_movielens_100k(originals).value();
  EXPECT_EQ(dataset.users.size(), 943u);
  EXPECT_EQ(dataset.items.size(), 1682u);
  EXPECT_EQ(dataset.interactions.size(), 100000u);
}

TEST_F(ColdStartData, ThatIsMadeUpComesBackFromItsFiles) {
  const Dataset made = make_synthetic({.users = 30, .items = 20, .interactions_per_user = 6, .seed = 5});
  ASSERT_TRUE(write_movielens_1m(made, folder_ / "made").ok());
  const Dataset read = read_movielens_1m(folder_ / "made").value();
  ASSERT_EQ(read.users.size(), made.users.size());
  for (std::size_t u = 0; u < made.users.size(); ++u) EXPECT_EQ(read.users[u].attributes, made.users[u].attributes);
  EXPECT_EQ(read.interactions.size(), made.interactions.size());
  for (std::size_t i = 0; i < made.items.size(); ++i) EXPECT_EQ(read.items[i].year, made.items[i].year);
}

TEST(ColdStartSplit, HasTheProtocolsSharesAndNeverTrainsOnWhatIsCold) {
  const Dataset dataset = make_synthetic({.users = 300, .items = 200, .interactions_per_user = 30, .seed = 2});
  const Split split = Split::make(dataset, {.cold_items = 0.2, .cold_users = 0.1}).value();
  std::set<std::int32_t> rated, active;
  for (const Interaction& pair : dataset.interactions) {
    rated.insert(pair.item);
    active.insert(pair.user);
  }
  const auto available = split.available();
  const auto warm_items = std::ranges::count(available, 1);
  EXPECT_EQ(warm_items, static_cast<std::ptrdiff_t>(0.8 * static_cast<double>(rated.size())));
  std::size_t cold_users = 0;
  for (const std::int32_t user : active) cold_users += split.is_cold_user(user) ? 1 : 0;
  EXPECT_EQ(cold_users, active.size() - static_cast<std::size_t>(0.9 * static_cast<double>(active.size()) + 1e-9));
  for (const Interaction& pair : split.training()) {
    ASSERT_FALSE(split.is_cold_item(pair.item));
    ASSERT_FALSE(split.is_cold_user(pair.user));
  }
}

TEST(ColdStartSplit, PutsEveryInteractionIntoOnePlace) {
  const Dataset dataset = make_synthetic({.users = 300, .items = 200, .interactions_per_user = 30, .seed = 2});
  const Split split = Split::make(dataset, {.cold_items = 0.2, .cold_users = 0.1}).value();
  std::map<std::pair<std::int32_t, std::int32_t>, int> places;
  for (const Interaction& pair : split.training()) ++places[{pair.user, pair.item}];
  std::size_t mixed = 0;  // a cold validation user with a cold test item, or the other way: asked about by nobody
  for (const Part part : {Part::validation, Part::test}) {
    for (const Setting setting : {Setting::warm, Setting::cold_item, Setting::cold_user, Setting::both_cold}) {
      const RankingQueries queries = split.queries(setting, part);
      for (std::size_t q = 0; q < queries.users.size(); ++q) {
        for (const std::int32_t item : queries.relevant[q]) {
          ++places[{queries.users[q], item}];
          EXPECT_EQ(queries.candidate[static_cast<std::size_t>(item)], 1);
          EXPECT_FALSE(std::ranges::binary_search(queries.excluded[q], item));
        }
      }
    }
  }
  for (const Interaction& pair : dataset.interactions) {
    const int count = places[{pair.user, pair.item}];
    ASSERT_LE(count, 1);
    if (count == 0) {
      ++mixed;
      ASSERT_TRUE(split.is_cold_user(pair.user) && split.is_cold_item(pair.item));
    }
  }
  EXPECT_LT(mixed, dataset.interactions.size() / 50);
}

TEST(ColdStartSplit, RanksColdItemsAmongAllColdItemsAndWarmAmongWarm) {
  const Dataset dataset = make_synthetic({.users = 300, .items = 200, .interactions_per_user = 30, .seed = 2});
  const Split split = Split::make(dataset, {}).value();
  const RankingQueries cold = split.queries(Setting::cold_item, Part::test);
  const RankingQueries warm = split.queries(Setting::warm, Part::test);
  std::set<std::int32_t> rated;
  for (const Interaction& pair : dataset.interactions) rated.insert(pair.item);
  for (std::int32_t item = 0; item < 200; ++item) {
    const auto i = static_cast<std::size_t>(item);
    EXPECT_LE(cold.candidate[i] + warm.candidate[i], 1);
    EXPECT_EQ(cold.candidate[i] != 0, split.is_cold_item(item) && rated.contains(item));
  }
  EXPECT_TRUE(split.queries(Setting::cold_user, Part::test).users.empty());
}

TEST(ColdStartSplit, WithoutAnythingToTrainOnIsRefused) {
  const auto split = Split::make(Dataset{}, {});
  ASSERT_FALSE(split);
  EXPECT_SAYS(split.error().message, "no interaction is left", "split.cold_items");
}

TEST(ColdStartCatalogue, ComesBackFromItsTensorsAndRefusesDamagedOnes) {
  const Dataset dataset = make_synthetic({.users = 30, .items = 40, .interactions_per_user = 6, .seed = 5});
  const Split split = Split::make(dataset, {}).value();
  const Catalogue catalogue = Catalogue::from(dataset, split.available(), 2);
  TensorMap tensors = catalogue.to_tensors();
  const Catalogue back = Catalogue::from_tensors(tensors).value();
  EXPECT_EQ(back.to_tensors(), tensors);
  EXPECT_EQ(back.find("7"), 6);
  EXPECT_EQ(back.find("none"), -1);
  tensors["catalogue.genre.features"].as<std::int32_t>()[0] = 999;
  EXPECT_SAYS(Catalogue::from_tensors(tensors).error().message, "catalogue.genre");
  tensors.erase("catalogue.year.offsets");
  EXPECT_FALSE(Catalogue::from_tensors(tensors));
}

TEST(ColdStartCatalogue, HasTheWordsThatEnoughAvailableTitlesHave) {
  Dataset dataset;
  for (const char* title :
       {"The Red Balloon (1956)", "The Red Shoes (1948)", "Red, red (1990)", "The Blue Balloon (1999)"})
    dataset.items.push_back({.id = title, .title = title, .genres = {}, .year = 1990});
  // Of the first three: the 2, red 3 (a title that says it twice counts once), balloon and shoes 1.
  const std::vector<std::uint8_t> available = {1, 1, 1, 0};
  const auto words_of = [&](std::int64_t min_word_count) {
    const Catalogue catalogue = Catalogue::from(dataset, available, min_word_count);
    const FeatureGroup& title = catalogue.groups().front();
    std::vector<std::size_t> counts = {static_cast<std::size_t>(title.vocabulary)};
    for (std::int64_t item = 0; item < 4; ++item) counts.push_back(title.of(item).size());
    return counts;
  };
  EXPECT_EQ(words_of(1), (std::vector<std::size_t>{4, 3, 3, 1, 2}));  // no "blue": no available title has it
  EXPECT_EQ(words_of(2), (std::vector<std::size_t>{2, 2, 2, 1, 1}));
  EXPECT_EQ(words_of(3), (std::vector<std::size_t>{1, 1, 1, 1, 0}));
  EXPECT_EQ(words_of(4), (std::vector<std::size_t>{1, 0, 0, 0, 0}));  // a table has a row at least
}

TEST_F(ColdStartData, OfASiteComesBackFromItsFile) {
  const Dataset dataset = read_movielens_1m(folder_).value();
  const Catalogue catalogue = Catalogue::from(dataset, {1, 1}, 1);
  const std::vector<std::int32_t> all = {0, 1, 2};
  ASSERT_TRUE(write_site_file(folder_ / "site.tsv", dataset, all, dataset.interactions).ok());
  const auto users = read_site_file(folder_ / "site.tsv").value();
  const auto records = resolve(users, catalogue, "site.tsv").value(),
             expected = user_records(dataset, dataset.interactions);
  ASSERT_EQ(records.size(), 3u);
  for (std::size_t u = 0; u < 3; ++u) {
    EXPECT_EQ(records[u].id, expected[u].id);
    EXPECT_EQ(records[u].items, expected[u].items);
    EXPECT_EQ(records[u].features, expected[u].features);
  }
  EXPECT_TRUE(records[2].items.empty()) << "a user without interactions is a user";
}

TEST_F(ColdStartData, OfASiteThatIsWrongIsRefusedWithLineAndValue) {
  const std::string header = "user\tgender\tage\toccupation\tregion\titems\n";
  EXPECT_SAYS(error_of_site("user\titems\n"), "site.tsv:1", "header");
  EXPECT_SAYS(error_of_site(header + "1\tF\t25\t3\t4\t1 2\n1\tF\t25\t3\t4\t1\n"), "site.tsv:3", "user 1 is there twice",
              "line 2");
  EXPECT_SAYS(error_of_site(header + "1\tX\t25\t3\t4\t1\n"), "site.tsv:2", "gender 'X'");
  EXPECT_SAYS(error_of_site(header + "1\tF\t25\t3\t4\t1:yesterday\n"), "site.tsv:2", "1:yesterday");
  EXPECT_EQ(error_of_site(header + "1\t\t\t\t\t\n"), "") << "nothing is known of this user, which is no error";
}

TEST_F(ColdStartData, OfASiteWithAnItemThatTheCatalogueLacksIsRefused) {
  const Dataset dataset = read_movielens_1m(folder_).value();
  const Catalogue catalogue = Catalogue::from(dataset, {1, 0}, 1);
  write("site.tsv", "user\tgender\tage\toccupation\tregion\titems\n8\tF\t25\t3\t4\t77\n");
  auto users = read_site_file(folder_ / "site.tsv").value();
  EXPECT_SAYS(resolve(users, catalogue, "site.tsv").error().message, "site.tsv:2", "item 77",
              "not in the job's catalogue");
  users[0].items = {"2"};
  EXPECT_SAYS(resolve(users, catalogue, "site.tsv").error().message, "item 2", "had not appeared yet");
}

}  // namespace
}  // namespace trib::tasks::cold_start
