// Both halves of text classification, on the base model that ships with the source.
#include "tasks/lora_text/lora_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <new>
#include <set>

#include "common/clock.h"
#include "common/files.h"
#include "common/safetensors.h"
#include "models/peft_adapter.h"
#include "privacy/accountant.h"
#include "tasks/data/text_table.h"
#include "tasks/lora_text/base_model.h"
#include "tasks/lora_text/benchmark.h"
#include "tasks/lora_text/config.h"
#include "tasks/lora_text/records.h"
#include "tasks/site_evaluation.h"
#include "tests/kernels/forwarding_device.h"

namespace trib::tasks::lora_text {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Key;

const fs::path models_directory = fs::path(TRIBUTARY_SOURCE_DIR) / "base";

class WatchedProgress final : public QuietProgress {
 public:
  void step(std::int64_t, std::int64_t, double) override {
    ++steps;
    if (at_step) at_step();
  }
  bool cancelled() const override { return is_cancelled; }
  int steps = 0;
  std::function<void()> at_step;
  bool is_cancelled = false;
};

// Opinions that a few steps can learn to tell apart.
std::string reviews(int count, int offset) {
  static const char* good[] = {"a wonderful , moving film", "i loved every minute of it", "brilliant and warm",
                               "the best performance of the year"};
  static const char* bad[] = {"a dull , terrible film", "i hated every minute of it", "awful and boring",
                              "the worst performance of the year"};
  static const char* ends[] = {"", " , says everyone", " in the end", " and that is all there is to say about it"};
  std::string table = "text\tlabel\n";
  for (int i = offset; i < offset + count; ++i) {
    table += std::string(i % 2 == 0 ? good[i / 2 % 4] : bad[i / 2 % 4]) + ends[i / 8 % 4];
    table += i % 2 == 0 ? "\tpositive\n" : "\tnegative\n";
  }
  return table;
}

class LoraTextTest : public testing::Test {
 protected:
  LoraTextTest() : directory_(fs::path(testing::TempDir()) / "lora_text_test") {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    write("site-1.tsv", reviews(24, 0));
    write("site-2.tsv", reviews(36, 24));
    write("test.tsv", reviews(32, 60));
    sections_["job"] = "name = \"reviews\"\ntask = \"lora_text\"\nrounds = 6\nseed = 4\n";
    sections_["model"] = "base = \"roberta-mini-imdb\"\nlabels = [\"negative\", \"positive\"]\nmax_tokens = 32\n";
    sections_["adapter"] = "rank = 4\nalpha = 4\n";
    sections_["training"] = "batch_size = 12\nlocal_steps = 3\nlearning_rate = 0.2\n";
    sections_["privacy"] = "enabled = false\n";
    sections_["evaluation"] = "file = \"test.tsv\"\n";
  }

  fs::path write(const std::string& name, const std::string& content) {
    EXPECT_TRUE(write_file_durably(directory_ / name, content).ok());
    return directory_ / name;
  }

  JobSpec job() const {
    std::string text;
    for (const auto& [name, lines] : sections_) text += "[" + name + "]\n" + lines;
    return read_job_text(text, "job.toml").value();
  }

  AggregatorContext aggregator() const {
    return {.device = &kernels::cpu_device(),
            .model_directories = {models_directory},
            .data_directory = directory_,
            .shared = shared_};
  }

  SiteContext site(const std::string& file, std::int64_t declared_records) const {
    return {.site = file,
            .devices = {&kernels::cpu_device()},
            .data_file = directory_ / file,
            .declared_records = declared_records,
            .model_directories = {models_directory},
            .shared = shared_};
  }

  std::unique_ptr<ServerTask> make_server() const { return definition().make_server(job(), aggregator()).value(); }

  std::unique_ptr<ClientTask> make_client(const std::string& file, std::int64_t declared_records) const {
    return definition().make_client(job(), site(file, declared_records)).value();
  }

  // One site's part in a round, as the client daemon goes about it.
  Result<privacy::Contribution> train(ClientTask& client, const TensorMap& broadcast, std::int64_t round,
                                      std::uint64_t seed) {
    TRIB_ASSIGN(const privacy::Charge charge, client.charge({.job_id = "j1", .round = round}));
    TRIB_ASSIGN(const auto ledger,
                privacy::Ledger::in_memory({{.data_set = "default", .epsilon = 1e3, .delta = 1e-5}}, system_clock()));
    TRIB_ASSIGN(privacy::PrivacySession session,
                privacy::PrivacySession::open(*ledger, charge, true, RandomKey::from_seed(seed), system_clock()));
    return client.train(broadcast, {.job_id = "j1", .round = round}, session, progress_);
  }

  // A whole job of two sites. Returns the state after each round, the initial one first.
  std::vector<TensorMap> run(int rounds) {
    const auto server = make_server();
    const auto clients = {std::pair(make_client("site-1.tsv", 24), 1), std::pair(make_client("site-2.tsv", 36), 2)};
    for (const auto& [client, number] : clients) EXPECT_TRUE(client->set_constants(server->constants()).ok());
    std::vector<TensorMap> states = {server->initial_state().value()};
    for (int round = 1; round <= rounds; ++round) {
      const TensorMap broadcast = server->broadcast(states.back()).value();
      Sum sum(server->contribution_schema());
      for (const auto& [client, number] : clients) {
        const auto contribution = train(*client, broadcast, round, static_cast<std::uint64_t>(10 * round + number));
        EXPECT_TRUE(sum.add(contribution.value().tensors(), contribution.value().weight()).ok());
      }
      states.push_back(server->next_state(states.back(), sum).value());
    }
    return states;
  }

