// Both halves together: a federation on the made-up set, what a site sends against gradients computed beside it, and
// what the aggregator makes of a mean.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "tasks/cold_start/cold_start.h"
#include "tasks/cold_start/halves.h"

namespace trib::tasks::cold_start {
namespace {

namespace fs = std::filesystem;

class ColdStartTask : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              ("cold-start-task-" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  JobSpec job(const std::string& more = "") const {
    return read_job_text(R"(
[job]
name = "cold"
task = "cold_start"
rounds = 60
seed = 5
[catalogue]
users = 300
items = 150
interactions_per_user = 20
min_word_count = 2
[split]
cold_users = 0.1
[model]
size = 16
hidden = 16
[server]
learning_rate = 0.02
)" + more,
                         "job.toml")
        .value();
  }
  static constexpr const char* plain = "[privacy]\nenabled = false\n[training]\nbatch_size = 100000\n";

  std::vector<TaskDefinition::SiteData> deal(const JobSpec& spec, std::int64_t sites) const {
    ChaCha20Random random(RandomKey::from_seed(1));
    return definition().split_data(spec, folder_, sites, random, folder_ / "sites").value();
  }
  std::unique_ptr<ServerTask> server(const JobSpec& spec) const {
    return definition()
        .make_server(
            spec,
            {.device = &kernels::cpu_device(), .model_directories = {}, .data_directory = folder_, .shared = shared_})
        .value();
  }
  std::unique_ptr<ClientTask> client(const JobSpec& spec, const TaskDefinition::SiteData& data,
                                     const TensorMap& constants) const {
    auto made = definition()
                    .make_client(spec, {.site = "site",
                                        .devices = {&kernels::cpu_device()},
                                        .data_file = data.file,
                                        .declared_records = data.records,
                                        .model_directories = {},
                                        .shared = shared_})
                    .value();
    made->set_constants(constants).value();
    return made;
  }
  Result<privacy::Contribution> train(ClientTask& site, const TensorMap& broadcast, std::int64_t round,
                                      std::optional<privacy::Mechanism> mechanism = std::nullopt) {
    TRIB_ASSIGN(privacy::Charge charge, site.charge({.job_id = "j", .round = round}));
    if (mechanism) charge.mechanism = *mechanism;
    TRIB_ASSIGN(const auto ledger, privacy::Ledger::in_memory({{"default", 1e9, charge.target_delta}}, system_clock()));
    TRIB_ASSIGN(auto session,
                privacy::PrivacySession::open(*ledger, charge, true, RandomKey::from_seed(3), system_clock()));
    return site.train(broadcast, {.job_id = "j", .round = round}, session, progress_);
  }

  // What single users' gradients are in the first round, computed beside the task.
  std::vector<std::vector<float>> user_gradients(const JobSpec& spec, const TensorMap& broadcast) const {
    const Config config = config_of(spec).value();
    const Dataset dataset = load_dataset(config, folder_).value();
    const Split split = Split::make(dataset, config.split).value();
    const Catalogue catalogue = Catalogue::from(dataset, split.available(), config.min_word_count);
    const Recommender<float> model(config.model, catalogue);
    const std::vector<float> parameters = from_tensors(broadcast, model.layout()).value();
    const std::uint64_t step = (std::uint64_t{1} << 24) + 1;
    std::vector<std::vector<float>> gradients;
    const auto users = user_records(dataset, split.training());
    for (const UserRecord& user : users) {
      if (user.items.empty()) continue;
      const UserDraw draw = model.draw_user(user, spec.seed, step);
      gradients.emplace_back(model.layout().size());
      model.add_gradient(parameters, model.draw_step(spec.seed, step), std::span(&draw, 1), gradients.back());
    }
    return gradients;
  }
  std::vector<float> flat(const TensorMap& tensors, const JobSpec& spec) const {
    const Config config = config_of(spec).value();
    const Dataset dataset = load_dataset(config, folder_).value();
    const Split split = Split::make(dataset, config.split).value();
    const Catalogue catalogue = Catalogue::from(dataset, split.available(), config.min_word_count);
    return from_tensors(tensors, Recommender<float>(config.model, catalogue).layout()).value();
  }

