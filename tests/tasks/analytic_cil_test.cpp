// Both halves of analytic class-incremental learning, on vectors.
#include "tasks/analytic_cil/analytic_cil.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>
#include <set>

#include "common/clock.h"
#include "common/files.h"
#include "common/safetensors.h"
#include "kernels/device.h"
#include "privacy/ledger.h"
#include "tasks/analytic_cil/config.h"
#include "tasks/analytic_cil/statistics.h"
#include "tasks/class_stream/history.h"
#include "tasks/class_stream/metrics.h"
#include "tasks/class_stream/records.h"
#include "tasks/class_stream/simulate.h"
#include "tasks/data/text_table.h"

namespace trib::tasks::analytic_cil {
namespace {

namespace fs = std::filesystem;
using class_stream::add_to_history;
using class_stream::begin_history;
using class_stream::deal_stream;
using class_stream::Evaluated;
using class_stream::forgetting;
using class_stream::Forgetting;
using class_stream::history_metrics;
using class_stream::read_table;
using class_stream::simulated_schedule;
using class_stream::steps_of;
using class_stream::stream_metrics;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using Matrix = Eigen::MatrixXd;
using RowMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr std::int64_t input_width = 6, buffer_width = 40, classes = 5;

struct Sample {
  std::vector<float> features;
  int label = 0;
  int phase = 1;
};

// Classes around different means, so that they can be told apart, but not perfectly.
std::vector<Sample> samples(std::size_t count, std::uint64_t seed, int phases = 4) {
  ChaCha20Random random(RandomKey::from_seed(seed));
  const auto normal = [&] {
    return std::sqrt(-2.0 * std::log(random.uniform())) * std::cos(2.0 * std::numbers::pi * random.uniform());
  };
  std::vector<Sample> result(count);
  for (Sample& sample : result) {
    sample.label = static_cast<int>(random.below(classes));
    sample.phase = 1 + static_cast<int>(random.below(static_cast<std::uint64_t>(phases)));
    for (std::int64_t i = 0; i < input_width; ++i)
      sample.features.push_back(static_cast<float>(normal() + (i == sample.label ? 2.0 : 0.0)));
  }
  return result;
}

std::string label_name(int label) {
  return "class " + std::to_string(label);
}

std::string table_of(const std::vector<Sample>& records, bool with_phases = true) {
  std::string table = with_phases ? "features\tlabel\tphase\n" : "features\tlabel\n";
  char number[32];
  for (const Sample& sample : records) {
    for (const float value : sample.features) {
      std::snprintf(number, sizeof number, "%.9g ", static_cast<double>(value));
      table += number;
    }
    table.append(1, '\t').append(label_name(sample.label));
    if (with_phases) table.append(1, '\t').append(std::to_string(sample.phase));
    table += "\n";
  }
  return table;
}

class AnalyticCilTest : public testing::Test {
 protected:
  AnalyticCilTest() : directory_(fs::path(testing::TempDir()) / "analytic_cil_test") {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    sections_["job"] = "name = \"stream\"\ntask = \"analytic_cil\"\nrounds = 4\nseed = 4\n";
    sections_["model"] = "labels = [\"class 0\", \"class 1\", \"class 2\", \"class 3\", \"class 4\"]\n";
    sections_["features"] = "vector_width = 6\n";
    sections_["buffer"] = "width = 40\n";
    sections_["ridge"] = "gamma = 0.1\n";
    sections_["privacy"] = "enabled = false\n";
    sections_["data"] = "text_column = \"features\"\n";
    sections_["evaluation"] = "file = \"test.tsv\"\n";
    write("test.tsv", table_of(samples(200, 99), false));
  }

  fs::path write(const std::string& name, const std::string& content) {
    EXPECT_TRUE(write_file_durably(directory_ / name, content).ok());
    return directory_ / name;
  }
  std::string job_text() const {
    std::string text;
    for (const auto& [name, lines] : sections_) text += "[" + name + "]\n" + lines;
    return text;
  }
  JobSpec job() const { return read_job_text(job_text(), "job.toml").value(); }
  std::string job_error() const { return read_job_text(job_text(), "job.toml").error().message; }
  Config config() const { return config_of(job()).value(); }
  AggregatorContext aggregator() const {
    return {.device = &kernels::cpu_device(), .model_directories = {}, .data_directory = directory_, .shared = shared_};
  }
  SiteContext site(const std::string& file, std::int64_t declared_records = 1000) const {
    return {.site = file,
            .devices = {&kernels::cpu_device()},
            .data_file = directory_ / file,
            .declared_records = declared_records,
            .model_directories = {},
            .shared = shared_};
  }
  std::unique_ptr<ServerTask> make_server() const { return definition().make_server(job(), aggregator()).value(); }
  Result<std::unique_ptr<ClientTask>> make_client(const std::string& file) const {
    return definition().make_client(job(), site(file));
  }

  // One site's part in a round, as the client daemon goes about it.
  static Result<privacy::Contribution> train(ClientTask& client, const RoundPlan& plan, std::uint64_t seed = 1) {
    TRIB_ASSIGN(const privacy::Charge charge, client.charge(plan));
    TRIB_ASSIGN(const auto ledger,
                privacy::Ledger::in_memory({{.data_set = "default", .epsilon = 1e3, .delta = 1e-5}}, system_clock()));
    TRIB_ASSIGN(privacy::PrivacySession session,
                privacy::PrivacySession::open(*ledger, charge, true, RandomKey::from_seed(seed), system_clock()));
    QuietProgress progress;
    return client.train(TensorMap(), plan, session, progress);
  }

  // Who takes part in round r (0-based): [r][site]; empty: everybody.
  using Attendance = std::vector<std::vector<bool>>;

  // The state after all rounds of a federation whose site i holds sites[i].
  TensorMap federate(const std::vector<std::vector<Sample>>& sites, const Attendance& attendance = {}) {
    std::vector<std::unique_ptr<ClientTask>> clients;
    for (std::size_t i = 0; i < sites.size(); ++i) {
      const std::string name = "site-" + std::to_string(i) + ".tsv";
      write(name, table_of(sites[i]));
      clients.push_back(make_client(name).value());
    }
    const auto server = make_server();
    for (const auto& client : clients) EXPECT_TRUE(client->set_constants(server->constants()));
    TensorMap state = server->initial_state().value();
    std::vector<std::int64_t> last_counted(sites.size(), 0);
    const JobSpec spec = job();
    for (std::int64_t round = 1; round <= spec.rounds; ++round) {
      Sum sum(server->contribution_schema());
      for (std::size_t i = 0; i < sites.size(); ++i) {
        if (!attendance.empty() && !attendance[static_cast<std::size_t>(round - 1)][i]) continue;
        const auto made =
            train(*clients[i], {.job_id = "j1", .round = round, .last_counted = last_counted[i]}, 100 * i + 1);
        EXPECT_TRUE(made.ok()) << made.error().message;
        EXPECT_TRUE(sum.add(made->tensors(), made->weight()).ok());
        last_counted[i] = round;
      }
      auto next = server->next_state(state, sum);
      EXPECT_TRUE(next.ok()) << next.error().message;
      state = *std::move(next);
    }
    metrics_ = server->evaluate(state, progress_).value().metrics;
    return state;
  }

