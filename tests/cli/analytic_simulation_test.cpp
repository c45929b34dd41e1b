// A stream of classes through `trib simulate`, as one site and as several, and the model that it exports.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <optional>
#include <sstream>

#include "cli/simulate.h"
#include "common/safetensors.h"
#include "tests/cli/trib_process.h"

namespace trib::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using testing::HasSubstr;

// Rows of CLINC150's file whose intent is one of these, at most `each` of one.
const std::vector<std::string> intents = {"translate", "balance", "alarm", "weather", "tell_joke", "timer"};
std::string some_rows(const char* name, int each) {
  std::istringstream lines(text_of_file(source_directory / "datasets/clinc150" / name));
  std::string table, line;
  std::map<std::string, int> taken;
  for (bool is_header = true; std::getline(lines, line); is_header = false) {
    const std::string intent = line.substr(line.rfind('\t') + 1);
    const bool wanted = std::ranges::find(intents, intent) != intents.end();
    if (is_header || (wanted && taken[intent]++ < each)) table += line + "\n";
  }
  return table;
}

class AnalyticSimulation : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_.emplace();
    write_text(path("train.tsv"), some_rows("train.tsv", 40));
    write_text(path("test.tsv"), some_rows("test.tsv", 20));
    std::string labels;
    for (const std::string& intent : intents) labels += (labels.empty() ? "\"" : ", \"") + intent + "\"";
    write_text(path("job.toml"), R"([job]
name = "intents"
task = "analytic_cil"
rounds = 4
seed = 3
[features]
backbone = "roberta-mini-imdb"
max_tokens = 32
[model]
labels = [)" + labels + R"(]
[buffer]
width = 200
[ridge]
gamma = 1.0
[protocol]
phases = 2
steps_per_phase = 2
[privacy]
enabled = false
[data]
label_column = "intent"
[evaluation]
file = "test.tsv"
[simulate]
train = "train.tsv"
sites = 1
min_records = 1
)");
  }
  static void TearDownTestSuite() { directory_.reset(); }
  static fs::path path(const std::string& name) { return *directory_ / name; }
  static ProgramResult simulate(std::vector<std::string> more) {
    more.insert(more.begin(), {"simulate", "job.toml", "--models", (source_directory / "base").string()});
    return run_trib(more, directory_->path());
  }
  static json::object report_of(std::vector<std::string> more) {
    more.push_back("--json");
    const ProgramResult result = simulate(more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return json::parse(result.out).as_object();
  }
  static std::optional<test::TemporaryDirectory> directory_;
};
std::optional<test::TemporaryDirectory> AnalyticSimulation::directory_;

TEST_F(AnalyticSimulation, HasTheSameWeightsAndMetricsHoweverTheRecordsAreDealtOut) {
  const json::object one = report_of({"--export", "one"});
  const json::object several =
      report_of({"--export", "several", "--clients", "9", "--set", "simulate.dirichlet_alpha=0.01"});
  const json::object& metrics = one.at("result").as_object();
  for (const char* metric : {"accuracy", "A_AUC", "A_avg", "A_last", "forgetting", "records", "exposed_classes"}) {
    ASSERT_TRUE(metrics.contains(metric)) << metric;
    EXPECT_EQ(metrics.at(metric), several.at("result").at(metric)) << metric;
  }
  EXPECT_EQ(one.at("evaluations").as_array().size(), 4u);
  EXPECT_GT(metrics.at("A_last").to_number<double>(), 0.5) << "one of six would be chance";
  EXPECT_EQ(several.at("clients").as_array().size(), 9u);

  const auto weights = [](const char* name) {
    return read_safetensors(path(name) / "model.safetensors").value().tensors.at("weights");
  };
  const HostTensor a = weights("one"), b = weights("several");
  ASSERT_EQ(a.shape(), b.shape());
  double squared = 0.0, difference = 0.0;
  for (std::size_t i = 0; i < a.as<double>().size(); ++i) {
    squared += a.as<double>()[i] * a.as<double>()[i];
    difference += std::pow(a.as<double>()[i] - b.as<double>()[i], 2.0);
  }
  EXPECT_LT(std::sqrt(difference / squared), 1e-9);
}

TEST_F(AnalyticSimulation, ExportsAModelThatTribModelEvaluatesToTheSameAccuracy) {
  const json::object report = report_of({"--export", "model"});
  ASSERT_EQ(report.at("result").at("exposed_classes").to_number<double>(), 6.0);
  const ProgramResult evaluated =
      run_trib({"model", "evaluate", "--task", "analytic_cil", "--base", base_model, "--adapter", "model", "--data",
                "test.tsv", "--label-column", "intent", "--json"},
               directory_->path());
  ASSERT_EQ(evaluated.exit_code, 0) << evaluated.err;
  EXPECT_EQ(json::parse(evaluated.out).at("accuracy"), report.at("result").at("A_last"));
}

TEST_F(AnalyticSimulation, UnderPrivacyReportsWhatItCostAndNoCounts) {
  const json::object report =
      report_of({"--clients", "2", "--set", "privacy.enabled=true", "--set", "buffer.width=32"});
  EXPECT_FALSE(report.at("result").as_object().contains("records"));
  EXPECT_TRUE(report.at("result").as_object().contains("A_last"));
  for (const json::value& client : report.at("clients").as_array())
    EXPECT_NEAR(client.at("epsilon_spent").to_number<double>(), 8.0, 0.1);
}

TEST_F(AnalyticSimulation, ShowsItsMetricsInTheTable) {
  const ProgramResult result = simulate({});
  EXPECT_THAT(result.out, HasSubstr("A_AUC"));
  EXPECT_THAT(result.out, HasSubstr("forgetting"));
}

TEST_F(AnalyticSimulation, ShowsHowFarTheFeaturesAreOfEverySiteAndOfTheAggregator) {
  std::map<std::string, double> furthest;  // by site; "" is the aggregator
  std::size_t seen = 0;
  SimulationOptions options;
  options.job_file = path("job.toml");
  options.clients = 2;
  options.model_directories = {source_directory / "base"};
  options.work_directory = path("kept");
  options.on_progress = [&](const SimulationProgress& now) {
    if (now.work != "features") return;
    ++seen;
    EXPECT_GE(now.work_done, 0.0);
    EXPECT_LE(now.work_done, 1.0);
    furthest[now.site] = std::max(furthest[now.site], now.work_done);
  };
  const auto report = run_simulation(options);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(furthest, (std::map<std::string, double>{{"", 1.0}, {"site-1", 1.0}, {"site-2", 1.0}}));
  EXPECT_GT(seen, 6u) << "said while it goes on, and not at the end alone";
  EXPECT_FALSE(fs::is_empty(path("kept") / "aggregator" / "features")) << "the test set's features are kept";

  bool stop = false;
  options.work_directory = path("stopped");
  options.on_progress = [&](const SimulationProgress& now) { stop = stop || now.work == "features"; };
  options.cancelled = [&] { return stop; };
  const auto stopped = run_simulation(options);
  ASSERT_TRUE(stopped.ok()) << stopped.error().message;
  EXPECT_EQ(json::parse(*stopped).at("state").as_string(), "cancelled");
}

TEST_F(AnalyticSimulation, SaysWhichLabelTheJobDoesNotKnow) {
  write_text(path("wrong.tsv"), some_rows("train.tsv", 5) + "an odd one\tx\todd\n");
  const ProgramResult result = simulate({"--set", "simulate.train=wrong.tsv"});
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("label \"odd\" is none of the accepted labels"));
}

}  // namespace
}  // namespace trib::cli
