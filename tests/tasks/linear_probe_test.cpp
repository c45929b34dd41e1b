// The linear probe against what hand gives.
#include "tasks/linear_probe/linear_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <sstream>

#include "common/clock.h"
#include "common/files.h"
#include "kernels/device.h"
#include "privacy/ledger.h"

namespace trib::tasks::linear_probe {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

struct Item {
  double x[2];
  std::size_t label = 0;
  int phase = 1;
};

std::string table_of(const std::vector<Item>& items) {
  std::ostringstream table("text\tlabel\tphase\n", std::ios::ate);
  for (const Item& item : items)
    table << item.x[0] << " " << item.x[1] << "\t"
          << "abc"[item.label] << "\t" << item.phase << "\n";
  return table.str();
}

// (label, feature), in float64: what the probe is held against.
using Weights = std::array<std::array<double, 2>, 3>;

Weights weights_of(const HostTensor& tensor) {
  Weights weights;
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t i = 0; i < 2; ++i) weights[c][i] = static_cast<double>(tensor.as<float>()[2 * c + i]);
  return weights;
}

Weights plus(const Weights& a, double factor, const Weights& b) {
  Weights sum = a;
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t i = 0; i < 2; ++i) sum[c][i] += factor * b[c][i];
  return sum;
}

void expect_near(const Weights& made, const Weights& expected, double tolerance) {
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t i = 0; i < 2; ++i) EXPECT_NEAR(made[c][i], expected[c][i], tolerance) << c << ", " << i;
}

double norm_of(const Weights& weights) {
  double squares = 0.0;
  for (const auto& row : weights) squares += row[0] * row[0] + row[1] * row[1];
  return std::sqrt(squares);
}

// Of the cross-entropy of one item: (softmax(W·x) − y)·xᵀ.
Weights gradient_of(const Weights& weights, const Item& item) {
  double powers[3], sum = 0.0;
  for (std::size_t c = 0; c < 3; ++c)
    sum += powers[c] = std::exp(weights[c][0] * item.x[0] + weights[c][1] * item.x[1]);
  Weights gradient;
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t i = 0; i < 2; ++i) gradient[c][i] = (powers[c] / sum - (c == item.label ? 1.0 : 0.0)) * item.x[i];
  return gradient;
}