  std::map<std::string, double> evaluate(const TensorMap& state) {
    return make_server()->evaluate(state, progress_).value().metrics;
  }

  fs::path directory_;
  std::map<std::string, std::string> sections_;
  std::shared_ptr<SharedResources> shared_ = std::make_shared<SharedResources>();
  WatchedProgress progress_;
};

class EveryAlgorithm : public LoraTextTest, public testing::WithParamInterface<const char*> {};

TEST_P(EveryAlgorithm, LowersTheLossOfTwoSitesOnThePublicTestSet) {
  sections_["training"] = "batch_size = 36\nlocal_steps = 6\nlearning_rate = 0.15\n";
  sections_["training"] += "algorithm = \"" + std::string(GetParam()) + "\"\n";
  const std::vector<TensorMap> states = run(4);
  const auto before = evaluate(states.front()), after = evaluate(states.back());
  EXPECT_NEAR(before.at("loss"), std::log(2.0), 0.1);
  EXPECT_LT(after.at("loss"), 0.9 * before.at("loss"));
  EXPECT_GT(after.at("accuracy"), 0.8);
  EXPECT_LT(after.at("loss_average"), before.at("loss"));
}

TEST_P(EveryAlgorithm, GoesOnIdenticallyFromAStateThatWasStored) {
  sections_["training"] += "algorithm = \"" + std::string(GetParam()) + "\"\n";
  const std::vector<TensorMap> states = run(2);
  const fs::path file = directory_ / "state.safetensors";
  ASSERT_TRUE(write_safetensors(file, states[1]).ok());
  const TensorMap restored = read_safetensors(file).value().tensors;
  EXPECT_EQ(restored, states[1]);

  const auto server = make_server();
  Sum sum(server->contribution_schema());
  TensorMap contribution;
  const TensorSchema schema = server->contribution_schema();
  for (const TensorSpec& spec : schema.specs()) {
    contribution[spec.name] = restored.at(spec.name);
  }
  ASSERT_TRUE(sum.add(contribution, 1.0).ok());
  shared_ = std::make_shared<SharedResources>();  // another process
  EXPECT_EQ(make_server()->next_state(restored, sum).value(), server->next_state(states[1], sum).value());
}

TEST_P(EveryAlgorithm, SendsWhatItsSchemasSay) {
  sections_["training"] += "algorithm = \"" + std::string(GetParam()) + "\"\n";
  const std::vector<TensorMap> states = run(1);
  const auto server = make_server();
  for (const TensorMap& state : states) {
    EXPECT_EQ(server->broadcast(state).value().schema(), server->broadcast_schema());
  }
  const TensorSchema schema = server->broadcast_schema();
  for (const TensorSpec& spec : schema.specs()) {
    EXPECT_THAT(spec.name, testing::Not(testing::StartsWith("average.")));
  }
  // 6 layers with query and value, and out_proj's weight and bias.
  const std::size_t factors = std::string_view(GetParam()) == "fedavg" ? 2 : 1;
  EXPECT_EQ(server->contribution_schema().specs().size(), 12 * factors + 2);
}

INSTANTIATE_TEST_SUITE_P(LoraText, EveryAlgorithm, testing::Values("fedsvd", "ffa", "ffa-orthonormal", "fedavg"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

// The derived fact of tasks/lora_text/README.md, through the whole of both halves.
TEST_F(LoraTextTest, FedSvdAndFfaOrthonormalGiveTheSameModelWithoutNoise) {
  const std::string training = sections_["training"];
  sections_["training"] = training + "algorithm = \"fedsvd\"\n";
  const auto fedsvd = evaluate(run(4).back());
  sections_["training"] = training + "algorithm = \"ffa-orthonormal\"\n";
  const auto fixed = evaluate(run(4).back());
  EXPECT_NEAR(fedsvd.at("loss"), fixed.at("loss"), 1e-4);
  EXPECT_NEAR(fedsvd.at("loss_average"), fixed.at("loss_average"), 1e-4);
}

TEST_F(LoraTextTest, TheNextStateDoesNotDependOnTheOrderOfTheSites) {
  const auto server = make_server();
  const TensorMap state = server->initial_state().value();
  const TensorSchema schema = server->contribution_schema();
  ChaCha20Random random(RandomKey::from_seed(8));
  std::vector<std::pair<TensorMap, double>> contributions;
  for (int i = 0; i < 5; ++i) {
    const double weight = 10.0 * (i + 1);
    TensorMap tensors;
    for (const TensorSpec& spec : schema.specs()) {
      tensors[spec.name] = HostTensor(DType::f32, spec.shape);
      for (float& value : tensors[spec.name].as<float>()) value = static_cast<float>(weight * (random.uniform() - 0.5));
    }
    contributions.emplace_back(std::move(tensors), weight);
  }
  Sum forwards(schema), backwards(schema);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(forwards.add(contributions[static_cast<std::size_t>(i)].first, 10.0 * (i + 1)).ok());
    ASSERT_TRUE(backwards.add(contributions[static_cast<std::size_t>(4 - i)].first, 10.0 * (5 - i)).ok());
  }
  const TensorMap a = server->next_state(state, forwards).value(), b = server->next_state(state, backwards).value();
  for (const auto& [name, tensor] : a) {
    if (tensor.dtype() == DType::i64) continue;
    const HostTensor left = tensor.to_f32().value(), right = b.at(name).to_f32().value();
    for (std::size_t i = 0; i < left.as<float>().size(); ++i) {
      ASSERT_NEAR(left.as<float>()[i], right.as<float>()[i], 1e-6) << name;
    }
  }
}

TEST_F(LoraTextTest, ChargesTheRoundAndCalibratesForAllRoundsASiteMayTake) {
  sections_["privacy"] = "epsilon = 6\ndelta = 1e-5\nclip_norm = 0.5\nrounds_per_client = 4\n";
  const auto client = make_client("site-1.tsv", 240);
  const privacy::Charge charge = client->charge({.job_id = "j1", .round = 3}).value();
  EXPECT_EQ(charge.job, "j1");
  EXPECT_EQ(charge.round, 3);
  EXPECT_EQ(charge.data_set, "default");
  EXPECT_EQ(charge.declared_records, 240);
  EXPECT_EQ(charge.target_delta, 1e-5);
  EXPECT_EQ(charge.mechanism.kind, privacy::MechanismKind::poisson_subsampled_gaussian);
  EXPECT_DOUBLE_EQ(charge.mechanism.sample_rate, 12.0 / 240.0);
  EXPECT_EQ(charge.mechanism.steps, 3);
  EXPECT_EQ(charge.mechanism.clip_norm, 0.5);
  EXPECT_DOUBLE_EQ(charge.mechanism.noise_multiplier,
                   privacy::calibrate_noise_multiplier(6.0, 1e-5, 12.0 / 240.0, 3 * 4).value());
  const privacy::Mechanism planned = definition().round_mechanism(job(), 240).value();
  EXPECT_EQ(planned.noise_multiplier, charge.mechanism.noise_multiplier);
  EXPECT_EQ(planned.sample_rate, charge.mechanism.sample_rate);
}

TEST_F(LoraTextTest, ChargesTheNoiseAndTheClippingThatTheJobNames) {
  sections_["privacy"] = "epsilon = 6\n";
  const privacy::Mechanism plain = definition().round_mechanism(job(), 240).value();
  EXPECT_EQ(plain.noise, privacy::NoiseKind::discrete_gaussian);
  EXPECT_EQ(plain.clipping, privacy::Clipping::flat);
  sections_["privacy"] = "epsilon = 6\nnoise = \"float_gaussian\"\nclipping = \"automatic\"\n";
  const privacy::Mechanism other = definition().round_mechanism(job(), 240).value();
  EXPECT_EQ(other.noise, privacy::NoiseKind::float_gaussian);
  EXPECT_EQ(other.clipping, privacy::Clipping::automatic);
  EXPECT_EQ(other.noise_multiplier, plain.noise_multiplier);
}

TEST_F(LoraTextTest, TakesAllRecordsOfASiteSmallerThanTheBatch) {
  sections_["privacy"] = "epsilon = 6\n";
  EXPECT_DOUBLE_EQ(definition().round_mechanism(job(), 5).value().sample_rate, 1.0);
}

TEST_F(LoraTextTest, ChargesAJobThatIsNotPrivateAsSuch) {
  const privacy::Mechanism mechanism = definition().round_mechanism(job(), 24).value();
  EXPECT_EQ(mechanism.kind, privacy::MechanismKind::none);
  EXPECT_DOUBLE_EQ(mechanism.sample_rate, 0.5);
  EXPECT_EQ(mechanism.steps, 3);
}

TEST_F(LoraTextTest, SendsWhatItTrainedTimesItsDeclaredSize) {
  sections_["privacy"] = "epsilon = 8\ndelta = 1e-5\n";
  const auto server = make_server();
  const auto client = make_client("site-1.tsv", 25);  // one more than it has: the exact number is secret
  ASSERT_TRUE(client->set_constants(server->constants()).ok());
  const TensorMap state = server->initial_state().value();
  const privacy::Contribution contribution = train(*client, server->broadcast(state).value(), 1, 3).value();
  EXPECT_TRUE(contribution.is_private());
  EXPECT_EQ(contribution.weight(), 25.0);
  EXPECT_EQ(contribution.tensors().schema(), server->contribution_schema());
  EXPECT_EQ(progress_.steps, 3);
  double norm = 0.0;
  for (const auto& [name, tensor] : contribution.tensors()) {
    if (!name.ends_with(".lora_B")) continue;
    for (const float value : tensor.as<float>()) norm += static_cast<double>(value) * value;
  }
  EXPECT_GT(norm, 0.0);
}

TEST_F(LoraTextTest, TrainsTheSumOfBlocksWithTheLearningRateTimesTheirNumber) {
  sections_["training"] = "batch_size = 12\nlocal_steps = 3\nhead = \"frozen\"\nlearning_rate = 0.2\n";
  const auto trained = [&] {
    const auto server = make_server();
    const auto client = make_client("site-1.tsv", 24);
    EXPECT_TRUE(client->set_constants(server->constants()).ok());
    return train(*client, server->broadcast(server->initial_state().value()).value(), 1, 3).value().tensors();
  };
  const TensorMap single = trained();
  sections_["training"] = "batch_size = 12\nlocal_steps = 3\nhead = \"frozen\"\nlearning_rate = 0.05\n";
  sections_["adapter"] += "blocks = 4\n";
  const TensorMap blocks = trained();
  for (const auto& [name, tensor] : single) {
    for (std::size_t i = 0; i < tensor.as<float>().size(); ++i) {
      ASSERT_NEAR(tensor.as<float>()[i], blocks.at(name).as<float>()[i], 1e-6) << name;
    }
  }
}

TEST_F(LoraTextTest, StopsBetweenStepsWhenItIsCancelled) {
  const auto server = make_server();
  const auto client = make_client("site-1.tsv", 24);
  ASSERT_TRUE(client->set_constants(server->constants()).ok());
  progress_.is_cancelled = true;
  const auto contribution = train(*client, server->broadcast(server->initial_state().value()).value(), 1, 3);
  ASSERT_FALSE(contribution.ok());
  EXPECT_EQ(contribution.error().code, Errc::cancelled);
}

TEST_F(LoraTextTest, AbandonsARoundWhoseLossIsNoFiniteNumber) {
  sections_["privacy"] = "epsilon = 8.0\ndelta = 1e-3\n";
  const auto server = make_server();
  const auto client = make_client("site-1.tsv", 24);
  ASSERT_TRUE(client->set_constants(server->constants()).ok());
  // Finite, so that it passes every check of what arrives; its logits are not.
  TensorMap broadcast = server->broadcast(server->initial_state().value()).value();
  for (float& value : broadcast["classifier.out_proj.weight"].as<float>()) value = 3e38f;
  const auto contribution = train(*client, broadcast, 1, 1);
  ASSERT_FALSE(contribution);
  EXPECT_THAT(contribution.error().message,
              AllOf(HasSubstr("step 1 of 3"), HasSubstr("not a finite number"), HasSubstr("learning rate")));
  EXPECT_EQ(progress_.steps, 0);
  // The model itself is sound: the next round trains.
  EXPECT_TRUE(train(*client, server->broadcast(server->initial_state().value()).value(), 2, 1).ok());
}

// A device that can go away, as a GPU that falls off its bus: then every copy to it fails.
class FailingDevice final : public kernels::ForwardingDevice {
 public:
  FailingDevice() : ForwardingDevice("cuda:0") {}
  void copy_from_host(kernels::Stream& stream, void* to, const void* from, std::size_t bytes) override {
    if (is_lost) throw FatalError(Error{Errc::unavailable, "CUDA: a copy to the device: the device was lost"});
    ForwardingDevice::copy_from_host(stream, to, from, bytes);
  }
  Status check() override {
    if (!is_lost) return {};
    return Error{Errc::unavailable, "cuda:0 cannot be used any more: the device was lost"};
  }
  std::atomic<bool> is_lost{false};
};

TEST_F(LoraTextTest, ADeviceThatIsLostInAStepIsNamedAndTheSameJobTrainsOnTheCpu) {
  const auto server = make_server();
  const TensorMap broadcast = server->broadcast(server->initial_state().value()).value();
  FailingDevice device;
  SiteContext context = site("site-1.tsv", 24);
  context.devices = {&device};
  context.shared = std::make_shared<SharedResources>();  // not the fixture's, which outlives the device
  const auto on_device = definition().make_client(job(), context).value();
  ASSERT_TRUE(on_device->set_constants(server->constants()).ok());
  ASSERT_TRUE(train(*on_device, broadcast, 1, 1).ok());
  progress_.steps = 0;
  progress_.at_step = [&] { device.is_lost = true; };
  EXPECT_THROW((void)train(*on_device, broadcast, 2, 1), FatalError);
  EXPECT_EQ(progress_.steps, 1);
  const auto on_cpu = make_client("site-1.tsv", 24);
  ASSERT_TRUE(on_cpu->set_constants(server->constants()).ok());
  EXPECT_TRUE(train(*on_cpu, broadcast, 2, 1).ok());
}

TEST_F(LoraTextTest, TwoDevicesGiveWhatOneDoes) {
  sections_["privacy"] = "epsilon = 8.0\ndelta = 1e-3\n";
  const auto server = make_server();
  const TensorMap broadcast = server->broadcast(server->initial_state().value()).value();
  const auto made_on = [&](std::vector<kernels::Device*> devices) {
    SiteContext context = site("site-2.tsv", 36);
    context.devices = std::move(devices);
    context.shared = std::make_shared<SharedResources>();
    const auto client = definition().make_client(job(), context).value();
    EXPECT_TRUE(client->set_constants(server->constants()).ok());
    TensorMap made = train(*client, broadcast, 1, 5).value().tensors();
    return made;
  };
  kernels::ForwardingDevice first("first"), second("second");
  const TensorMap one = made_on({&kernels::cpu_device()}), two = made_on({&first, &second});
  // The products of other micro-batches may round otherwise; what is summed and noised is the same otherwise.
  ASSERT_EQ(one.schema(), two.schema());
  double difference = 0.0, norm = 0.0;
  for (const auto& [name, tensor] : one) {
    const auto expected = tensor.as<float>();
    const auto actual = two.at(name).as<float>();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      difference += std::pow(static_cast<double>(expected[i]) - actual[i], 2);
      norm += std::pow(static_cast<double>(expected[i]), 2);
    }
  }
  EXPECT_GT(norm, 0.0);
  EXPECT_LT(std::sqrt(difference / norm), 1e-5);
}

TEST_F(LoraTextTest, SaysThatADeviceHasNoMemoryForTheModelToMeasure) {
  class FullDevice final : public kernels::ForwardingDevice {
   public:
    FullDevice() : ForwardingDevice("cuda:0") {}
    void* allocate(std::size_t) override { throw std::bad_alloc(); }
  } device;
  BenchmarkRequest request;
  request.base = models_directory / "roberta-mini-imdb";
  request.lengths = {8};
  request.devices = {&device};
  const auto measured = benchmark_training(request, progress_);
  ASSERT_FALSE(measured);
  EXPECT_EQ(measured.error().code, Errc::unavailable);
  EXPECT_THAT(measured.error().message, HasSubstr("cuda:0 has no memory for this model"));
}

TEST_F(LoraTextTest, MeasuresATrainingStepOfAModelWithRandomOrRealWeights) {
  BenchmarkRequest request;
  request.base = models_directory / "roberta-mini-imdb";
  request.batch = 6;
  request.steps = 3;
  request.data = directory_ / "site-1.tsv";
  request.max_tokens = 16;
  request.devices = {&kernels::cpu_device()};
  const TrainingBenchmark measured = benchmark_training(request, progress_).value();
  EXPECT_EQ(measured.model, "roberta-mini-imdb");
  EXPECT_EQ(measured.device, kernels::cpu_device().name());
  EXPECT_EQ(measured.batch, 6);
  EXPECT_GE(measured.micro_batch, 1);
  EXPECT_LE(measured.longest_tokens, 16);
  EXPECT_GT(measured.mean_tokens, 3.0);
  EXPECT_GT(measured.private_seconds, 0.0);
  EXPECT_GT(measured.overhead, 0.0);
  EXPECT_GT(measured.operations, 0.0);
  EXPECT_GT(measured.product_limit, 0.0);
  EXPECT_GT(measured.peak_memory, std::uint64_t{10} << 20);
  EXPECT_FALSE(measured.memory_of_device);

  kernels::ForwardingDevice first("first"), second("second");
  request.data.clear();
  request.lengths = {5, 9};
  request.devices = {&first, &second};
  const TrainingBenchmark shared = benchmark_training(request, progress_).value();
  EXPECT_EQ(shared.collective, "host memory");
  EXPECT_EQ(shared.mean_tokens, 7.0);
  EXPECT_LE(shared.micro_batch, 3);

  request.lengths = {100'000};
  EXPECT_THAT(benchmark_training(request, progress_).error().message, HasSubstr("the model takes 1 to"));
  request.precision = "fp7";
  EXPECT_THAT(benchmark_training(request, progress_).error().message, HasSubstr("model.precision"));
  request.base.clear();
  request.precision = "fp32";
  request.size = "giant";
  EXPECT_THAT(benchmark_training(request, progress_).error().message, HasSubstr("\"base\" and \"large\""));
}

TEST_F(LoraTextTest, RefusesToTrainWithoutConstantsOrFromAnotherBroadcast) {
  const auto server = make_server();
  const auto client = make_client("site-1.tsv", 24);
  TensorMap broadcast = server->broadcast(server->initial_state().value()).value();
  EXPECT_THAT(train(*client, broadcast, 1, 3).error().message, HasSubstr("constants"));
  TensorMap constants = server->constants();
  constants.erase(constants.begin()->first);
  EXPECT_FALSE(client->set_constants(constants).ok());
  ASSERT_TRUE(client->set_constants(server->constants()).ok());
  const std::string name = broadcast.begin()->first;
  broadcast[name] = HostTensor(DType::f32, {1, 1});
  EXPECT_THAT(train(*client, broadcast, 1, 3).error().message, HasSubstr(name));
}

TEST_F(LoraTextTest, NamesFileLineAndValueOfALabelThatIsNotTheJobs) {
  write("odd.tsv", "text\tlabel\ngood\tpositive\nfine\tneutral\n");
  const auto client = definition().make_client(job(), site("odd.tsv", 2));
  ASSERT_FALSE(client.ok());
  EXPECT_EQ(client.error().code, Errc::invalid_argument);
  EXPECT_THAT(client.error().message, AllOf(HasSubstr("odd.tsv"), HasSubstr("3"), HasSubstr("neutral"),
                                            HasSubstr("negative"), HasSubstr("positive")));
}

TEST_F(LoraTextTest, NamesBothHashesWhenASiteHasAnotherBaseModel) {
  const std::string wrong(64, 'a');
  sections_["model"] += "base_sha256 = \"" + wrong + "\"\n";
  const auto client = definition().make_client(job(), site("site-1.tsv", 24));
  ASSERT_FALSE(client.ok());
  const std::string actual = to_hex(models::base_model_hash(models_directory / "roberta-mini-imdb").value());
  EXPECT_THAT(client.error().message, AllOf(HasSubstr("roberta-mini-imdb"), HasSubstr(wrong), HasSubstr(actual)));
  EXPECT_FALSE(definition().make_server(job(), aggregator()).ok());
}

TEST_F(LoraTextTest, SaysWhereItLookedForABaseModelThatIsMissing) {
  sections_["model"] = "base = \"no-such-model\"\nlabels = [\"negative\", \"positive\"]\n";
  const auto client = definition().make_client(job(), site("site-1.tsv", 24));
  ASSERT_FALSE(client.ok());
  EXPECT_EQ(client.error().code, Errc::not_found);
  EXPECT_THAT(client.error().message, HasSubstr((models_directory / "no-such-model").native()));
}

TEST_F(LoraTextTest, PinsTheBaseModelAtSubmissionSoThatSitesCanCheckIt) {
  const JobSpec pinned = pin_job(job(), aggregator()).value();
  const Config config = config_of(pinned).value();
  EXPECT_EQ(config.base_sha256, models::base_model_hash(models_directory / "roberta-mini-imdb").value());
  EXPECT_TRUE(definition().make_client(pinned, site("site-1.tsv", 24)).ok());
}

TEST_F(LoraTextTest, RefusesAtSubmissionATestSetThatTheAggregatorLacks) {
  sections_["evaluation"] = "file = \"elsewhere/test.tsv\"\n";
  const auto pinned = pin_job(job(), aggregator());
  ASSERT_FALSE(pinned.ok());
  EXPECT_EQ(pinned.error().code, Errc::not_found);
  EXPECT_THAT(pinned.error().message,
              AllOf(HasSubstr("elsewhere/test.tsv"), HasSubstr(directory_.native()), HasSubstr("tasks.data")));
}

TEST_F(LoraTextTest, LoadsOneClassifierForAllSitesOfAProcess) {
  const Config config = config_of(job()).value();
  const BaseModel base = find_base_model({config.base, config.base_sha256}, {}, {models_directory}, *shared_).value();
  kernels::Device& device = kernels::cpu_device();
  const auto first = load_shared_model(base, config.classifier, device, *shared_).value();
  EXPECT_EQ(first, load_shared_model(base, config.classifier, device, *shared_).value());
  models::ClassifierConfig other = config.classifier;
  other.adapter.rank = 2;
  EXPECT_NE(first, load_shared_model(base, other, device, *shared_).value());
}

TEST_F(LoraTextTest, RefusesARankLargerThanTheLayers) {
  sections_["adapter"] = "rank = 300\n";
  EXPECT_THAT(definition().make_server(job(), aggregator()).error().message, AllOf(HasSubstr("300"), HasSubstr("256")));
}

TEST_F(LoraTextTest, TheAverageBeginsWithTheFirstTrainedState) {
  const std::vector<TensorMap> states = run(1);
  EXPECT_THAT(evaluate(states[0]), testing::Not(Contains(Key("accuracy_average"))));
  const auto metrics = evaluate(states[1]);
  EXPECT_NEAR(metrics.at("loss_average"), metrics.at("loss"), 1e-5);
}

TEST_F(LoraTextTest, KeepsNoAverageWhereTheJobWantsNone) {
  sections_["evaluation"] += "average_states = 0.0\n";
  const TensorMap state = run(2).back();
  EXPECT_THAT(evaluate(state), AllOf(Contains(Key("accuracy")), testing::Not(Contains(Key("accuracy_average")))));
  EXPECT_THAT(make_server()->export_model(state, true, directory_ / "adapter").error().message,
              HasSubstr("average_states"));
}

// On the site's own records, through the same door.
class SiteEvaluation : public LoraTextTest {
 protected:
  // The noised sum of one site of 36 records. Each call is a site and a ledger of its own.
  TensorMap evaluate_at_site(const std::string& privacy, std::uint64_t seed) {
    sections_["privacy"] = privacy;
    sections_["site_evaluation"] = "enabled = true\nepsilon = 2\n";
    const auto server = make_server();
    const auto client = make_client("site-2.tsv", 40);
    EXPECT_TRUE(client->set_constants(server->constants()).ok());
    const TensorMap broadcast = server->broadcast(server->initial_state().value()).value();
    charge_ = client->evaluation_charge({.job_id = "j1", .round = 2}).value();
    const auto ledger =
        privacy::Ledger::in_memory({{.data_set = "default", .epsilon = 1e9, .delta = 1e-5}}, system_clock()).value();
    auto session =
        privacy::PrivacySession::open(*ledger, charge_, true, RandomKey::from_seed(seed), system_clock()).value();
    const privacy::Contribution contribution = client->evaluate(broadcast, session, progress_).value();
    EXPECT_EQ(contribution.weight(), 1.0);
    EXPECT_EQ(client->evaluate(broadcast, session, progress_).error().code, Errc::limit_exceeded) << "charged once";
    EXPECT_EQ(ledger->entries().size(), 1u);
    EXPECT_FALSE(ledger->charged("j1", 2, "default")) << "the round's own charge is another";
    return contribution.tensors();
  }
  privacy::Charge charge_;
};

TEST_F(SiteEvaluation, CountsWhatTheModelGetsRightOnTheSitesOwnRecords) {
  const TensorMap exact = evaluate_at_site("enabled = false\n", 1);
  EXPECT_EQ(exact.at(evaluation_tensor).as<double>()[0], 36.0);
  // The aggregator's evaluation of the same state on the same records.
  sections_["evaluation"] = "file = \"site-2.tsv\"\n";
  const auto server = make_server();
  const auto expected = server->evaluate(server->initial_state().value(), progress_).value().metrics;
  const auto metrics = evaluation_metrics(exact).value();
  EXPECT_NEAR(metrics.at("accuracy"), expected.at("accuracy"), 1e-9);
  EXPECT_NEAR(metrics.at("loss"), expected.at("loss"), 1e-5) << "no loss is at the bound";
}

TEST_F(SiteEvaluation, IsNoisedAndChargedAsOneSumOverAllRecords) {
  const TensorMap exact = evaluate_at_site("enabled = false\n", 1);
  double squares = 0.0;
  constexpr int kSeeds = 20;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const TensorMap noised = evaluate_at_site("epsilon = 8\n", seed);
    for (std::size_t i = 0; i < 3; ++i) {
      const double noise = noised.at(evaluation_tensor).as<double>()[i] - exact.at(evaluation_tensor).as<double>()[i];
      squares += noise * noise / (3.0 * std::pow(charge_.mechanism.noise_multiplier, 2));
    }
  }
  EXPECT_NEAR(squares / (3 * kSeeds), 1.0, 0.8);  // chi-square of 60 degrees: more than four deviations
  EXPECT_EQ(charge_.mechanism.sample_rate, 1.0);
  EXPECT_EQ(charge_.mechanism.steps, 1);
  // Six rounds, each evaluated.
  EXPECT_EQ(charge_.mechanism.noise_multiplier, privacy::calibrate_noise_multiplier(2.0, 1e-5, 1.0, 6).value());
  EXPECT_EQ(charge_.mechanism.noise, privacy::NoiseKind::discrete_gaussian);
  EXPECT_EQ(charge_.declared_records, 40);
}

TEST_F(SiteEvaluation, IsSummedOverTheSitesAndReportedWithTheRound) {
  sections_["site_evaluation"] = "enabled = true\n";
  const auto server = make_server();
  const TensorMap initial = server->initial_state().value();
  const TensorSchema schema = server->contribution_schema();
  // The next state after sites that trained nothing and counted this, each with another weight.
  const auto after = [&](const TensorMap& state, const std::vector<std::vector<double>>& counts) {
    Sum sum(schema);
    double weight = 10.0;
    for (const std::vector<double>& of_a_site : counts) {
      TensorMap contribution;
      for (const TensorSpec& spec : schema.specs()) contribution[spec.name] = HostTensor(spec.dtype, spec.shape);
      contribution[evaluation_tensor] = HostTensor::from_f64({3}, of_a_site);
      EXPECT_TRUE(sum.add(contribution, weight *= 3.0).ok());
    }
    return server->next_state(state, sum).value();
  };
  const TensorMap state = after(initial, {{30.0, 15.0, 6.0}, {0.0, 0.0, 0.0}, {10.0, 9.0, 2.0}});
  const auto metrics = server->evaluate(state, progress_).value().metrics;
  EXPECT_DOUBLE_EQ(metrics.at("site_accuracy"), 24.0 / 40.0) << "counts have no weight but their own";
  EXPECT_DOUBLE_EQ(metrics.at("site_loss"), 4.0 * 8.0 / 40.0);
  EXPECT_DOUBLE_EQ(metrics.at("site_records"), 40.0);
  EXPECT_TRUE(metrics.contains("accuracy"));
  EXPECT_EQ(server->broadcast(state).value().schema(), server->broadcast_schema()) << "the counts stay here";
  // A round in which no site shared says nothing, least of all what an earlier one said.
  const TensorMap silent = after(state, {{0.0, 0.0, 0.0}});
  EXPECT_FALSE(server->evaluate(silent, progress_).value().metrics.contains("site_accuracy"));
}

TEST(EvaluationMetrics, AreRatiosOfNoisedCountsWithinTheirRanges) {
  const auto metrics = [](std::vector<double> counts) {
    TensorMap sum;
    sum[evaluation_tensor] = HostTensor::from_f64({3}, counts);
    return evaluation_metrics(sum);
  };
  EXPECT_EQ(metrics({200.0, 150.0, 20.0}).value(),
            (std::map<std::string, double>{{"records", 200.0}, {"accuracy", 0.75}, {"loss", 0.4}}));
  EXPECT_EQ(metrics({10.0, 11.0, -1.0}).value().at("accuracy"), 1.0);
  EXPECT_EQ(metrics({10.0, 11.0, -1.0}).value().at("loss"), 0.0);
  EXPECT_THAT(metrics({-3.0, 1.0, 1.0}).error().message, HasSubstr("-3.0 records"));
  EXPECT_FALSE(evaluation_metrics(TensorMap()).ok());
}

TEST_F(LoraTextTest, EvaluatesNothingWithoutATestSet) {
  sections_["evaluation"] = "";
  EXPECT_TRUE(evaluate(make_server()->initial_state().value()).empty());
}

TEST_F(LoraTextTest, LimitsTheTestSetToEvenlySpacedRows) {
  std::string sorted = "text\tlabel\n";
  for (int i = 0; i < 40; ++i) sorted += i < 20 ? "awful\tnegative\n" : "lovely\tpositive\n";
  write("test.tsv", sorted);
  const auto server = make_server();
  const double all = server->evaluate(server->initial_state().value(), progress_).value().metrics.at("loss");
  sections_["evaluation"] += "limit = 4\n";
  EXPECT_NEAR(evaluate(server->initial_state().value()).at("loss"), all, 1e-6);
}

TEST_P(EveryAlgorithm, ExportsAnAdapterThatPredictsAsTheAggregatorEvaluated) {
  sections_["training"] += "algorithm = \"" + std::string(GetParam()) + "\"\n";
  const TensorMap state = run(3).back();
  const auto metrics = evaluate(state);
  for (const bool averaged : {false, true}) {
    const fs::path adapter = directory_ / (averaged ? "average" : "last");
    ASSERT_TRUE(make_server()->export_model(state, averaged, adapter).ok());
    const PredictRequest request{.base = models_directory / "roberta-mini-imdb",
                                 .adapter = adapter,
                                 .data = directory_ / "test.tsv",
                                 .label_column = "label",
                                 .max_tokens = 32,
                                 .device = &kernels::cpu_device()};
    const Predictions predictions = definition().predict(request, progress_).value();
    EXPECT_THAT(predictions.labels, testing::ElementsAre("negative", "positive"));
    EXPECT_EQ(predictions.logits.shape(), (Shape{32, 2}));
    EXPECT_NEAR(predictions.metrics.at("loss"), metrics.at(averaged ? "loss_average" : "loss"), 1e-5);
    EXPECT_NEAR(predictions.metrics.at("accuracy"), metrics.at(averaged ? "accuracy_average" : "accuracy"), 1e-9);
  }
}

TEST_F(LoraTextTest, PredictsInTheOrderOfTheRowsWhateverTheirLength) {
  const auto server = make_server();
  ASSERT_TRUE(server->export_model(server->initial_state().value(), false, directory_ / "adapter").ok());
  PredictRequest request{
      .base = models_directory / "roberta-mini-imdb",
      .adapter = directory_ / "adapter",
      .data = write("mixed.csv", "id,text\n1,fine\n2,a very long and winding story of a film\n3,no\n"),
      .max_tokens = 32,
      .device = &kernels::cpu_device()};
  const Predictions together = definition().predict(request, progress_).value();
  EXPECT_TRUE(together.metrics.empty());
  const char* rows[] = {"fine", "a very long and winding story of a film", "no"};
  for (std::size_t i = 0; i < 3; ++i) {
    request.data = write("one.csv", "id,text\n1," + std::string(rows[i]) + "\n");
    const Predictions alone = definition().predict(request, progress_).value();
    EXPECT_NEAR(alone.logits.as<float>()[0], together.logits.as<float>()[2 * i], 1e-5) << rows[i];
    EXPECT_EQ(alone.predicted[0], together.predicted[i]);
  }
}

TEST_F(LoraTextTest, GivesEveryCanaryALabelOfItsOwnWhateverTheOthersAre) {
  sections_["model"] = R"(base = "roberta-mini-imdb"
labels = ["say \"no\"", "back\\slash", "tab\t", "größer"]
)";
  std::string text;
  for (const auto& [name, lines] : sections_) text += "[" + name + "]\n" + lines;
  write("job.toml", text);
  const JobSpec plain = read_job_file(directory_ / "job.toml", {}).value();
  const auto overrides = definition().canary_overrides(plain, 2).value();
  const JobSpec audited = read_job_file(directory_ / "job.toml", overrides).value();
  EXPECT_THAT(config_of(audited).value().labels,
              testing::ElementsAre("say \"no\"", "back\\slash", "tab\t", "größer", "canary-1", "canary-2"));
}