  // The buffer's features of records, in float64.
  Matrix features_of(const std::vector<Sample>& records) const {
    std::vector<float> values;
    for (const Sample& sample : records) values.insert(values.end(), sample.features.begin(), sample.features.end());
    const auto stream = kernels::cpu_device().make_stream();
    const Config settings = config();
    const Buffer buffer(*stream, input_width, settings.buffer_width, settings.buffer_seed);
    const HostTensor out =
        buffer
            .apply(*stream, kernels::Tensor::from_host(
                                *stream, HostTensor::from_f32({std::ssize(records), input_width}, values)))
            .to_host(*stream);
    Matrix features(std::ssize(records), out.shape()[1]);
    for (Eigen::Index i = 0; i < features.rows(); ++i)
      for (Eigen::Index j = 0; j < features.cols(); ++j)
        features(i, j) = out.as<float>()[static_cast<std::size_t>(i * features.cols() + j)];
    return features;
  }
  static Matrix labels_of(const std::vector<Sample>& records) {
    Matrix labels = Matrix::Zero(std::ssize(records), classes);
    for (std::size_t i = 0; i < records.size(); ++i) labels(static_cast<Eigen::Index>(i), records[i].label) = 1.0;
    return labels;
  }
  // (classes, width): ridge regression on all records at once, from an outside library.
  Matrix joint_weights(const std::vector<Sample>& records, double gamma) const {
    const Matrix x = features_of(records), y = labels_of(records);
    const Matrix regularized = x.transpose() * x + gamma * Matrix::Identity(x.cols(), x.cols());
    return regularized.ldlt().solve(x.transpose() * y).transpose();
  }
  static Matrix matrix_of(const HostTensor& tensor) {
    return Eigen::Map<const RowMatrix>(tensor.as<double>().data(), tensor.shape()[0], tensor.shape()[1]);
  }
  static double relative_difference(const Matrix& a, const Matrix& b) { return (a - b).norm() / b.norm(); }