const Weights start = {{{0.5, -0.25}, {0.0, 1.0}, {-0.5, 0.25}}};
// Three of the first phase, and one that has not come yet.
const std::vector<Item> some_items = {
    {{1.0, 0.5}, 0, 1}, {{-0.5, 2.0}, 2, 1}, {{0.25, -0.5}, 1, 1}, {{3.0, -2.0}, 1, 2}};

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
  static JobSpec job(const std::string& training = "local_steps = 1", const std::string& privacy = "enabled = false") {
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
learning_rate = 0.5
)" + training + "\n[privacy]\n" +
                             privacy + "\n[evaluation]\nfile = \"test.tsv\"\n",
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
    TRIB_ASSIGN(const auto client, make_client(spec, file, records));
    TRIB_TRY(client->set_constants(constants));
    return train(*client, broadcast, round);
  }
  Result<std::unique_ptr<ClientTask>> make_client(const JobSpec& spec, const std::string& file,
                                                  std::int64_t records) const {
    const SiteContext site{.site = file,
                           .devices = {&kernels::cpu_device()},
                           .data_file = directory_ / file,
                           .declared_records = records,
                           .model_directories = {},
                           .shared = nullptr};
    return definition().make_client(spec, site);
  }
  static Result<privacy::Contribution> train(ClientTask& client, const TensorMap& broadcast, std::int64_t round,
                                             std::uint64_t seed = 1) {
    const RoundPlan plan{.job_id = "j", .round = round, .last_counted = round - 1};
    TRIB_ASSIGN(const privacy::Charge charge, client.charge(plan));
    TRIB_ASSIGN(const auto ledger,
                privacy::Ledger::in_memory({{.data_set = "default", .epsilon = 1e3, .delta = 1e-5}}, system_clock()));
    TRIB_ASSIGN(privacy::PrivacySession session,
                privacy::PrivacySession::open(*ledger, charge, true, RandomKey::from_seed(seed), system_clock()));
    QuietProgress progress;
    return client.train(broadcast, plan, session, progress);
  }
  static TensorMap broadcast_of(const Weights& weights) {
    TensorMap sent;
    sent["weights"] = HostTensor(DType::f32, {3, 2});
    for (std::size_t c = 0; c < 3; ++c)
      for (std::size_t i = 0; i < 2; ++i) sent["weights"].as<float>()[2 * c + i] = static_cast<float>(weights[c][i]);
    return sent;
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

// Steps of 0.5 times the gradient of the phase's records, over the five that the site declares.
Weights descend(int steps, double weight_decay) {
  Weights weights = start;
  for (int step = 0; step < steps; ++step) {
    const Weights at = weights;
    weights = plus(weights, -0.5 * weight_decay, at);
    for (const Item& item : some_items)
      if (item.phase == 1) weights = plus(weights, -0.5 / 5.0, gradient_of(at, item));
  }
  return weights;
}

TEST_F(LinearProbeTest, LocalStepsGoOnFromWeightToWeightOnAllRecordsOfThePhase) {
  write("some.tsv", table_of(some_items));
  const auto made = train(job("local_steps = 3"), TensorMap(), "some.tsv", 5, broadcast_of(start), 1);
  ASSERT_TRUE(made.ok()) << made.error().message;
  // What is sent is the weights times the three records of the phase.
  EXPECT_EQ(made->tensors().at("records").as<double>()[0], 3.0);
  expect_near(weights_of(made->tensors().at("weights")), plus({}, 3.0, descend(3, 0.0)), 5e-6);
}

TEST_F(LinearProbeTest, WeightDecayTakesItsPartOfTheWeightsThatTheGradientIsAt) {
  write("some.tsv", table_of(some_items));
  const JobSpec spec = job("local_steps = 2\nweight_decay = 0.25");
  const auto made = train(spec, TensorMap(), "some.tsv", 5, broadcast_of(start), 1);
  ASSERT_TRUE(made.ok()) << made.error().message;
  expect_near(weights_of(made->tensors().at("weights")), plus({}, 3.0, descend(2, 0.25)), 5e-6);
}

const std::string private_section = "enabled = true\nepsilon = 8.0\nclip_norm = 1.0";

TEST_F(LinearProbeTest, APrivateRoundIsTheClippedGradientsOverTheDeclaredRecordsOfAllSites) {
  const std::vector<Item> others = {{{-2.0, 1.0}, 0, 1}, {{0.5, 0.25}, 2, 1}, {{-40.0, 10.0}, 2, 2}};
  write("some.tsv", table_of(some_items));
  write("others.tsv", table_of(others));
  write("nothing.tsv", table_of({{{0.0, 0.0}, 0, 1}}));  // has no gradient, whatever the weights
  const JobSpec spec = job("local_steps = 1", private_section);
  const auto server = make_server(spec);
  TensorMap state = server->initial_state().value();
  state["weights"] = broadcast_of(start).at("weights");
  const auto round_of = [&](const char* first, const char* second) {
    Sum sum(server->contribution_schema());
    for (const auto& [file, declared] : {std::pair<const char*, std::int64_t>{first, 50}, {second, 150}}) {
      const auto made = train(spec, TensorMap(), file, declared, server->broadcast(state).value(), 1).value();
      EXPECT_TRUE(made.is_private());
      EXPECT_EQ(made.tensors().at("records").as<double>()[0], static_cast<double>(declared));
      EXPECT_TRUE(sum.add(made.tensors(), made.weight()));
    }
    return weights_of(server->next_state(state, sum)->at("weights"));
  };
  // The same key gives the same noise, which cancels.
  const Weights moved = plus(round_of("some.tsv", "others.tsv"), -1.0, round_of("nothing.tsv", "nothing.tsv"));
  Weights expected{};
  int clipped = 0, whole = 0;
  for (const std::vector<Item>& items : {some_items, others})
    for (const Item& item : items) {
      if (item.phase != 1) continue;
      const Weights gradient = gradient_of(start, item);
      ++(norm_of(gradient) > 1.0 ? clipped : whole);
      expected = plus(expected, 1.0 / std::max(1.0, norm_of(gradient)), gradient);
    }
  ASSERT_GE(clipped, 2);
  ASSERT_GE(whole, 2);
  expect_near(plus({}, -200.0 / 0.5, moved), expected, 3e-4);
}

TEST_F(LinearProbeTest, APrivateRoundWithoutARecordIsTheWeightsTimesTheDeclaredRecordsAndTheChargedNoise) {
  write("late.tsv", table_of({{{30.0, -20.0}, 2, 2}, {{10.0, 20.0}, 0, 2}}));
  const JobSpec spec = job("local_steps = 1\nweight_decay = 0.25", private_section);
  const auto client = make_client(spec, "late.tsv", 50).value();
  const privacy::Mechanism mechanism = definition().round_mechanism(spec, 50).value();
  ASSERT_EQ(mechanism.clip_norm, 1.0);
  // Of the noise in a weight: that of the sum, over the declared records, times the learning rate.
  const double stddev = 0.5 * mechanism.noise_multiplier / 50.0;
  const Weights decayed = plus(start, -0.5 * 0.25, start);
  Weights sums{};
  double squares = 0.0;
  constexpr int trials = 500;
  for (std::uint64_t seed = 1; seed <= trials; ++seed) {
    const auto made = train(*client, broadcast_of(start), 1, seed);
    ASSERT_TRUE(made.ok()) << made.error().message;
    EXPECT_FALSE(made->tensors().contains("seen"));
    const Weights noise = plus(plus({}, 1.0 / 50.0, weights_of(made->tensors().at("weights"))), -1.0, decayed);
    sums = plus(sums, 1.0 / stddev, noise);
    squares += norm_of(noise) * norm_of(noise) / (stddev * stddev);
  }
  // Five standard deviations of the sum of so many normals, and of the mean of their squares.
  expect_near(sums, {}, 5.0 * std::sqrt(trials));
  EXPECT_NEAR(squares / (6.0 * trials), 1.0, 5.0 * std::sqrt(2.0 / (6.0 * trials)));
}

// It used to take part, and to train on features of its own.
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
