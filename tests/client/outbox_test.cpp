#include "client/outbox.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "tests/client/site_fixture.h"

namespace trib::client {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class OutboxTest : public ::testing::Test {
 protected:
  std::unique_ptr<Outbox> open(std::uint64_t limit = outbox_limit) {
    return std::move(Outbox::open(directory_ / "outbox", limit)).value();
  }
  static OutboxEntry entry(const std::string& job = "job-1", std::int64_t round = 1, double weight = 1000.0) {
    return {.job = job, .round = round, .weight = weight, .is_private = true, .tensors = tensors_of(0.1F)};
  }
  test::TemporaryDirectory directory_;
};

TEST_F(OutboxTest, GivesBackWhatWasPutAcrossARestart) {
  ASSERT_TRUE(open()->put(entry()));
  const auto again = open();
  ASSERT_TRUE(again->contains("job-1", 1));
  const OutboxEntry read = again->get("job-1", 1).value();
  EXPECT_EQ(read.job, "job-1");
  EXPECT_EQ(read.round, 1);
  EXPECT_EQ(read.tensors, entry().tensors);
  EXPECT_TRUE(read.is_private);
}

TEST_F(OutboxTest, KeepsTheWeightBitForBit) {
  const double weight = std::nextafter(1.0 / 3.0, 1.0);
  const auto outbox = open();
  ASSERT_TRUE(outbox->put(entry("job-1", 1, weight)));
  EXPECT_EQ(outbox->get("job-1", 1)->weight, weight);
}

TEST_F(OutboxTest, NeverReplacesAnEntry) {
  const auto outbox = open();
  ASSERT_TRUE(outbox->put(entry("job-1", 1, 1.0)));
  EXPECT_EQ(outbox->put(entry("job-1", 1, 2.0)).error().code, Errc::already_exists);
  EXPECT_EQ(outbox->get("job-1", 1)->weight, 1.0);
}

TEST_F(OutboxTest, RemovesOneRoundOrAWholeJob) {
  const auto outbox = open();
  for (const std::int64_t round : {1, 2, 3}) ASSERT_TRUE(outbox->put(entry("job-1", round)));
  ASSERT_TRUE(outbox->put(entry("job-2", 1)));
  ASSERT_TRUE(outbox->remove("job-1", 2));
  EXPECT_FALSE(outbox->contains("job-1", 2));
  ASSERT_TRUE(outbox->remove("job-1", 2)) << "removing what is not there is no error";
  ASSERT_TRUE(outbox->remove_job("job-1"));
  EXPECT_THAT(open()->list(), SizeIs(1));
  EXPECT_TRUE(open()->contains("job-2", 1));
}

TEST_F(OutboxTest, NamesTheLimitAndWhatFillsIt) {
  const auto outbox = open(10'000);
  ASSERT_TRUE(outbox->put(entry("job-1", 1)));
  ASSERT_TRUE(outbox->put(entry("job-1", 2)));
  while (outbox->check_room(tensors_of(0).byte_count()))
    ASSERT_TRUE(outbox->put(entry("job-1", 3 + static_cast<std::int64_t>(outbox->list().size()))));
  const Status full = outbox->put(entry("job-2", 1));
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, Errc::limit_exceeded);
  EXPECT_THAT(full.error().message, HasSubstr("at most 10000 (limits.outbox_bytes)"));
  EXPECT_FALSE(outbox->contains("job-2", 1));
  EXPECT_FALSE(outbox->check_room(std::numeric_limits<std::uint64_t>::max() - 1'000'000));
}

TEST_F(OutboxTest, SweepsWhatACrashLeftHalfWritten) {
  ASSERT_TRUE(open()->put(entry()));
  const auto torn = directory_ / "outbox" / "job-1.round-2.safetensors.tmp-a8Xk2p";
  std::ofstream(torn) << "half";
  const auto outbox = open();
  EXPECT_FALSE(std::filesystem::exists(torn));
  EXPECT_FALSE(outbox->contains("job-1", 2));
  EXPECT_TRUE(outbox->contains("job-1", 1));
}

TEST_F(OutboxTest, RefusesADirectoryWithForeignFiles) {
  open();
  std::ofstream(directory_ / "outbox" / "notes.txt") << "mine";
  const auto opened = Outbox::open(directory_ / "outbox", outbox_limit);
  ASSERT_FALSE(opened);
  EXPECT_THAT(opened.error().message, HasSubstr("notes.txt"));
}

TEST_F(OutboxTest, NoticesAFileThatWasRenamedToAnotherRound) {
  const auto outbox = open();
  ASSERT_TRUE(outbox->put(entry("job-1", 1)));
  std::filesystem::rename(directory_ / "outbox" / "job-1.round-1.safetensors",
                          directory_ / "outbox" / "job-1.round-2.safetensors");
  const auto read = open()->get("job-1", 2);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, Errc::corrupt);
}

TEST_F(OutboxTest, ReadsJobIdsWithDotsAndMarksInThem) {
  ASSERT_TRUE(open()->put(entry("a.round-1.b", 12)));
  EXPECT_TRUE(open()->contains("a.round-1.b", 12));
}

TEST_F(OutboxTest, RefusesAJobIdThatLeavesTheDirectory) {
  EXPECT_EQ(open()->put(entry("../escape")).error().code, Errc::invalid_argument);
  EXPECT_FALSE(is_valid_job_id("a/b"));
  EXPECT_FALSE(is_valid_job_id(".hidden"));
  EXPECT_FALSE(is_valid_job_id(""));
  EXPECT_FALSE(is_valid_job_id(std::string(129, 'a')));
  EXPECT_TRUE(is_valid_job_id("clinc-domains.v2_3f9a"));
}

TEST_F(OutboxTest, RemovesOnlyWhatIsOlder) {
  const auto outbox = open();
  ASSERT_TRUE(outbox->put(entry("job-1", 1)));
  ASSERT_TRUE(outbox->put(entry("job-1", 2)));
  const auto old = directory_ / "outbox" / "job-1.round-1.safetensors";
  const auto now = std::filesystem::last_write_time(old);
  std::filesystem::last_write_time(old, now - std::chrono::hours(48));
  ASSERT_TRUE(outbox->remove_older_than(now - std::chrono::hours(24)));
  EXPECT_FALSE(outbox->contains("job-1", 1));
  EXPECT_TRUE(outbox->contains("job-1", 2));
}

TEST_F(OutboxTest, ListsADirectoryThatDoesNotExistAsEmpty) {
  EXPECT_THAT(list_outbox(directory_ / "nowhere").value(), IsEmpty());
}

}  // namespace
}  // namespace trib::client