  fs::path directory_;
  std::map<std::string, std::string> sections_;
  std::shared_ptr<SharedResources> shared_ = std::make_shared<SharedResources>();
  std::map<std::string, double> metrics_;
  QuietProgress progress_;
};

// Records dealt to `sites` at random; with `by_label` a label goes to one site alone, whatever its records' phase.
std::vector<std::vector<Sample>> deal(const std::vector<Sample>& all, std::size_t sites, std::uint64_t seed,
                                      bool by_label = false) {
  ChaCha20Random random(RandomKey::from_seed(seed));
  std::vector<std::vector<Sample>> dealt(sites);
  for (const Sample& sample : all) {
    const std::size_t to = by_label ? static_cast<std::size_t>(sample.label) % sites : random.below(sites);
    dealt[to].push_back(sample);
  }
  return dealt;
}

// --- Exactness ---

TEST_F(AnalyticCilTest, AnySplitOverSitesAndTimeGivesTheWeightsOfJointTraining) {
  const std::vector<Sample> all = samples(300, 1);
  const Matrix joint = joint_weights(all, 0.1);
  for (std::uint64_t trial = 0; trial < 6; ++trial) {
    // Other phases, other sites; from the third trial on sites have fewer records than features.
    std::vector<Sample> shuffled = all;
    ChaCha20Random random(RandomKey::from_seed(50 + trial));
    for (std::size_t i = shuffled.size(); i > 1; --i) std::swap(shuffled[i - 1], shuffled[random.below(i)]);
    for (Sample& sample : shuffled) sample.phase = 1 + static_cast<int>(random.below(4));
    const auto sites = deal(shuffled, trial < 2 ? 1 + trial : 9 + trial, trial, trial == 5);
    if (trial == 5) sections_["selection"] = "";
    std::vector<std::vector<Sample>> present;
    for (const auto& records : sites)
      if (!records.empty()) present.push_back(records);
    const TensorMap state = federate(present);
    EXPECT_LT(relative_difference(matrix_of(state.at("weights")), joint), 1e-9) << "trial " << trial;
    EXPECT_EQ(metrics_.at("records"), 300.0);
  }
}

TEST_F(AnalyticCilTest, EveryRoundsWeightsAreThoseOfWhatHasArrived) {
  const std::vector<Sample> all = samples(120, 2);
  sections_["job"] = "name = \"stream\"\ntask = \"analytic_cil\"\nrounds = 2\nseed = 4\n[protocol]\nphases = 2\n";
  std::vector<Sample> early;
  std::vector<Sample> two = all;
  for (std::size_t i = 0; i < two.size(); ++i) two[i].phase = i % 3 == 0 ? 2 : 1;
  for (const Sample& sample : two)
    if (sample.phase == 1) early.push_back(sample);
  const auto sites = deal(two, 3, 1);
  std::vector<std::unique_ptr<ClientTask>> clients;
  const auto server = make_server();
  TensorMap state = server->initial_state().value();
  Sum sum(server->contribution_schema());
  for (std::size_t i = 0; i < sites.size(); ++i) {
    const std::string name = "site-" + std::to_string(i) + ".tsv";
    write(name, table_of(sites[i]));
    const auto made = train(*make_client(name).value(), {.job_id = "j", .round = 1});
    ASSERT_TRUE(sum.add(made->tensors(), made->weight()));
  }
  state = server->next_state(state, sum).value();
  EXPECT_LT(relative_difference(matrix_of(state.at("weights")), joint_weights(early, 0.1)), 1e-9);
}

TEST_F(AnalyticCilTest, ASiteThatMissesRoundsLosesNothing) {
  const std::vector<Sample> all = samples(200, 3);
  const auto sites = deal(all, 3, 1);
  const Matrix joint = joint_weights(all, 0.1);
  const Attendance attendance = {{true, false, true}, {false, false, true}, {true, false, false}, {true, true, true}};
  EXPECT_LT(relative_difference(matrix_of(federate(sites, attendance).at("weights")), joint), 1e-9);
  EXPECT_EQ(metrics_.at("records"), 200.0);
}

TEST_F(AnalyticCilTest, RoundsBeyondThePhasesAreForSitesThatMissedOne) {
  sections_["job"] = "name = \"stream\"\ntask = \"analytic_cil\"\nrounds = 5\nseed = 4\n[protocol]\nphases = 4\n";
  const std::vector<Sample> all = samples(200, 3);
  const auto sites = deal(all, 2, 1);
  const Attendance attendance = {{true, true}, {true, true}, {true, true}, {true, false}, {true, true}};
  federate(sites, attendance);
  EXPECT_EQ(metrics_.at("records"), 200.0);
}

TEST_F(AnalyticCilTest, RecordsOfAFileWithoutPhasesCountOnce) {
  const std::vector<Sample> all = samples(60, 5);
  write("plain.tsv", table_of(all, false));
  const auto client = make_client("plain.tsv").value();
  const auto records_in = [&](std::int64_t round, std::int64_t last_counted) {
    const auto made = train(*client, {.job_id = "j", .round = round, .last_counted = last_counted});
    const auto counts = made->tensors().at("counts").as<double>();
    return std::accumulate(counts.begin(), counts.end(), 0.0);
  };
  EXPECT_EQ(records_in(1, 0), 60.0);
  EXPECT_EQ(records_in(2, 1), 0.0);
  EXPECT_EQ(records_in(3, 0), 60.0) << "it was counted in no round before";
}

TEST_F(AnalyticCilTest, MoreLabelsLeaveTheWeightsOfTheOthersAlone) {
  const std::vector<Sample> all = samples(150, 6);
  const Matrix before = matrix_of(federate(deal(all, 2, 1)).at("weights"));
  sections_["model"] = "labels = [\"new\", \"class 0\", \"class 1\", \"class 2\", \"class 3\", \"class 4\"]\n";
  const Matrix after = matrix_of(federate(deal(all, 2, 1)).at("weights"));
  EXPECT_EQ(after.row(0).norm(), 0.0);
  EXPECT_LT(relative_difference(after.bottomRows(classes), before), 1e-12);
}

TEST_F(AnalyticCilTest, ASumOfFewRecordsWithoutGammaGivesTheSmallestSolution) {
  sections_["ridge"] = "gamma = 0.0\n";
  const std::vector<Sample> few = samples(15, 7);
  const TensorMap state = federate({few});
  const Matrix least = features_of(few).completeOrthogonalDecomposition().solve(labels_of(few)).transpose();
  EXPECT_LT(relative_difference(matrix_of(state.at("weights")), least), 1e-6);
  EXPECT_EQ(metrics_.at("rank"), 15.0);
}

TEST_F(AnalyticCilTest, ASiteWithOneClassIsASiteLikeAnyOther) {
  std::vector<Sample> all = samples(80, 8);
  std::vector<std::vector<Sample>> sites(2);
  for (const Sample& sample : all) sites[sample.label == 2 ? 0 : 1].push_back(sample);
  EXPECT_LT(relative_difference(matrix_of(federate(sites).at("weights")), joint_weights(all, 0.1)), 1e-9);
}

TEST_F(AnalyticCilTest, APhaseWithoutRecordsIsZeros) {
  std::vector<Sample> all = samples(20, 9);
  for (Sample& sample : all) sample.phase = 3;
  write("late.tsv", table_of(all));
  const auto made = train(*make_client("late.tsv").value(), {.job_id = "j", .round = 1});
  for (const auto& [name, tensor] : made->tensors())
    for (const double value : tensor.as<double>()) ASSERT_EQ(value, 0.0) << name;
  EXPECT_EQ(made->weight(), 1.0);
}

// --- A public centre ---

class CenteredAnalyticCilTest : public AnalyticCilTest {
 protected:
  CenteredAnalyticCilTest() {
    sections_["features"] += "center_file = \"public.tsv\"\n";
    std::string unlabelled = "features\n";
    for (const Sample& sample : public_) {
      for (const float value : sample.features) unlabelled.append(std::to_string(value)).append(1, ' ');
      unlabelled += "\n";
    }
    write("public.tsv", unlabelled);
  }
  // Of features as sites have them: less the mean of the public items'.
  Matrix centered_features_of(const std::vector<Sample>& records) const {
    return features_of(records).rowwise() - features_of(public_).colwise().mean();
  }
  const std::vector<Sample> public_ = samples(70, 31);
};

TEST_F(CenteredAnalyticCilTest, TheMeanOfPublicItemsIsTakenOffEveryonesFeatures) {
  for (const char* buffer : {"width = 40\n", "width = 0\n"}) {
    sections_["buffer"] = buffer;
    const std::vector<Sample> all = samples(200, 30);
    const TensorMap state = federate(deal(all, 3, 1));
    const Matrix x = centered_features_of(all);
    const Matrix regularized = x.transpose() * x + 0.1 * Matrix::Identity(x.cols(), x.cols());
    const Matrix joint = regularized.ldlt().solve(x.transpose() * labels_of(all)).transpose();
    // The public features were written with six digits, and are float32.
    EXPECT_LT(relative_difference(matrix_of(state.at("weights")), joint), 1e-4) << buffer;
    EXPECT_GT(relative_difference(matrix_of(state.at("weights")), joint_weights(all, 0.1)), 1e-2) << buffer;
    // The test set's features are centred too: the same items are right.
    const std::vector<Sample> test = samples(200, 99);
    const Matrix scores = centered_features_of(test) * joint.transpose();
    double right = 0.0;
    for (Eigen::Index i = 0; i < scores.rows(); ++i) {
      Eigen::Index predicted = 0;
      scores.row(i).maxCoeff(&predicted);
      right += predicted == test[static_cast<std::size_t>(i)].label ? 1.0 : 0.0;
    }
    EXPECT_NEAR(metrics_.at("accuracy"), right / 200.0, 0.5 / 200.0) << buffer;
  }
}

TEST_F(CenteredAnalyticCilTest, ASiteTakesNoOtherCentreThanTheJobs) {
  write("site.tsv", table_of(samples(10, 17)));
  const JobSpec pinned = pin_job(job(), aggregator()).value();
  const auto server = definition().make_server(pinned, aggregator()).value();
  const auto client = definition().make_client(pinned, site("site.tsv")).value();
  EXPECT_THAT(train(*client, {.job_id = "j", .round = 1}).error().message, HasSubstr("before its first round"));
  TensorMap other = server->constants();
  other["center"].as<float>()[3] += 1.0f;
  EXPECT_THAT(client->set_constants(other).error().message, HasSubstr("centre of the features is"));
  other["center"].as<float>()[3] = std::nanf("");
  EXPECT_FALSE(client->set_constants(other));
  EXPECT_FALSE(client->set_constants(TensorMap()));
  EXPECT_TRUE(client->set_constants(server->constants()));
  EXPECT_TRUE(train(*client, {.job_id = "j", .round = 1}).ok());
}

TEST_F(CenteredAnalyticCilTest, PublicItemsThatChangeAfterSubmissionAreRefused) {
  const JobSpec pinned = pin_job(job(), aggregator()).value();
  ASSERT_TRUE(definition().make_server(pinned, aggregator()).ok());
  write("public.tsv", "features\n1 2 3 4 5 6\n");
  EXPECT_THAT(definition().make_server(pinned, aggregator()).error().message,
              AllOf(HasSubstr("centre of the features is"), HasSubstr("public.tsv")));
  write("public.tsv", "features\n");
  EXPECT_THAT(pin_job(job(), aggregator()).error().message, AllOf(HasSubstr("public.tsv"), HasSubstr("no records")));
  fs::remove(directory_ / "public.tsv");
  EXPECT_THAT(pin_job(job(), aggregator()).error().message, HasSubstr("features.center_file = \"public.tsv\""));
}

TEST_F(CenteredAnalyticCilTest, AnExportedModelHasItsCentreWithIt) {
  const std::vector<Sample> all = samples(200, 20), fresh = samples(50, 21);
  const TensorMap state = federate(deal(all, 2, 1));
  ASSERT_TRUE(make_server()->export_model(state, true, directory_ / "model"));
  fs::remove(directory_ / "public.tsv");
  PredictRequest request{.base = directory_,
                         .adapter = directory_ / "model",
                         .data = write("new.tsv", table_of(fresh, false)),
                         .text_column = "features",
                         .device = &kernels::cpu_device()};
  const Predictions predictions = definition().predict(request, progress_).value();
  const Matrix scores = centered_features_of(fresh) * matrix_of(state.at("weights")).transpose();
  for (Eigen::Index i = 0; i < scores.rows(); ++i)
    for (Eigen::Index c = 0; c < classes; ++c)
      EXPECT_NEAR(predictions.logits.as<float>()[static_cast<std::size_t>(i * classes + c)], scores(i, c), 1e-4);

  // Without the centre it is another model.
  const fs::path tensors = directory_ / "model" / "model.safetensors";
  TensorMap uncentred = read_safetensors(tensors).value().tensors;
  uncentred.erase("center");
  ASSERT_TRUE(write_safetensors(tensors, uncentred));
  EXPECT_EQ(definition().predict(request, progress_).error().code, Errc::corrupt);
}

// --- Metrics ---

TEST(StreamMetrics, AreWhatHandGives) {
  const std::vector<Evaluated> rounds = {{.accuracy = 0.5, .records = 100.0, .ends_phase = false},
                                         {.accuracy = 0.75, .records = 300.0, .ends_phase = true},
                                         {.accuracy = 1.0, .records = 100.0, .ends_phase = true}};
  const auto metrics = stream_metrics(rounds);
  EXPECT_DOUBLE_EQ(metrics.at("A_AUC"), (50.0 + 225.0 + 100.0) / 500.0);
  EXPECT_DOUBLE_EQ(metrics.at("A_avg"), 0.875);
  EXPECT_DOUBLE_EQ(metrics.at("A_last"), 1.0);
  std::vector<Evaluated> unknown = rounds;
  for (Evaluated& round : unknown) round.records = 0.0;
  EXPECT_DOUBLE_EQ(stream_metrics(unknown).at("A_AUC"), 0.75);
  EXPECT_FALSE(stream_metrics(std::vector<Evaluated>(rounds.begin(), rounds.begin() + 1)).contains("A_last"));
  EXPECT_TRUE(stream_metrics({}).empty());
}

TEST(Forgetting, IsTheBestLessTheLastOfClassesThatWereThereBefore) {
  const double none = std::nan("");
  const Forgetting lost =
      forgetting(std::vector<double>{0.9, none, 0.5, none}, std::vector<double>{0.6, 0.7, 0.8, none});
  EXPECT_DOUBLE_EQ(lost.of_class[0], 0.3);
  EXPECT_TRUE(std::isnan(lost.of_class[1]));
  EXPECT_DOUBLE_EQ(lost.of_class[2], 0.0);
  EXPECT_TRUE(std::isnan(lost.of_class[3]));
  EXPECT_DOUBLE_EQ(lost.mean, 0.15);
}

TEST(History, JudgesAClassByTheBestThatItHadInAnyRoundBeforeTheLast) {
  const double none = std::nan("");
  const std::vector<std::string> labels = {"a", "b", "c", "d"};
  TensorMap state;
  begin_history(state, 4);
  EXPECT_TRUE(history_metrics(state, labels).empty());

  add_to_history(state, {.accuracy = 0.875, .of_class = {0.875, none, none, none}}, 100.0, false);
  auto metrics = history_metrics(state, labels);
  EXPECT_EQ(metrics.at("accuracy"), 0.875);
  EXPECT_EQ(metrics.at("A_AUC"), 0.875);
  EXPECT_FALSE(metrics.contains("A_avg"));
  EXPECT_FALSE(metrics.contains("forgetting/a")) << "it has just come";
  EXPECT_EQ(metrics.at("forgetting"), 0.0);

  add_to_history(state, {.accuracy = 0.5, .of_class = {0.5, 0.25, none, none}}, 300.0, true);
  metrics = history_metrics(state, labels);
  EXPECT_EQ(metrics.at("forgetting/a"), 0.375);
  EXPECT_FALSE(metrics.contains("forgetting/b"));
  EXPECT_EQ(metrics.at("A_AUC"), (100.0 * 0.875 + 300.0 * 0.5) / 400.0);
  EXPECT_EQ(metrics.at("A_avg"), 0.5);

  // a: 0.875, 0.5, 0.625; b: 0.25, 0.75.
  add_to_history(state, {.accuracy = 0.75, .of_class = {0.625, 0.75, 1.0, none}}, 100.0, true);
  metrics = history_metrics(state, labels);
  EXPECT_EQ(metrics.at("forgetting/a"), 0.25);
  EXPECT_EQ(metrics.at("forgetting/b"), 0.0) << "it has won";
  EXPECT_FALSE(metrics.contains("forgetting/c"));
  EXPECT_FALSE(metrics.contains("forgetting/d"));
  EXPECT_EQ(metrics.at("forgetting"), 0.125);
  EXPECT_EQ(metrics.at("accuracy"), 0.75);
  EXPECT_EQ(metrics.at("A_AUC"), (100.0 * 0.875 + 300.0 * 0.5 + 100.0 * 0.75) / 500.0);
  EXPECT_EQ(metrics.at("A_avg"), 0.625);
  EXPECT_EQ(metrics.at("A_last"), 0.75);
}

TEST_F(AnalyticCilTest, AccuracyIsOverTheClassesThatHaveBeenSeen) {
  // One class a phase, without a layer, one coordinate a class: every exposed class is right.
  sections_["buffer"] = "width = 0\n";
  sections_["job"] = "name = \"stream\"\ntask = \"analytic_cil\"\nrounds = 5\nseed = 4\n";
  std::vector<Sample> all;
  for (int label = 0; label < classes; ++label) {
    Sample sample{.features = std::vector<float>(input_width, 0.0f), .label = label, .phase = label + 1};
    sample.features[static_cast<std::size_t>(label)] = 1.0f;
    all.insert(all.end(), 3, sample);
  }
  write("test.tsv", table_of(all, false));
  federate({all});
  for (const char* metric : {"accuracy", "A_AUC", "A_avg", "A_last"}) EXPECT_EQ(metrics_.at(metric), 1.0) << metric;
  EXPECT_EQ(metrics_.at("exposed_classes"), 5.0);
  EXPECT_EQ(metrics_.at("forgetting"), 0.0);
  EXPECT_EQ(metrics_.at("forgetting/class 0"), 0.0);
  EXPECT_FALSE(metrics_.contains("forgetting/class 4")) << "it has just come";
}

// --- Privacy ---

class PrivateAnalyticCilTest : public AnalyticCilTest {
 protected:
  PrivateAnalyticCilTest() {
    sections_["privacy"] = "enabled = true\nepsilon = 8.0\n";
    sections_["buffer"] = "width = 12\n";
  }
  TensorMap contribution(const std::vector<Sample>& records, std::uint64_t seed) {
    write("private.tsv", table_of(records));
    return train(*make_client("private.tsv").value(), {.job_id = "j", .round = 1}, seed)->tensors();
  }
  double stddev() const {
    const privacy::Mechanism mechanism = round_mechanism(job(), 1000).value();
    return mechanism.noise_multiplier * mechanism.clip_norm;
  }
};

TEST_F(PrivateAnalyticCilTest, IsOneReleaseARoundOfSensitivityRootTwo) {
  const privacy::Mechanism mechanism = round_mechanism(job(), 1000).value();
  EXPECT_EQ(mechanism.steps, 1);
  EXPECT_EQ(mechanism.sample_rate, 1.0);
  EXPECT_NEAR(mechanism.clip_norm, std::sqrt(2.0), 1e-4);
  EXPECT_GE(mechanism.clip_norm, std::sqrt(2.0));
  // Four rounds of it cost what the job says.
  EXPECT_LE(privacy::epsilon_after_rounds(mechanism, 4, 1e-5), 8.0);
  EXPECT_GE(privacy::epsilon_after_rounds(mechanism, 4, 1e-5), 7.9);
}

TEST_F(PrivateAnalyticCilTest, OneRecordMovesTheReleaseByItsProductsAndNoMoreThanTheSensitivity) {
  std::vector<Sample> records = samples(30, 11, 1);
  records[7].features.assign(input_width, 1e6f);  // to be cut
  for (const std::size_t removed : {std::size_t{0}, std::size_t{7}}) {
    std::vector<Sample> without = records;
    without.erase(without.begin() + static_cast<std::ptrdiff_t>(removed));
    // The same key gives the same noise, which cancels.
    const TensorMap with = contribution(records, 5), less = contribution(without, 5);
    const Matrix x = features_of({records[removed]}).row(0);
    const Matrix cut = x / std::max(1.0, x.norm());
    double squared = 0.0;
    std::size_t place = 0;
    const auto gram = with.at("gram").as<double>(), gram_less = less.at("gram").as<double>();
    for (Eigen::Index i = 0; i < 12; ++i)
      for (Eigen::Index j = i; j < 12; ++j, ++place) {
        const double moved = gram[place] - gram_less[place];
        EXPECT_NEAR(moved, cut(i) * cut(j), 2e-5);
        squared += (i == j ? 1.0 : 2.0) * moved * moved;
      }
    const auto sums = with.at("class_sums").as<double>(), sums_less = less.at("class_sums").as<double>();
    for (std::size_t i = 0; i < sums.size(); ++i) squared += (sums[i] - sums_less[i]) * (sums[i] - sums_less[i]);
    EXPECT_LE(std::sqrt(squared), std::sqrt(2.0) * (1.0 + 4e-5));
    if (removed == 7) {
      EXPECT_NEAR(std::sqrt(squared), std::sqrt(2.0), 1e-3);
    }
  }
}

TEST_F(PrivateAnalyticCilTest, NoiseIsSymmetricAndOfTheChargedSpreadWhereverThereIsNoRecord) {
  std::vector<Sample> none = samples(10, 12);
  for (Sample& sample : none) sample.phase = 4;
  write("private.tsv", table_of(none));
  const auto client = make_client("private.tsv").value();
  double diagonal = 0.0, beside = 0.0, sums = 0.0;
  std::size_t diagonal_count = 0, beside_count = 0, sum_count = 0;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    const auto made = train(*client, {.job_id = "j", .round = 1}, seed);
    EXPECT_TRUE(made->is_private());
    EXPECT_FALSE(made->tensors().contains("counts"));
    std::size_t place = 0;
    const auto gram = made->tensors().at("gram").as<double>();
    for (int i = 0; i < 12; ++i)
      for (int j = i; j < 12; ++j, ++place) {
        (i == j ? diagonal : beside) += gram[place] * gram[place];
        ++(i == j ? diagonal_count : beside_count);
      }
    for (const double value : made->tensors().at("class_sums").as<double>()) {
      sums += value * value;
      ++sum_count;
    }
  }
  const double variance = stddev() * stddev();
  // Mean squares of n normals: relative standard deviation √(2/n); five of them.
  const auto expect = [](double total, std::size_t count, double expected) {
    const auto n = static_cast<double>(count);
    EXPECT_NEAR(total / n / expected, 1.0, 5.0 * std::sqrt(2.0 / n));
  };
  expect(diagonal, diagonal_count, variance);
  expect(beside, beside_count, 0.5 * variance);
  expect(sums, sum_count, variance);
}

TEST_F(PrivateAnalyticCilTest, LouderClassSumsHaveTheJointSensitivityAndTheNoiseOfTheirWeight) {
  constexpr double weight = 4.0;
  sections_["ridge"] = "class_sums_weight = 4.0\n";
  const privacy::Mechanism mechanism = round_mechanism(job(), 1000).value();
  EXPECT_NEAR(mechanism.clip_norm, std::sqrt(17.0), 1e-3);
  EXPECT_GE(mechanism.clip_norm, std::sqrt(17.0));
  EXPECT_LE(privacy::epsilon_after_rounds(mechanism, 4, 1e-5), 8.0);

  // One record, in what was released before it was divided: (xxᵀ, 4·yxᵀ), and no more than √17.
  std::vector<Sample> records = samples(30, 11, 1);
  records[7].features.assign(input_width, 1e6f);
  std::vector<Sample> without = records;
  without.erase(without.begin() + 7);
  const TensorMap with = contribution(records, 5), less = contribution(without, 5);
  Matrix cut = features_of({records[7]}).row(0);
  cut /= cut.norm();
  double squared = 0.0;
  std::size_t place = 0;
  for (Eigen::Index i = 0; i < 12; ++i)
    for (Eigen::Index j = i; j < 12; ++j, ++place) {
      const double moved = with.at("gram").as<double>()[place] - less.at("gram").as<double>()[place];
      squared += (i == j ? 1.0 : 2.0) * moved * moved;
    }
  EXPECT_NEAR(squared, 1.0, 1e-3);
  for (Eigen::Index c = 0; c < classes; ++c)
    for (Eigen::Index i = 0; i < 12; ++i) {
      const auto at = static_cast<std::size_t>(c * 12 + i);
      const double moved = with.at("class_sums").as<double>()[at] - less.at("class_sums").as<double>()[at];
      EXPECT_NEAR(moved, c == records[7].label ? cut(i) : 0.0, 2e-5);
      squared += weight * weight * moved * moved;
    }
  EXPECT_LE(std::sqrt(squared), mechanism.clip_norm);
  EXPECT_NEAR(std::sqrt(squared), std::sqrt(17.0), 1e-3);

  // Noise alone: σ for √17 on the one, a quarter of it on the other.
  std::vector<Sample> late = samples(10, 12);
  for (Sample& sample : late) sample.phase = 4;
  double gram = 0.0, sums = 0.0;
  std::size_t gram_count = 0, sum_count = 0;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    const TensorMap noise = contribution(late, seed);
    for (const double value : noise.at("gram").as<double>()) gram += value * value, ++gram_count;
    for (const double value : noise.at("class_sums").as<double>()) sums += value * value, ++sum_count;
  }
  const double variance = stddev() * stddev();
  // Of 78 entries of the triangle 12 are on the diagonal.
  const double expected = variance * (12.0 + 0.5 * 66.0) / 78.0;
  EXPECT_NEAR(gram / static_cast<double>(gram_count) / expected, 1.0, 6.0 * std::sqrt(2.0 / gram_count));
  EXPECT_NEAR(sums / static_cast<double>(sum_count) / (variance / 16.0), 1.0, 5.0 * std::sqrt(2.0 / sum_count));
}

