// The parser itself: what every command must have, wherever it hangs.
#include <gtest/gtest.h>

#include <functional>

#include "cli/commands.h"
#include "tasks/task.h"

namespace trib::cli {
namespace {

class CommandTree : public testing::Test {
 protected:
  CommandTree() {
    add_demo_command(app_, exit_);
    add_simulate_command(app_, exit_);
    add_federation_commands(app_, exit_);
    add_token_commands(app_, exit_);
    add_job_commands(app_, exit_);
    add_privacy_commands(app_, exit_);
    add_model_commands(app_, exit_);
    add_status_command(app_, exit_);
    add_doctor_command(app_, exit_);
    add_data_commands(app_, exit_);
    add_bench_commands(app_, exit_);
    add_completion_command(app_);
  }

  // Calls `visit` with every command and the words that lead to it.
  void visit_all(const std::function<void(const CLI::App&, const std::string&)>& visit) const {
    const std::function<void(const CLI::App&, const std::string&)> walk = [&](const CLI::App& node,
                                                                              const std::string& path) {
      for (const CLI::App* child : node.get_subcommands([](const CLI::App*) { return true; })) {
        visit(*child, path + child->get_name());
        walk(*child, path + child->get_name() + " ");
      }
    };
    walk(app_, "");
  }

  Exit exit_;
  CLI::App app_{"", "trib"};
};

TEST_F(CommandTree, DescribesEveryCommandAndEveryOption) {
  int commands = 0;
  visit_all([&](const CLI::App& command, const std::string& path) {
    ++commands;
    EXPECT_GT(command.get_description().size(), 10u) << path;
    for (const CLI::Option* option : command.get_options())
      EXPECT_FALSE(option->get_description().empty()) << path << " " << option->get_name();
  });
  EXPECT_GE(commands, 20);
}

TEST_F(CommandTree, OffersJsonWhereverAScriptWouldRead) {
  visit_all([&](const CLI::App& command, const std::string& path) {
    const bool is_group = !command.get_subcommands([](const CLI::App*) { return true; }).empty();
    if (is_group || path == "init" || path == "completion" || path == "operator join") return;
    EXPECT_NE(command.get_option_no_throw("--json"), nullptr) << path;
  });
}

TEST_F(CommandTree, HasEveryBenchmarkOfEveryTask) {
  std::size_t benchmarks = 0;
  for (const tasks::TaskDefinition& task : tasks::registered_tasks())
    for (const tasks::Benchmark& benchmark : task.benchmarks) {
      ++benchmarks;
      const CLI::App* command =
          app_.get_subcommand("bench")->get_subcommand(benchmark.name);  // throws where there is none
      for (const tasks::BenchmarkOption& option : benchmark.options) {
        const CLI::Option* found = command->get_option_no_throw("--" + option.name);
        ASSERT_NE(found, nullptr) << benchmark.name << " --" << option.name;
        EXPECT_EQ(found->get_default_str(), option.value);
      }
      EXPECT_NE(command->get_option_no_throw("--device"), nullptr);
    }
  EXPECT_EQ(app_.get_subcommand("bench")->get_subcommands([](const CLI::App*) { return true; }).size(), benchmarks);
}

TEST_F(CommandTree, TakesServerAndCredentialsWhereverItTalksToAnAggregator) {
  visit_all([&](const CLI::App& command, const std::string& path) {
    const bool talks = path.starts_with("job ") || path.starts_with("token ") || path == "invite" || path == "revoke" ||
                       path == "sites" || path == "model export" || path == "privacy report" ||
                       path == "privacy statement" || path == "status";
    const bool names_a_directory = path == "doctor";  // --server is the aggregator's own directory there
    EXPECT_EQ(command.get_option_no_throw("--server") != nullptr, talks || names_a_directory) << path;
    EXPECT_EQ(command.get_option_no_throw("--credentials") != nullptr, talks) << path;
  });
}

TEST(ExitCodes, AreWhatTheHelpSays) {
  EXPECT_EQ(exit_code_for(Errc::io_error), 1);
  EXPECT_EQ(exit_code_for(Errc::corrupt), 1);
  EXPECT_EQ(exit_code_for(Errc::invalid_argument), 2);
  EXPECT_EQ(exit_code_for(Errc::not_found), 2);
  EXPECT_EQ(exit_code_for(Errc::unavailable), 3);
  EXPECT_EQ(exit_code_for(Errc::unauthenticated), 3);
  EXPECT_EQ(exit_code_for(Errc::over_budget), 4);
  EXPECT_EQ(exit_code_for(Errc::permission_denied), 4);
  EXPECT_EQ(exit_code_for(Errc::cancelled), 130);
}

TEST(Exit, KeepsItsCodeOnSuccessAndReportsAFailure) {
  Exit exit;
  exit.report({});
  EXPECT_EQ(exit.code(), 0);
  testing::internal::CaptureStderr();
  exit.report(Error{Errc::over_budget, "epsilon 9 of 8"});
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "trib: epsilon 9 of 8\n");
  EXPECT_EQ(exit.code(), 4);
}

}  // namespace
}  // namespace trib::cli
