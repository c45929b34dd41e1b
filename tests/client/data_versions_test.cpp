// A site's data sets: swapped, grown, offered twice, and read while they change.
#include "client/data_versions.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include "common/files.h"
#include "tests/client/site_fixture.h"

namespace trib::client {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class DataVersionsTest : public SiteFixture {
 protected:
  void SetUp() override {
    SiteFixture::SetUp();
    versions_ = DataVersions::open(directory_ / "data-secret").value();
    site_.data_versions = versions_.get();
  }
  void write_data(const std::string& text) const { std::ofstream(directory_ / "data.tsv") << text; }
  void add_second_name(bool with_budget) {
    DataSetPolicy policy = site_.data_sets.at("default");
    policy.allow_non_private = !with_budget;
    policy.budget.reset();
    if (with_budget) policy.budget = privacy::Budget{.data_set = "again", .epsilon = 8.0, .delta = 1e-5};
    site_.data_sets["again"] = policy;
    open_stores();
  }
  static OfferedJob offer_of(const std::string& data_set, const std::string& id) {
    OfferedJob job = offer(id);
    job.spec.data_set = data_set;
    return job;
  }

  std::unique_ptr<DataVersions> versions_;
};

TEST_F(DataVersionsTest, TheFirstJobRecordsTheFileAndTheNextOnesOnlyCheckIt) {
  ASSERT_TRUE(runner()->run_round(1, tensors_of(1), progress_).contribution);
  ASSERT_TRUE(runner(offer("job-2"))->run_round(1, tensors_of(1), progress_).contribution);
  const auto entries = ledger_->entries();
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].kind, privacy::EntryKind::data);
  EXPECT_EQ(entries[0].charge.declared_records, declared_records);
  EXPECT_NE(entries[0].data_digest, sha256_file(directory_ / "data.tsv").value()) << "a plain digest could be guessed";
}

TEST_F(DataVersionsTest, AChangedFileIsRefusedBeforeItIsReadAndTheReasonStaysHere) {
  runner();
  write_data("text\tlabel\nanother\tgreeting\n");
  const int made = behaviour_->made;
  const Refusal refusal = refusal_of(offer("job-2"));
  EXPECT_TRUE(refusal.final);
  EXPECT_THAT(refusal.detail, AllOf(HasSubstr("has changed since entry 1"), HasSubstr("data update default")));
  EXPECT_THAT(refusal.reason, AllOf(HasSubstr("'default'"), Not(HasSubstr("entry"))));
  EXPECT_EQ(behaviour_->made, made);
  EXPECT_EQ(ledger_->head().count, 1);
}

TEST_F(DataVersionsTest, ATouchedOrCopiedFileIsTheSame) {
  runner();
  std::filesystem::copy_file(directory_ / "data.tsv", directory_ / "copy.tsv");
  std::filesystem::rename(directory_ / "copy.tsv", directory_ / "data.tsv");
  runner(offer("job-2"));
  EXPECT_EQ(ledger_->head().count, 1);
}

TEST_F(DataVersionsTest, ADeclaredVersionGoesOnWithWhatWasSpent) {
  ASSERT_TRUE(runner()->run_round(1, tensors_of(1), progress_).contribution);
  const double spent = ledger_->epsilon_spent("default", 1e-5);
  write_data("text\tlabel\nhello\tgreeting\nmore\tgreeting\n");
  ASSERT_TRUE(versions_->update(*ledger_, "default", site_.data_sets.at("default")));
  const auto job = runner(offer("job-2"));
  EXPECT_EQ(job->epsilon_spent(), spent);
}

TEST_F(DataVersionsTest, AFileThatChangesWhileItIsReadIsRefused) {
  definition_.make_client = [&, make = definition_.make_client](const tasks::JobSpec& spec,
                                                                const tasks::SiteContext& context) {
    write_data("text\tlabel\nswapped\tgreeting\n");
    return make(spec, context);
  };
  EXPECT_THAT(refusal_of().detail, HasSubstr("changed while it was read"));
}

TEST_F(DataVersionsTest, TheSameFileUnderASecondNameWithABudgetIsRefused) {
  ASSERT_TRUE(runner()->run_round(1, tensors_of(1), progress_).contribution);
  add_second_name(true);
  EXPECT_THAT(refusal_of(offer_of("again", "job-2")).detail,
              AllOf(HasSubstr("same file as data set 'default'"), HasSubstr("second budget")));
}

TEST_F(DataVersionsTest, TheSameFileMayBeReadOpenlyUnderASecondNameButThenNotPrivatelyAnyMore) {
  ASSERT_TRUE(runner()->run_round(1, tensors_of(1), progress_).contribution);
  add_second_name(false);
  behaviour_->is_private = false;
  ASSERT_TRUE(runner(offer_of("again", "job-2"))->run_round(1, tensors_of(1), progress_).contribution);
  behaviour_->is_private = true;
  const RoundOutcome declined = runner(offer("job-3"))->run_round(1, tensors_of(1), progress_);
  EXPECT_FALSE(declined.contribution);
  EXPECT_TRUE(declined.refusal.over_budget);
  EXPECT_THAT(declined.refusal.detail, HasSubstr("same file as 'again', which was read without privacy"));
}

TEST_F(DataVersionsTest, TheSecretIsMadeOnceAndForItsOwnerOnly) {
  struct stat status {};
  ASSERT_EQ(::stat((directory_ / "data-secret").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  runner();
  versions_ = DataVersions::open(directory_ / "data-secret").value();
  site_.data_versions = versions_.get();
  runner(offer("job-2"));
  EXPECT_EQ(ledger_->head().count, 1) << "a restart knows the file again";

  std::ofstream(directory_ / "data-secret") << "no secret";
  EXPECT_THAT(DataVersions::open(directory_ / "data-secret").error().message, HasSubstr("restore it from a backup"));
}

}  // namespace
}  // namespace trib::client
