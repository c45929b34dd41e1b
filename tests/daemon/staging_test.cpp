#include "server/staging.h"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "tests/common/temporary_directory.h"

namespace trib::server {
namespace {

constexpr std::size_t no_limit = std::numeric_limits<std::size_t>::max();

TensorMap example() {
  TensorMap tensors;
  tensors["b"] = HostTensor::from_f32({2, 3}, std::array<float, 6>{1, 2, 3, 4, 5, 6});
  return tensors;
}

void fill(StagedContribution& staged, const TensorMap& tensors) {
  const auto bytes = tensors.at("b").bytes();
  EXPECT_FALSE(staged.add({1, 0, bytes.first(10)}).value());
  EXPECT_TRUE(staged.add({1, 10, bytes.subspan(10)}).value());
}

class StagingTest : public ::testing::Test {
 protected:
  Result<std::unique_ptr<StagedContribution>> begin(Staging& staging) {
    return staging.begin(net::announce(1, tensors, tensors.schema()), tensors.schema(), no_limit);
  }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(directory.path()), std::filesystem::directory_iterator()));
  }
  test::TemporaryDirectory directory;
  TensorMap tensors = example();
};

TEST_F(StagingTest, ReceivesIntoMemoryWhileTheQuotaLasts) {
  auto staging = Staging::open(directory.path(), 50, 1000).value();
  auto first = begin(*staging).value();
  auto second = begin(*staging).value();
  auto third = begin(*staging).value();
  EXPECT_FALSE(first->is_on_disk());
  EXPECT_FALSE(second->is_on_disk());
  EXPECT_TRUE(third->is_on_disk());
  EXPECT_EQ(staging->memory_in_use(), 48u);
  EXPECT_EQ(staging->disk_in_use(), 24u);
  first.reset();
  EXPECT_FALSE(begin(*staging).value()->is_on_disk());
}

TEST_F(StagingTest, GivesTheSameTensorsFromMemoryAndFromDisk) {
  for (const std::uint64_t memory : {100, 0}) {
    auto staging = Staging::open(directory.path(), memory, 1000).value();
    auto staged = begin(*staging).value();
    EXPECT_EQ(staged->is_on_disk(), memory == 0);
    fill(*staged, tensors);
    EXPECT_EQ(staged->finish().value(), tensors);
  }
}

TEST_F(StagingTest, SaysWhichLimitsAreUsedUp) {
  auto staging = Staging::open(directory.path(), 30, 30).value();
  auto first = begin(*staging).value();
  auto second = begin(*staging).value();
  const auto third = begin(*staging);
  EXPECT_EQ(third.error().code, Errc::unavailable);
  EXPECT_NE(third.error().message.find("limits.staging_disk_bytes"), std::string::npos);
  second.reset();
  EXPECT_TRUE(begin(*staging).ok());
}

TEST_F(StagingTest, TakesNothingForAnAnnouncementThatIsWrong) {
  auto staging = Staging::open(directory.path(), 1000, 1000).value();
  TensorMap other;
  other["c"] = HostTensor(DType::f32, {6});
  const auto wrong = staging->begin(net::announce(1, other, tensors.schema()), tensors.schema(), no_limit);
  EXPECT_EQ(wrong.error().code, Errc::protocol_error);
  EXPECT_EQ(staging->begin(net::announce(1, tensors, tensors.schema()), tensors.schema(), 10).error().code,
            Errc::limit_exceeded);
  EXPECT_EQ(staging->memory_in_use(), 0u);
}

TEST_F(StagingTest, ChecksOrderAndChecksumOnDiskToo) {
  auto staging = Staging::open(directory.path(), 0, 1000).value();
  const auto bytes = tensors.at("b").bytes();
  auto gap = begin(*staging).value();
  EXPECT_EQ(gap->add({1, 4, bytes.subspan(4)}).error().code, Errc::protocol_error);
  auto foreign = begin(*staging).value();
  EXPECT_EQ(foreign->add({2, 0, bytes}).error().code, Errc::protocol_error);
  auto changed = begin(*staging).value();
  std::vector<std::byte> wrong(bytes.begin(), bytes.end());
  wrong[3] ^= std::byte{1};
  EXPECT_TRUE(changed->add({1, 0, wrong}).value());
  EXPECT_EQ(changed->finish().error().code, Errc::protocol_error);
}

TEST_F(StagingTest, LeavesNoFileBehindAndSweepsWhatACrashLeft) {
  std::ofstream(directory / "7.part") << "half";
  std::filesystem::create_directories(directory / "export-1");
  auto staging = Staging::open(directory.path(), 0, 1000).value();
  EXPECT_EQ(files(), 0u);
  auto staged = begin(*staging).value();
  EXPECT_EQ(files(), 1u);
  staging.reset();
  staged.reset();
  EXPECT_EQ(files(), 0u);
}

}  // namespace
}  // namespace trib::server
