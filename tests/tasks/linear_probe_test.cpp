// The linear probe against what hand gives.
#include "tasks/linear_probe/linear_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "common/clock.h"
#include "common/files.h"
#include "kernels/device.h"
#include "privacy/ledger.h"

namespace trib::tasks::linear_probe {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class LinearProbeTest : public testing::Test {
 protected:
  LinearProbeTest() : directory_(fs::path(testing::TempDir()) / "linear_probe_test") {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    write("site.tsv", "text\tlabel\tphase\n1 0\ta\t1\n0 2\tb\t1\n3 3\tc\t2\n");
    write("other.tsv", "text\tlabel\tphase\n-1 1\tb\t1\n");
    write("test.tsv", "text\tlabel\n1 0\ta\n0 1\tb\n1 1\tc\n");
  }
  void write(const std::string& name, const std::string& content) {
    ASSERT_TRUE(write_file_durably(directory_ / name, content).ok());
  }
  static JobSpec job(const std::string& more = "") {
    return read_job_text(R"([job]
name = "probe"
task = "linear_probe"
rounds = 2
[features]
vector_width = 2
[model]
labels = ["a", "b", "c"]
[buffer]
width = 0
[training]
batch_size = 1000
local_steps = 1
learning_rate = 0.5
[privacy]
enabled = false
[evaluation]
file = "test.tsv"
)" + more,
                         "job.toml")
        .value();
  }
  // Of a site that declares as many records as its file has: every step takes all of them.
  Result<privacy::Contribution> train(const std::string& file, std::int64_t records, const TensorMap& broadcast,
                                      std::int64_t round) {
    return train(job(), TensorMap(), file, records, broadcast, round);
  }
  Result<privacy::Contribution> train(const JobSpec& spec, const TensorMap& constants, const std::string& file,
                                      std::int64_t records, const TensorMap& broadcast, std::int64_t round) {
    const SiteContext site{.site = file,
                           .devices = {&kernels::cpu_device()},
                           .data_file = directory_ / file,
                           .declared_records = records,
                           .model_directories = {},
                           .shared = nullptr};
    TRIB_ASSIGN(const auto client, definition().make_client(spec, site));
    TRIB_TRY(client->set_constants(constants));
    const RoundPlan plan{.job_id = "j", .round = round, .last_counted = round - 1};
    TRIB_ASSIGN(const privacy::Charge charge, client->charge(plan));
    TRIB_ASSIGN(const auto ledger,
                privacy::Ledger::in_memory({{.data_set = "default", .epsilon = 1e3, .delta = 1e-5}}, system_clock()));
    TRIB_ASSIGN(privacy::PrivacySession session,
                privacy::PrivacySession::open(*ledger, charge, true, RandomKey::from_seed(1), system_clock()));
    QuietProgress progress;
    return client->train(broadcast, plan, session, progress);
  }
  std::unique_ptr<ServerTask> make_server(const JobSpec& spec = job()) const {
    return definition()
        .make_server(spec, {.device = &kernels::cpu_device(),
                            .model_directories = {},
                            .data_directory = directory_,
                            .shared = nullptr})
        .value();
  }
  fs::path directory_;
};

TEST_F(LinearProbeTest, ARoundIsTheMeanOfTheSitesStepsOnThePhasesRecords) {
  const auto server = make_server();
  TensorMap state = server->initial_state().value();
  Sum sum(server->contribution_schema());
  const TensorMap broadcast = server->broadcast(state).value();
  for (const auto& [file, records] : {std::pair<const char*, std::int64_t>{"site.tsv", 3}, {"other.tsv", 1}}) {
    const auto made = train(file, records, broadcast, 1);
    ASSERT_TRUE(made.ok()) << made.error().message;
    ASSERT_TRUE(sum.add(made->tensors(), made->weight()));
  }
  state = server->next_state(state, sum).value();
  // From zero weights the softmax is 1/3 everywhere: a record (x, y) has the gradient (1/3 − y)·xᵀ. The first site has
  // (1, 0; a) and (0, 2; b) in this phase, divides by the 3 records that it declares and weighs 2; the other
  // (−1, 1; b), divides by 1 and weighs 1. The step is −0.5 times the gradient.
  const double third = 1.0 / 3.0;
  const double first[3][2] = {{-2 * third, 2 * third}, {third, -4 * third}, {third, 2 * third}};
  const double other[3][2] = {{-third, third}, {2 * third, -2 * third}, {-third, third}};
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t i = 0; i < 2; ++i)
      EXPECT_NEAR(state.at("weights").as<float>()[2 * c + i],
                  (2.0 * (-0.5 * first[c][i] / 3.0) + 1.0 * (-0.5 * other[c][i])) / 3.0, 1e-6);
  QuietProgress progress;
  const auto metrics = server->evaluate(state, progress)->metrics;
  // Labels a and b have come: (1, 0) and (0, 1) are judged among them.
  EXPECT_TRUE(metrics.contains("A_AUC"));
  EXPECT_EQ(metrics.at("accuracy"), metrics.at("A_AUC"));
}