TEST_F(PrivateAnalyticCilTest, GammaIsAboveTheNormOfTheNoiseOfAllContributions) {
  const auto sites = deal(samples(90, 13), 3, 1);
  const TensorMap state = federate(sites);  // three sites, four rounds: twelve noises
  EXPECT_GE(metrics_.at("gamma"), 2.0 * stddev() * std::sqrt(0.5 * 12.0 * 12.0));
  EXPECT_LE(metrics_.at("gamma"), 6.0 * stddev() * std::sqrt(0.5 * 12.0 * 12.0));
  EXPECT_EQ(metrics_.at("rank"), 12.0);
  EXPECT_FALSE(metrics_.contains("records"));
  EXPECT_EQ(metrics_.at("exposed_classes"), 5.0) << "the job does not say when they come";
}

TEST_F(PrivateAnalyticCilTest, CrossValidationSeesTheNoisedSumsAloneAndStaysAboveTheNoise) {
  const auto sites = deal(samples(900, 13), 3, 1);
  for (const char* epsilon : {"8.0", "64.0"}) {
    sections_["privacy"] = std::string("enabled = true\nepsilon = ") + epsilon + "\n";
    sections_["ridge"] = "gamma = 1e-9\n";
    federate(sites);
    const double floor = metrics_.at("gamma");
    sections_["ridge"] = "selection = \"gcv\"\ngamma_minimum = 0.001\ngamma_maximum = 1000.0\n";
    const TensorMap state = federate(sites);

    Matrix gram(12, 12);
    std::size_t place = 0;
    for (Eigen::Index i = 0; i < 12; ++i)
      for (Eigen::Index j = i; j < 12; ++j) gram(i, j) = gram(j, i) = state.at("gram").as<double>()[place++];
    const Matrix sums = matrix_of(state.at("class_sums"));
    const double records = gram.trace();  // norms are at most 1, and nearly all are
    double best = 0.0, best_score = 1e300;
    for (const double candidate : gamma_grid(config())) {
      const double gamma = std::max(candidate, floor);
      const Matrix inverse = (gram + gamma * Matrix::Identity(12, 12)).inverse();
      const Matrix weights = sums * inverse;
      const double residual =
          records - 2.0 * (weights.array() * sums.array()).sum() + (weights * gram * weights.transpose()).trace();
      const double score = residual / records / std::pow(1.0 - (inverse * gram).trace() / records, 2.0);
      if (score > best_score) continue;
      best_score = score;
      best = gamma;
    }
    EXPECT_NEAR(metrics_.at("gamma") / best, 1.0, 1e-9) << epsilon;
    EXPECT_GE(metrics_.at("gamma"), floor) << epsilon;
  }
}