  fs::path folder_;
  std::shared_ptr<SharedResources> shared_ = std::make_shared<SharedResources>();
  QuietProgress progress_;
};

TEST_F(ColdStartTask, OfTwoSitesLearnsToRecommendWhatAndToWhomNobodyHasSeen) {
  const JobSpec spec = job(plain);
  const auto aggregator = server(spec);
  std::vector<std::unique_ptr<ClientTask>> sites;
  for (const auto& data : deal(spec, 2)) sites.push_back(client(spec, data, aggregator->constants()));
  TensorMap state = aggregator->initial_state().value();
  const auto before = aggregator->evaluate(state, progress_).value().metrics;
  for (std::int64_t round = 1; round <= spec.rounds; ++round) {
    const TensorMap broadcast = aggregator->broadcast(state).value();
    Sum sum(aggregator->contribution_schema());
    for (const auto& site : sites) {
      const auto contribution = train(*site, broadcast, round).value();
      ASSERT_TRUE(sum.add(contribution.tensors(), contribution.weight()).ok());
    }
    state = aggregator->next_state(state, sum).value();
  }
  const auto after = aggregator->evaluate(state, progress_).value().metrics;
  // Beyond what chance and luck give: three confidence intervals above the untrained model, in every setting.
  for (const std::string setting : {"warm", "cold_item", "cold_user"}) {
    const double gain = after.at(setting + ".recall@20") - before.at(setting + ".recall@20");
    EXPECT_GT(gain, 3.0 / 1.96 * after.at(setting + ".recall@20_ci")) << setting;
  }
  EXPECT_GT(after.at("both_cold.recall@20"), before.at("both_cold.recall@20"));
}

TEST_F(ColdStartTask, SendsTheMeanGradientOfItsUsers) {
  const JobSpec spec = job(plain);
  const auto aggregator = server(spec);
  const auto data = deal(spec, 1);
  const auto site = client(spec, data[0], aggregator->constants());
  const TensorMap broadcast = aggregator->broadcast(aggregator->initial_state().value()).value();
  const auto contribution = train(*site, broadcast, 1).value();
  EXPECT_EQ(contribution.weight(), static_cast<double>(data[0].records));
  EXPECT_EQ(contribution.tensors().schema(), aggregator->contribution_schema());
  const auto gradients = user_gradients(spec, broadcast);
  ASSERT_EQ(std::ssize(gradients), data[0].records);
  const std::vector<float> sent = flat(contribution.tensors(), spec);
  // n·(θ_t − θ_site)/(rate·steps) is the sum over users; it went through float32 subtraction at |θ| up to 1.
  double largest = 0.0, error = 0.0;
  for (std::size_t i = 0; i < sent.size(); ++i) {
    double sum = 0.0;
    for (const auto& gradient : gradients) sum += gradient[i];
    largest = std::max(largest, std::abs(sum));
    error = std::max(error, std::abs(sum - sent[i]));
  }
  EXPECT_GT(largest, 1.0);
  EXPECT_LT(error, 1e-6 * 300 / 0.5 + 1e-4 * largest);
}

TEST_F(ColdStartTask, SendsClippedGradientsWhereItIsPrivate) {
  const JobSpec spec = job("[privacy]\nepsilon = 8\ndelta = 1e-4\nclip_norm = 0.05\n[training]\nbatch_size = 100000\n");
  const auto aggregator = server(spec);
  const auto data = deal(spec, 1);
  const auto site = client(spec, data[0], aggregator->constants());
  const TensorMap broadcast = aggregator->broadcast(aggregator->initial_state().value()).value();
  // Noise as small as the grid allows, so that the clip shows: 1/64·0.05/n on each coordinate of the mean.
  privacy::Mechanism quiet{.sample_rate = 1.0, .noise_multiplier = 1.0 / 64, .clip_norm = 0.05, .steps = 1};
  const auto contribution = train(*site, broadcast, 1, quiet).value();
  EXPECT_TRUE(contribution.is_private());
  const std::vector<float> sent = flat(contribution.tensors(), spec);
  std::vector<double> expected(sent.size());
  std::int64_t clipped = 0;
  for (const auto& gradient : user_gradients(spec, broadcast)) {
    double squares = 0.0;
    for (const float value : gradient) squares += static_cast<double>(value) * value;
    const double factor = std::min(1.0, 0.05 / std::sqrt(squares));
    clipped += factor < 1.0 ? 1 : 0;
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += factor * gradient[i];
  }
  EXPECT_GT(clipped, 200);
  double squares = 0.0;
  for (std::size_t i = 0; i < sent.size(); ++i) squares += std::pow(sent[i] - expected[i], 2);
  const double noise = 0.05 / 64;
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(sent.size())), noise, 0.1 * noise);
}

