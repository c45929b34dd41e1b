#include "cli/process.h"

#include <gmock/gmock.h>
#include <signal.h>

#include <thread>

namespace trib::cli {
namespace {

class ChildProcessTest : public ::testing::Test {
 protected:
  ChildProcess start(const std::vector<std::string>& arguments) {
    const auto log = std::filesystem::path(::testing::TempDir()) / "process_test.log";
    return std::move(ChildProcess::start(arguments, log).value());
  }
};

TEST_F(ChildProcessTest, ARunningProcessIsSignalledAndItsEndIsSeen) {
  ChildProcess process = start({"/bin/sleep", "60"});
  EXPECT_TRUE(process.signal(SIGKILL));
  while (!process.poll()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(process.poll(), 128 + SIGKILL);
}

// Signal 0 asks only whether there is something to signal: a process that is gone has no id that a signal could go to
// (kill's -1 is every process of the machine).
TEST_F(ChildProcessTest, AProcessThatIsGoneIsNeverSignalled) {
  ChildProcess process = start({"/bin/sleep", "60"});
  EXPECT_TRUE(process.signal(0));
  process.stop();
  EXPECT_FALSE(process.signal(0));
  ChildProcess moved = std::move(process);
  EXPECT_FALSE(process.signal(0));
  EXPECT_FALSE(moved.signal(0));
}

TEST_F(ChildProcessTest, AProcessThatEndedByItselfIsNeverSignalled) {
  ChildProcess process = start({"/bin/true"});
  while (!process.poll()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_FALSE(process.signal(0));
  EXPECT_EQ(process.stop(), 0);
}

TEST_F(ChildProcessTest, AProcessThatIgnoresTheRequestToEndIsKilled) {
  ChildProcess process = start({"/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"});
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(process.stop(std::chrono::milliseconds(300)), 128 + SIGKILL);
}

}  // namespace
}  // namespace trib::cli