TEST_F(PrivateAnalyticCilTest, LabelsAreExposedWhenTheJobSaysSo) {
  sections_["protocol"] = "label_phases = [1, 2, 4, 0, 1]\n";
  sections_["job"] = "name = \"stream\"\ntask = \"analytic_cil\"\nrounds = 4\nseed = 4\n";
  const auto server = make_server();
  TensorMap state = server->initial_state().value();
  std::vector<double> exposed;
  for (int round = 1; round <= 4; ++round) {
    state = server->next_state(state, Sum(server->contribution_schema())).value();
    exposed.push_back(server->evaluate(state, progress_)->metrics.at("exposed_classes"));
  }
  EXPECT_THAT(exposed, ElementsAre(2, 3, 3, 4));
}

// --- Gamma ---

TEST_F(AnalyticCilTest, CrossValidationChoosesTheGridsBest) {
  sections_["ridge"] = "selection = \"gcv\"\ngamma_minimum = 0.01\ngamma_maximum = 1000.0\n";
  const std::vector<Sample> all = samples(120, 14);
  federate(deal(all, 3, 1));
  // By its definition: residual/n over (1 − trace of the hat matrix/n)².
  const Matrix x = features_of(all), y = labels_of(all);
  const double n = static_cast<double>(x.rows());
  double best = 0.0, best_score = 1e300;
  for (const double gamma : gamma_grid(config())) {
    const Matrix hat =
        x * (x.transpose() * x + gamma * Matrix::Identity(x.cols(), x.cols())).ldlt().solve(x.transpose());
    const double score = ((y - hat * y).squaredNorm() / n) / std::pow(1.0 - hat.trace() / n, 2.0);
    if (score <= best_score) {
      best_score = score;
      best = gamma;
    }
  }
  EXPECT_DOUBLE_EQ(metrics_.at("gamma"), best);
  EXPECT_GT(best, 0.01);
  EXPECT_LT(best, 1000.0);
}