TEST_F(ColdStartTask, TakesTheOptimizersStepAtTheAggregator) {
  for (const bool adam : {false, true}) {
    std::string text = job(plain).file_text;
    if (!adam) text.insert(text.find("[server]") + 8, "\noptimizer = \"sgd\"\nweight_decay = 0.5");
    const JobSpec chosen = read_job_text(text, "job.toml").value();
    const auto aggregator = server(chosen);
    const TensorMap state = aggregator->initial_state().value();
    TensorMap gradient;
    const TensorSchema schema = aggregator->contribution_schema();
    for (const TensorSpec& tensor : schema.specs()) {
      gradient[tensor.name] = HostTensor(DType::f32, tensor.shape);
      float sign = 1.0f;
      for (float& value : gradient[tensor.name].as<float>()) value = 2.0f * 3.0f * (sign = -sign);  // weight 2
    }
    Sum sum(schema);
    ASSERT_TRUE(sum.add(gradient, 2.0).ok());
    const TensorMap next = aggregator->next_state(state, sum).value();
    for (const TensorSpec& tensor : schema.specs()) {
      const auto from = state.at(tensor.name).as<float>(), to = next.at(tensor.name).as<float>();
      float sign = 1.0f;
      for (std::size_t i = 0; i < from.size(); ++i) {
        sign = -sign;
        // SGD: θ(1 − 0.02·0.5) − 0.02·(±3). Adam's first step has length 0.02, whatever the gradient's size.
        const double expected = adam ? from[i] - 0.02 * sign : 0.99 * from[i] - 0.06 * sign;
        ASSERT_NEAR(to[i], expected, 1e-6);
      }
    }
  }
}

TEST_F(ColdStartTask, RefusesACatalogueThatLacksWhatItsUsersHave) {
  const JobSpec spec = job(plain);
  const auto aggregator = server(spec);
  auto data = deal(spec, 1)[0];
  std::ofstream(data.file, std::ios::app) << "somebody\tF\t30\t3\t4\t99999\n";
  auto made = definition()
                  .make_client(spec, {.site = "site",
                                      .devices = {&kernels::cpu_device()},
                                      .data_file = data.file,
                                      .declared_records = data.records,
                                      .model_directories = {},
                                      .shared = shared_})
                  .value();
  const Status set = made->set_constants(aggregator->constants());
  ASSERT_FALSE(set);
  EXPECT_NE(set.error().message.find("item 99999 is not in the job's catalogue"), std::string::npos);
}

TEST_F(ColdStartTask, DealsOneUserToEachSiteWhereAClientIsAPerson) {
  const JobSpec spec = job(std::string(plain) + "[simulate]\none_user_a_site = true\n");
  const auto data = deal(spec, 20);
  ASSERT_EQ(data.size(), 20u);
  std::set<std::string> ids;
  for (const auto& site : data) {
    EXPECT_EQ(site.records, 1);
    const auto users = read_site_file(site.file).value();
    ASSERT_EQ(users.size(), 1u);
    ids.insert(users[0].id);
  }
  EXPECT_EQ(ids.size(), 20u);
  ChaCha20Random random(RandomKey::from_seed(1));
  const auto too_many = definition().split_data(spec, folder_, 100'000, random, folder_ / "many");
  ASSERT_FALSE(too_many);
  EXPECT_NE(too_many.error().message.find("simulate.sites = 100000"), std::string::npos);
}

TEST_F(ColdStartTask, NamesWhatIsWrongWithAJobFile) {
  const auto error_of = [&](const std::string& text) {
    const auto read = read_job_text("[job]\nname = \"a\"\ntask = \"cold_start\"\nrounds = 1\n" + text, "job.toml");
    return read ? std::string() : read.error().message;
  };
  EXPECT_EQ(error_of(""), "");
  EXPECT_NE(error_of("[catalogue]\nsource = \"ml-1m\"\n").find("catalogue.directory"), std::string::npos);
  EXPECT_NE(error_of("[model]\nloss = \"bpr\"\n").find("model.negatives"), std::string::npos);
  EXPECT_NE(error_of("[ablation]\nitem_embedding = false\n").find("ablation.contrast"), std::string::npos);
  EXPECT_NE(error_of("[split]\ncold_items = 1.5\n").find("split.cold_items"), std::string::npos);
}

TEST_F(ColdStartTask, ExportsParametersAndVectorsOfAllItems) {
  const JobSpec spec = job(plain);
  const auto aggregator = server(spec);
  ASSERT_TRUE(aggregator->export_model(aggregator->initial_state().value(), false, folder_ / "model").ok());
  EXPECT_TRUE(fs::exists(folder_ / "model" / "model.safetensors"));
}

}  // namespace
}  // namespace trib::tasks::cold_start