TEST_F(LoraTextTest, DealsATrainingFileOutToSitesThatCanReadIt) {
  sections_["simulate"] = "train = \"site-2.tsv\"\ndirichlet_alpha = 0.3\nmin_records = 4\n";
  ChaCha20Random random(RandomKey::from_seed(2));
  const auto sites = definition().split_data(job(), directory_, 3, random, directory_ / "split").value();
  ASSERT_EQ(sites.size(), 3u);
  std::multiset<std::string> dealt, original;
  for (const TaskDefinition::SiteData& data : sites) {
    const data::TextTable table = data::read_text_table(data.file, {.label_column = "label"}).value();
    EXPECT_EQ(static_cast<std::int64_t>(table.rows.size()), data.records);
    EXPECT_GE(data.records, 4);
    for (const data::TextRow& row : table.rows) dealt.insert(row.text + "\t" + *row.label);
    SiteContext context = site("", data.records);
    context.data_file = data.file;
    EXPECT_TRUE(definition().make_client(job(), context).ok());
  }
  const data::TextTable source = data::read_text_table(directory_ / "site-2.tsv", {.label_column = "label"}).value();
  for (const data::TextRow& row : source.rows) {
    original.insert(row.text + "\t" + *row.label);
  }
  EXPECT_EQ(dealt, original);
}

TEST_F(LoraTextTest, SaysThatThereIsNoFileToDealOut) {
  ChaCha20Random random(RandomKey::from_seed(2));
  const auto sites = definition().split_data(job(), directory_, 3, random, directory_ / "split");
  ASSERT_FALSE(sites.ok());
  EXPECT_THAT(sites.error().message, HasSubstr("simulate.train"));
}

TEST(Score, IsAccuracyAndMeanCrossEntropy) {
  const HostTensor logits = HostTensor::from_f32({2, 2}, std::vector<float>{0.0f, 0.0f, 100.0f, -100.0f});
  const std::vector<std::int32_t> expected = {1, 0};
  const Score result = score(logits, expected);
  EXPECT_DOUBLE_EQ(result.accuracy, 0.5);  // a tie goes to the first label
  EXPECT_NEAR(result.loss, std::log(2.0) / 2.0, 1e-12);
}

}  // namespace
}  // namespace trib::tasks::lora_text
