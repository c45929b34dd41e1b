// The cache's file: what it gives back, and what it makes of a crash.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "tests/tasks/features_fixture.h"

namespace trib::tasks::features {
namespace {

// Features that say how often they were made.
class Counting final : public FeatureExtractor {
 public:
  explicit Counting(std::string seed = "counting") : identity_(to_hex(sha256(seed))) {}
  ItemKind kind() const override { return ItemKind::text; }
  std::int64_t width() const override { return 3; }
  const std::string& identity() const override { return identity_; }
  Result<HostTensor> extract(std::span<const Item> items, Progress&) override {
    HostTensor result(DType::f32, {static_cast<std::int64_t>(items.size()), 3});
    for (std::size_t i = 0; i < items.size(); ++i) {
      ++made;
      result.as<float>()[3 * i] = static_cast<float>(items[i].text.size());
      result.as<float>()[3 * i + 1] = value;
    }
    return result;
  }
  int made = 0;
  float value = 0.5f;

 private:
  std::string identity_;
};

constexpr std::size_t header = 96, record = 32 + 3 * 4 + 16;

class FeatureCacheTest : public testing::Test {
 protected:
  FeatureCacheTest() : directory_(fresh_directory("feature_cache_test")) {}
  std::unique_ptr<FeatureCache> open() { return FeatureCache::open(directory_, extractor_).value(); }
  fs::path file() const { return FeatureCache::file_of(directory_, extractor_); }
  static std::vector<Item> items(int count) {
    std::vector<Item> result;
    for (int i = 0; i < count; ++i)
      result.push_back({.name = std::to_string(i), .text = std::string(static_cast<std::size_t>(i), 'x'), .image = {}});
    return result;
  }
  Counting extractor_;
  RisingProgress progress_;
  fs::path directory_;
};

TEST_F(FeatureCacheTest, MakesEachItemOnce) {
  const HostTensor first = extract_features(extractor_, open().get(), items(5), progress_).value();
  EXPECT_EQ(extractor_.made, 5);
  RisingProgress again;
  const HostTensor second = extract_features(extractor_, open().get(), items(8), again).value();
  EXPECT_EQ(extractor_.made, 8);
  EXPECT_TRUE(std::ranges::equal(first.as<float>(), second.as<float>().first(15)));
  EXPECT_EQ(second.as<float>()[21], 7.0f);
  EXPECT_EQ(fs::file_size(file()), header + 8 * record);
}

TEST_F(FeatureCacheTest, IsReadableByItsOwnerAlone) {
  open();
  struct stat status {};
  ASSERT_EQ(::stat(file().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0600u);
}

TEST_F(FeatureCacheTest, KeepsEveryWholeRecordWhereverTheFileWasCut) {
  extract_features(extractor_, open().get(), items(3), progress_).value();
  const std::string whole = read_file(file()).value();
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    write_file_durably(file(), whole.substr(0, length)).value();
    auto cache = open();
    const std::size_t kept = length < header ? 0 : (length - header) / record;
    ASSERT_EQ(cache->size(), kept) << length;
    extractor_.made = 0;
    RisingProgress quiet;
    const HostTensor features = extract_features(extractor_, cache.get(), items(3), quiet).value();
    ASSERT_EQ(extractor_.made, static_cast<int>(3 - kept));
    ASSERT_EQ(features.as<float>()[6], 2.0f);
    cache.reset();
    ASSERT_EQ(read_file(file()).value(), whole) << length;
  }
}

TEST_F(FeatureCacheTest, MakesADamagedRecordAgain) {
  extract_features(extractor_, open().get(), items(3), progress_).value();
  std::string bytes = read_file(file()).value();
  bytes[header + record + 40] ^= 1;  // a value of the second
  write_file_durably(file(), bytes).value();
  auto cache = open();
  EXPECT_EQ(cache->size(), std::size_t{2});
  extractor_.made = 0;
  RisingProgress quiet;
  EXPECT_EQ(extract_features(extractor_, cache.get(), items(3), quiet).value().as<float>()[3], 1.0f);
  EXPECT_EQ(extractor_.made, 1);
  cache.reset();
  EXPECT_EQ(open()->size(), std::size_t{3});
}

TEST_F(FeatureCacheTest, SurvivesKillInTheMiddleOfAnAppend) {
  extract_features(extractor_, open().get(), items(2), progress_).value();
  const pid_t child = ::fork();
  if (child == 0) {
    ::setenv("TRIBUTARY_FAILPOINT", "features.half_appended", 1);
    RisingProgress quiet;
    (void)extract_features(extractor_, open().get(), items(6), quiet);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  if (!WIFSIGNALED(status)) GTEST_SKIP() << "built without failpoints";
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
  EXPECT_GT(fs::file_size(file()), header + 2 * record) << "half of the four new records was written";
  EXPECT_EQ(open()->size(), std::size_t{4});
  EXPECT_EQ(fs::file_size(file()), header + 4 * record);
}

TEST_F(FeatureCacheTest, BelongsToOneBackbone) {
  extract_features(extractor_, open().get(), items(2), progress_).value();
  const Counting other("another");
  fs::copy_file(file(), FeatureCache::file_of(directory_, other));
  const Error error = FeatureCache::open(directory_, other).error();
  EXPECT_EQ(error.code, Errc::corrupt);
  EXPECT_THAT(error.message, HasSubstr("Remove the file"));
}

TEST_F(FeatureCacheTest, IsOpenInOnePlaceAtATime) {
  const auto cache = open();
  EXPECT_EQ(FeatureCache::open(directory_, extractor_).error().code, Errc::unavailable);
  SharedResources shared;
  const fs::path elsewhere = directory_ / "shared";
  EXPECT_EQ(shared_cache(elsewhere, extractor_, shared).value(), shared_cache(elsewhere, extractor_, shared).value());
}

TEST_F(FeatureCacheTest, NeverTakesFeaturesThatAreNotNumbers) {
  extractor_.value = std::numeric_limits<float>::quiet_NaN();
  const auto cache = open();
  const Error error = extract_features(extractor_, cache.get(), items(2), progress_).error();
  EXPECT_EQ(error.code, Errc::corrupt);
  EXPECT_THAT(error.message, HasSubstr("features.precision"));
  EXPECT_EQ(cache->size(), std::size_t{0});
}

}  // namespace
}  // namespace trib::tasks::features
