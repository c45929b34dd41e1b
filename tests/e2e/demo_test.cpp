// `trib demo` as a newcomer runs it, with a job of few rounds: real daemons, real sockets, real TLS.
#include <gmock/gmock.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>

#include "cli/process.h"
#include "common/files.h"

namespace trib::e2e {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using testing::HasSubstr;
using testing::IsEmpty;

const fs::path source(TRIBUTARY_SOURCE_DIR);

// The command lines of all processes that were given something in `directory`.
std::vector<std::string> processes_of(const fs::path& directory) {
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "cmdline");
    const std::string command{std::istreambuf_iterator<char>(file), {}};
    if (command.find(directory.string()) != std::string::npos) found.push_back(command);
  }
  return found;
}

TEST(DemoTest, TrainsBothJobsExportsAnAdapterAndLeavesNothingRunning) {
  const fs::path directory = fs::path(testing::TempDir()) / "tributary-demo-test";
  fs::remove_all(directory);
  const auto output = cli::run_program({fs::path(TRIBUTARY_BINARY_DIR) / "bin" / "trib", "demo", "--json", "--dir",
                                        directory, "--job", source / "experiments" / "demo" / "clinc.toml", "--models",
                                        source / "base", "--set", "job.rounds=2", "--set", "job.evaluate_every=1",
                                        "--set", "training.local_steps=2", "--set", "evaluation.limit=100"});
  ASSERT_TRUE(output) << output.error().message;
  const json::object report = json::parse(*output).as_object();
  ASSERT_EQ(report.at("jobs").as_array().size(), 2U);
  for (const auto& job : report.at("jobs").as_array()) {
    EXPECT_EQ(job.at("state").as_string(), "finished");
    ASSERT_EQ(job.at("rounds").as_array().size(), 2U);
    for (const auto& round : job.at("rounds").as_array()) EXPECT_EQ(round.at("contributions").as_int64(), 3);
    ASSERT_EQ(job.at("evaluations").as_array().size(), 2U);
    for (const auto& evaluation : job.at("evaluations").as_array()) {
      EXPECT_TRUE(evaluation.at("metrics").as_object().contains("accuracy"));
    }
  }
  for (const auto& site : report.at("jobs").at(0).at("clients").as_array()) {
    EXPECT_GT(site.at("epsilon_spent").to_number<double>(), 0.0);
    EXPECT_LE(site.at("epsilon_spent").to_number<double>(), 8.0);
  }
  EXPECT_TRUE(fs::exists(directory / "adapter" / "adapter_config.json"));
  EXPECT_TRUE(fs::exists(directory / "adapter" / "adapter_model.safetensors"));
  EXPECT_THAT(processes_of(directory), IsEmpty());
}

TEST(DemoTest, ADirectoryThatItDidNotMakeIsLeftAlone) {
  const fs::path directory = fs::path(testing::TempDir()) / "tributary-demo-not-ours";
  fs::remove_all(directory);
  fs::create_directories(directory);
  std::ofstream(directory / "thesis.txt") << "three years of work";
  const auto output = cli::run_program({fs::path(TRIBUTARY_BINARY_DIR) / "bin" / "trib", "demo", "--dir", directory,
                                        "--job", source / "experiments" / "demo" / "clinc.toml"});
  ASSERT_FALSE(output);
  EXPECT_THAT(output.error().message, HasSubstr("--dir"));
  EXPECT_EQ(read_file(directory / "thesis.txt").value(), "three years of work");
}

}  // namespace
}  // namespace trib::e2e