TEST_F(AnalyticCilTest, AValidationSetChoosesTheGridsMostAccurate) {
  const std::vector<Sample> all = samples(60, 15), validation = samples(400, 16);
  write("validation.tsv", table_of(validation, false));
  sections_["ridge"] = "selection = \"validation\"\ngamma_minimum = 0.01\ngamma_maximum = 10000.0\n";
  sections_["evaluation"] = "file = \"test.tsv\"\nvalidation_file = \"validation.tsv\"\n";
  federate(deal(all, 2, 1));
  const Matrix x = features_of(validation);
  double best = 0.0;
  Eigen::Index best_right = -1;
  for (const double gamma : gamma_grid(config())) {
    const Matrix scores = x * joint_weights(all, gamma).transpose();
    Eigen::Index right = 0;
    for (Eigen::Index i = 0; i < scores.rows(); ++i) {
      Eigen::Index predicted = 0;
      scores.row(i).maxCoeff(&predicted);
      right += predicted == validation[static_cast<std::size_t>(i)].label ? 1 : 0;
    }
    if (right >= best_right) {
      best_right = right;
      best = gamma;
    }
  }
  EXPECT_DOUBLE_EQ(metrics_.at("gamma"), best);
}

TEST_F(AnalyticCilTest, AFirstPhaseWithoutARecordChoosesAmongEquals) {
  std::vector<Sample> late = samples(120, 14);
  for (Sample& sample : late) sample.phase = 2;
  write("validation.tsv", table_of(samples(50, 8), false));
  for (const char* selection : {"gcv", "validation"}) {
    sections_["evaluation"] = "file = \"test.tsv\"\nvalidation_file = \"validation.tsv\"\n";
    sections_["ridge"] =
        std::string("selection = \"") + selection + "\"\ngamma_minimum = 0.01\ngamma_maximum = 1000.0\n";
    federate(deal(late, 3, 1));
    EXPECT_GT(metrics_.at("A_last"), 0.5) << selection;
    EXPECT_LT(metrics_.at("gamma"), 1000.0) << selection;
  }
}

