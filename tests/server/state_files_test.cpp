#include "server/state_files.h"

#include <gtest/gtest.h>

#include <fstream>

#include "common/hash.h"

namespace trib::server {
namespace {

class StateFilesTest : public ::testing::Test {
 protected:
  ~StateFilesTest() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path path_of(const std::string& name) const {
    return directory_ / ("state-" + name + ".safetensors");
  }
  static TensorMap state(float value) {
    TensorMap map;
    map["weights"] = HostTensor::from_f32({2, 1}, std::vector<float>{value, -value});
    return map;
  }

  std::filesystem::path directory_ =
      std::filesystem::path(::testing::TempDir()) /
      (std::string("state_files_") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
  std::unique_ptr<DirectoryStateFiles> files_ =
      (std::filesystem::remove_all(directory_), DirectoryStateFiles::open(directory_).value());
};

TEST_F(StateFilesTest, GiveBackWhatWasWrittenUnderTheHashOfTheFile) {
  const std::string name = files_->write(state(1.5f), "job", 3).value();
  EXPECT_EQ(to_hex(sha256_file(path_of(name)).value()), name);
  EXPECT_EQ(files_->read(name).value(), state(1.5f));
}

TEST_F(StateFilesTest, DifferentRoundsNeverShareAFile) {
  const std::string first = files_->write(state(1.0f), "job", 1).value();
  EXPECT_NE(files_->write(state(1.0f), "job", 2).value(), first);
  EXPECT_NE(files_->write(state(1.0f), "other", 1).value(), first);
}

TEST_F(StateFilesTest, AFlippedBitIsNoticed) {
  const std::string name = files_->write(state(1.0f), "job", 1).value();
  std::fstream file(path_of(name), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  file.put('\x7f');
  file.close();
  const auto read = files_->read(name);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, Errc::corrupt);
  EXPECT_NE(read.error().message.find(name), std::string::npos);
}

TEST_F(StateFilesTest, AMissingStateIsNotFound) {
  EXPECT_EQ(files_->read("00ff").error().code, Errc::not_found);
}

TEST_F(StateFilesTest, RemovingOneTwiceIsFine) {
  const std::string name = files_->write(state(1.0f), "job", 1).value();
  EXPECT_TRUE(files_->remove(name));
  EXPECT_TRUE(files_->remove(name));
  EXPECT_FALSE(std::filesystem::exists(path_of(name)));
}

TEST_F(StateFilesTest, ASweepLeavesNamedStatesAndFilesOfOthers) {
  const std::string kept = files_->write(state(1.0f), "job", 1).value();
  const std::string orphan = files_->write(state(2.0f), "job", 2).value();
  const auto torn = directory_ / ("state-" + kept + ".safetensors.tmp-abcdef");  // a crash while it was written
  std::ofstream(torn) << "half";
  std::ofstream(directory_ / "notes.txt") << "an operator's";
  ASSERT_TRUE(files_->sweep({kept}));
  EXPECT_TRUE(std::filesystem::exists(path_of(kept)));
  EXPECT_FALSE(std::filesystem::exists(path_of(orphan)));
  EXPECT_FALSE(std::filesystem::exists(torn));
  EXPECT_TRUE(std::filesystem::exists(directory_ / "notes.txt"));
}

}  // namespace
}  // namespace trib::server