// It had trained on them.
TEST_F(LinearProbeTest, ASiteWhoseFeaturesAreNotTheAggregatorsTakesNoPart) {
  std::string text = job().file_text;
  text.insert(text.find("vector_width"), "sha256 = \"" + std::string(64, 'a') + "\"\n");
  const JobSpec spec = read_job_text(text, "job.toml").value();
  const TensorMap broadcast = make_server()->broadcast(make_server()->initial_state().value()).value();
  const auto refused = train(spec, TensorMap(), "site.tsv", 3, broadcast, 1);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Errc::unsupported);
  EXPECT_THAT(refused.error().message, HasSubstr(std::string(64, 'a')));
}

TEST_F(LinearProbeTest, HasNoRidgeRegression) {
  const auto refused = read_job_text(job().file_text + "\n[ridge]\ngamma = 3.0\n", "job.toml");
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("[ridge]: unknown key"));
}

TEST_F(LinearProbeTest, ASiteWithoutARecordInThePhaseWeighsNothing) {
  const auto server = make_server();
  const TensorMap state = server->initial_state().value();
  const auto made = train("other.tsv", 1, server->broadcast(state).value(), 2);
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_EQ(made->tensors().at("records").as<double>()[0], 0.0);
  Sum sum(server->contribution_schema());
  ASSERT_TRUE(sum.add(made->tensors(), made->weight()));
  EXPECT_EQ(server->next_state(state, sum)->at("weights"), state.at("weights"));
}

TEST_F(LinearProbeTest, TrainsOnFeaturesLessThePublicCentre) {
  write("public.tsv", "text\n1 2\n3 4\n");
  std::string text = job().file_text;
  text.replace(text.find("vector_width"), 0, "center_file = \"public.tsv\"\n");
  const JobSpec centered = read_job_text(text, "job.toml").value();
  const auto server = make_server(centered);
  ASSERT_EQ(server->constants().at("center"), HostTensor::from_f32({2}, std::vector<float>{2.0f, 3.0f}));
  const TensorMap state = server->initial_state().value();
  const auto made = train(centered, server->constants(), "other.tsv", 1, server->broadcast(state).value(), 1);
  ASSERT_TRUE(made.ok()) << made.error().message;
  // (−1, 1) less (2, 3) is (−3, −2), of label b; a step of 0.5 from zero weights.
  const double third = 1.0 / 3.0;
  const double expected[3][2] = {
      {0.5 * 3 * third, 0.5 * 2 * third}, {-0.5 * 6 * third, -0.5 * 4 * third}, {0.5 * 3 * third, 0.5 * 2 * third}};
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t i = 0; i < 2; ++i)
      EXPECT_NEAR(made->tensors().at("weights").as<float>()[2 * c + i], expected[c][i], 1e-6);
  EXPECT_FALSE(train(centered, TensorMap(), "other.tsv", 1, server->broadcast(state).value(), 1).ok());
}

TEST_F(LinearProbeTest, ExportsNothing) {
  const auto server = make_server();
  EXPECT_THAT(server->export_model(server->initial_state().value(), true, directory_ / "model").error().message,
              HasSubstr("use analytic_cil"));
}

}  // namespace
}  // namespace trib::tasks::linear_probe