// --- What is refused ---

TEST_F(AnalyticCilTest, ALabelThatTheJobDoesNotListIsNamedWithItsLine) {
  write("site.tsv", "features\tlabel\tphase\n1 2 3 4 5 6\tclass 1\t1\n1 2 3 4 5 6\tclass 7\t1\n");
  EXPECT_THAT(make_client("site.tsv").error().message,
              AllOf(HasSubstr("site.tsv:3:"), HasSubstr("\"class 7\" is none of the accepted labels")));
}

TEST_F(AnalyticCilTest, APhaseThatTheJobDoesNotHaveIsNamedWithItsLine) {
  for (const char* phase : {"0", "5", "x", "1.5", ""}) {
    write("site.tsv", std::string("features\tlabel\tphase\n1 2 3 4 5 6\tclass 1\t") + phase + "\n");
    EXPECT_THAT(make_client("site.tsv").error().message,
                AllOf(HasSubstr("site.tsv:2:"), HasSubstr(std::string("phase is \"") + phase + "\""),
                      HasSubstr("whole number from 1 to 4")));
  }
}

TEST_F(AnalyticCilTest, FeaturesThatAreNotNumbersAreNamedWithTheirLine) {
  for (const char* value : {"nan", "inf", "1e99", "x"}) {
    write("site.tsv", std::string("features\tlabel\n1 2 ") + value + " 4 5 6\tclass 1\n");
    EXPECT_THAT(make_client("site.tsv").error().message,
                AllOf(HasSubstr("site.tsv:2: feature 3 is \""), HasSubstr("not a finite number")));
  }
  write("site.tsv", "features\tlabel\n1 2 3\tclass 1\n");
  EXPECT_THAT(make_client("site.tsv").error().message, HasSubstr("has 3 features where features.vector_width = 6"));
}

TEST_F(AnalyticCilTest, FeaturesWhoseSumsWouldOverflowAreNamedWithTheirLine) {
  write("site.tsv", "features\tlabel\n1 2 3 4 5 -3e38\tclass 1\n");
  EXPECT_THAT(make_client("site.tsv").error().message,
              AllOf(HasSubstr("site.tsv:2: feature 6 is \"-3e38\""), HasSubstr("at most 1e+12")));
  // The largest that is let through can be summed.
  write("site.tsv", "features\tlabel\n1e12 -1e12 1e12 1e12 1e12 1e12\tclass 1\n");
  const auto made = train(*make_client("site.tsv").value(), {.job_id = "j", .round = 1});
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_TRUE(made->tensors().check_finite());
}

TEST_F(AnalyticCilTest, AFileWithoutARecordIsRefusedAndNamed) {
  write("site.tsv", "features\tlabel\tphase\n");
  EXPECT_THAT(make_client("site.tsv").error().message, AllOf(HasSubstr("site.tsv"), HasSubstr("holds no records")));
}

TEST_F(AnalyticCilTest, ASiteWithOtherFeaturesIsRefusedByTheirHash) {
  write("site.tsv", table_of(samples(10, 17)));
  const JobSpec pinned = pin_job(job(), aggregator()).value();
  EXPECT_THAT(pinned.file_text, HasSubstr("sha256 = "));
  EXPECT_TRUE(definition().make_client(pinned, site("site.tsv")).ok());
  // The same job with another seed, or another width, under the hash that the aggregator named.
  const std::string hash = to_hex(config_of(pinned)->features_sha256.value());
  for (const char* buffer : {"width = 40\nseed = 5\n", "width = 41\n", "width = 0\n"}) {
    auto sections = sections_;
    sections_["buffer"] = buffer;
    sections_["features"] += "sha256 = \"" + hash + "\"\n";
    const auto refused = make_client("site.tsv");
    ASSERT_FALSE(refused.ok()) << buffer;
    EXPECT_EQ(refused.error().code, Errc::unsupported);
    EXPECT_THAT(refused.error().message, HasSubstr("the features here are not the job's"));
    sections_ = sections;
  }
}

TEST_F(AnalyticCilTest, AHashThatTheJobGivesMustBeThatOfTheAggregatorsFeatures) {
  const JobSpec pinned = pin_job(job(), aggregator()).value();
  const std::string own = to_hex(config_of(pinned)->features_sha256.value());
  sections_["features"] = "vector_width = 6\nsha256 = \"" + own + "\"\n";
  EXPECT_TRUE(pin_job(job(), aggregator()).ok());
  sections_["features"] = "vector_width = 6\nsha256 = \"" + std::string(64, 'a') + "\"\n";
  EXPECT_THAT(pin_job(job(), aggregator()).error().message,
              AllOf(HasSubstr(std::string(64, 'a')), HasSubstr(own), HasSubstr("features.sha256")));
  EXPECT_FALSE(definition().make_server(job(), aggregator()).ok());
}

TEST_F(CenteredAnalyticCilTest, AHashThatTheJobGivesMustBeThatOfTheAggregatorsCentre) {
  sections_["features"] += "center_sha256 = \"" + std::string(64, 'a') + "\"\n";
  EXPECT_THAT(pin_job(job(), aggregator()).error().message,
              AllOf(HasSubstr(std::string(64, 'a')), HasSubstr("public.tsv"), HasSubstr("features.center_sha256")));
}

TEST_F(AnalyticCilTest, AStateOfOtherSizesIsNotAddedTo) {
  const auto server = make_server();
  Sum sum(server->contribution_schema());
  TensorMap state = server->initial_state().value();
  state["gram"] = HostTensor(DType::f64, {3});
  EXPECT_EQ(server->next_state(state, sum).error().code, Errc::corrupt);
  state.erase("gram");
  EXPECT_EQ(server->next_state(state, sum).error().code, Errc::corrupt);
}

TEST_F(AnalyticCilTest, NoiseWithoutGammaIsRefusedBeforeAnythingStarts) {
  sections_["privacy"] = "enabled = true\n";
  sections_["ridge"] = "gamma = 0.0\nnoise_margin = 0.0\n";
  EXPECT_THAT(job_error(), AllOf(HasSubstr("ridge.gamma"), HasSubstr("must be above 0")));
}

