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

// Once it waited for ever: the sites that it had made refused a job without privacy.
TEST(DemoTest, TrainsAJobWithoutPrivacyOnce) {
  const fs::path directory = fs::path(testing::TempDir()) / "tributary-demo-open";
  fs::remove_all(directory);
  constexpr std::int64_t width = 512, classes = 150;
  const auto output =
      cli::run_program({fs::path(TRIBUTARY_BINARY_DIR) / "bin" / "trib", "demo", "--json", "--dir", directory, "--job",
                        source / "experiments" / "analytic_cil" / "quick.toml", "--models", source / "base", "--set",
                        "job.rounds=2", "--set", "protocol.phases=1", "--set", "buffer.width=" + std::to_string(width),
                        "--set", "evaluation.limit=100"});
  ASSERT_TRUE(output) << output.error().message;
  const json::object report = json::parse(*output).as_object();
  ASSERT_EQ(report.at("jobs").as_array().size(), 1U);
  const json::object& job = report.at("jobs").at(0).as_object();
  EXPECT_EQ(job.at("state").as_string(), "finished");
  EXPECT_EQ(job.at("privacy").as_string(), "not private: the job has privacy.enabled = false");
  // Contributions travel packed: fewer bytes a round than their tensors have.
  constexpr double tensor_bytes = 8.0 * (width * (width + 1) / 2 + width * classes + classes);
  for (const auto& site : job.at("clients").as_array()) {
    EXPECT_EQ(site.at("participations").as_int64(), 2);
    EXPECT_LT(site.at("bytes_up").to_number<double>() / 2.0, 0.95 * tensor_bytes);
    EXPECT_GT(site.at("bytes_up").to_number<double>() / 2.0, 0.3 * tensor_bytes);
  }
  EXPECT_TRUE(fs::exists(directory / "adapter" / "model.safetensors"));
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