TEST_F(AnalyticCilTest, AJobFileSaysWhatIsWrongWithIt) {
  const auto with = [&](const std::string& section, const std::string& lines) {
    auto sections = sections_;
    sections_[section] = lines;
    const std::string message = job_error();
    sections_ = sections;
    return message;
  };
  EXPECT_THAT(with("protocol", "phases = 5\n"), HasSubstr("job.rounds = 5 at least, and it is 4"));
  EXPECT_THAT(with("protocol", "phases = 2\nsteps_per_phase = 3\n"), HasSubstr("job.rounds = 6 at least"));
  EXPECT_THAT(with("protocol", "label_phases = [1, 2]\n"), HasSubstr("each of the 5 labels, and has 2"));
  EXPECT_THAT(with("ridge", "selection = \"validation\"\n"), HasSubstr("evaluation.validation_file"));
  EXPECT_THAT(with("ridge", "gamma_minimum = 10.0\ngamma_maximum = 1.0\n"), HasSubstr("at most ridge.gamma_maximum"));
  EXPECT_THAT(with("ridge", "gamma = -1.0\n"), HasSubstr("ridge.gamma"));
  EXPECT_THAT(with("ridge", "class_sums_weight = 1e-200\n"), HasSubstr("ridge.class_sums_weight"));
  EXPECT_THAT(with("site_evaluation", "enabled = true\n"), HasSubstr("site_evaluation.enabled"));
  EXPECT_THAT(with("data", "text_column = \"label\"\n"), HasSubstr("must be another column"));
}

TEST_F(AnalyticCilTest, APublicSetThatIsNotThereIsSaidAtSubmission) {
  sections_["evaluation"] = "file = \"nowhere.tsv\"\n";
  EXPECT_THAT(pin_job(job(), aggregator()).error().message, HasSubstr("evaluation.file = \"nowhere.tsv\""));
}

TEST_F(AnalyticCilTest, APublicSetThatCannotBeReadIsSaidAtSubmission) {
  write("test.tsv", "features\tlabel\n");
  EXPECT_THAT(pin_job(job(), aggregator()).error().message,
              AllOf(HasSubstr("evaluation.file"), HasSubstr("holds no records")));
  write("test.tsv", "features\tlabel\n1 2 3 4 5 6\tclass 7\n");
  EXPECT_THAT(pin_job(job(), aggregator()).error().message, AllOf(HasSubstr("test.tsv:2"), HasSubstr("class 7")));
}

// --- Simulated streams ---

TEST_F(AnalyticCilTest, ASimulationDealsEveryRecordOfItsClassesOutOverSitesAndTime) {
  sections_["job"] =
      "name = \"stream\"\ntask = \"analytic_cil\"\nrounds = 4\nseed = 4\n[protocol]\nphases = 2\n"
      "steps_per_phase = 2\n";
  const std::vector<Sample> all = samples(400, 18);
  write("train.tsv", table_of(all, false));
  sections_["simulate"] = "train = \"train.tsv\"\ndirichlet_alpha = 0.1\nmin_records = 5\n";
  ChaCha20Random random(RandomKey::from_seed(1));
  const Config settings = config();
  const auto sites = deal_stream(job(), settings, directory_, 7, random, directory_ / "data").value();
  ASSERT_EQ(sites.size(), 7u);
  const data::ClassSchedule schedule = simulated_schedule(job(), settings).value();
  std::size_t expected = 0;
  for (const Sample& sample : all) expected += schedule.task_of_class[static_cast<std::size_t>(sample.label)] != 0;
  std::multiset<std::string> seen;
  std::map<int, std::size_t> of_step;
  for (const auto& site_data : sites) {
    const data::TextTable table = read_table(site_data.file, settings, true).value();
    EXPECT_EQ(std::ssize(table.rows), site_data.records);
    EXPECT_GE(site_data.records, 5);
    const auto steps = steps_of(table, settings).value();
    const auto labels = class_stream::labels_of(table, settings).value();
    for (std::size_t i = 0; i < table.rows.size(); ++i) {
      seen.insert(table.rows[i].text);
      ++of_step[steps[i]];
      const auto label = static_cast<std::size_t>(labels[i]);
      if (!schedule.is_blurry[label]) {
        EXPECT_EQ((steps[i] + 1) / 2, schedule.task_of_class[label]);
      }
    }
  }
  EXPECT_EQ(seen.size(), expected);
  EXPECT_EQ(std::set<std::string>(seen.begin(), seen.end()).size(), expected) << "no record twice";
  for (const int first : {1, 3}) {
    const auto a = static_cast<double>(of_step[first]), b = static_cast<double>(of_step[first + 1]);
    EXPECT_LE(std::abs(a - b), 1.0) << "the rounds of a phase are equal parts of it";
  }
}

TEST_F(AnalyticCilTest, ThePinnedJobSaysWhenASimulatedLabelComes) {
  sections_["privacy"] = "enabled = true\n";
  write("train.tsv", table_of(samples(50, 19), false));
  sections_["simulate"] = "train = \"train.tsv\"\n";
  sections_["protocol"] = "phases = 2\n";
  const JobSpec pinned = pin_job(job(), aggregator()).value();
  const Config settings = config_of(pinned).value();
  const data::ClassSchedule schedule = simulated_schedule(job(), config()).value();
  ASSERT_EQ(settings.label_phases.size(), schedule.task_of_class.size());
  for (std::size_t c = 0; c < settings.label_phases.size(); ++c)
    EXPECT_EQ(settings.label_phases[c], schedule.task_of_class[c]);
}

// --- The model ---

TEST_F(AnalyticCilTest, AnExportedModelPredictsWhatTheTaskPredicts) {
  const std::vector<Sample> all = samples(200, 20);
  const TensorMap state = federate(deal(all, 2, 1));
  const auto server = make_server();
  ASSERT_TRUE(server->export_model(state, true, directory_ / "model"));
  const std::vector<Sample> fresh = samples(50, 21);
  PredictRequest request{.base = directory_,
                         .adapter = directory_ / "model",
                         .data = write("new.tsv", table_of(fresh, false)),
                         .text_column = "features",
                         .label_column = "label",
                         .device = &kernels::cpu_device()};
  const Predictions predictions = definition().predict(request, progress_).value();
  const Matrix scores = features_of(fresh) * matrix_of(state.at("weights")).transpose();
  double right = 0.0;
  for (Eigen::Index i = 0; i < scores.rows(); ++i) {
    const auto row = static_cast<std::size_t>(i);
    for (Eigen::Index c = 0; c < classes; ++c)
      EXPECT_NEAR(predictions.logits.as<float>()[row * classes + static_cast<std::size_t>(c)], scores(i, c), 1e-4);
    Eigen::Index expected = 0;
    scores.row(i).maxCoeff(&expected);
    EXPECT_EQ(predictions.predicted[row], expected);
    right += expected == fresh[row].label ? 1.0 : 0.0;
  }
  EXPECT_DOUBLE_EQ(predictions.metrics.at("accuracy"), right / 50.0);
}

TEST_F(AnalyticCilTest, AModelOfNothingYetAndADirectoryOfSomethingElseAreRefused) {
  const auto server = make_server();
  EXPECT_THAT(server->export_model(server->initial_state().value(), true, directory_ / "model").error().message,
              HasSubstr("no class has been seen yet"));
  write("config.json", "{\"model_type\": \"roberta\"}\n");
  PredictRequest request{
      .base = directory_, .adapter = directory_, .data = directory_ / "test.tsv", .device = &kernels::cpu_device()};
  EXPECT_THAT(definition().predict(request, progress_).error().message, HasSubstr("is not a model of analytic_cil"));
}

}  // namespace
}  // namespace trib::tasks::analytic_cil
