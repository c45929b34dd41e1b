// Several devices train what one does, bit for bit, on the real model: on the CPU under several names, and on this
// machine's GPUs where it has two.
#include "tasks/lora_text/trainer.h"

#include <gtest/gtest.h>

#include <memory>

#include "common/random.h"
#include "privacy/ledger.h"
#include "tests/kernels/forwarding_device.h"

namespace trib::tasks::lora_text {
namespace {

const std::filesystem::path base_directory = std::filesystem::path(TRIBUTARY_SOURCE_DIR) / "base/roberta-mini-imdb";
constexpr std::int64_t record_count = 37, micro_batch = 6, steps = 3;

std::vector<models::TokenizedText> records() {
  ChaCha20Random random(RandomKey::from_seed(11));
  std::vector<models::TokenizedText> result(static_cast<std::size_t>(record_count));
  for (models::TokenizedText& record : result) {
    const std::uint64_t length = 4 + random.below(20);
    for (std::uint64_t i = 0; i < length; ++i) record.tokens.push_back(static_cast<std::int32_t>(random.below(8000)));
    record.label = static_cast<std::int32_t>(random.below(2));
  }
  return result;
}

// What three private steps of all records make of the model, as every device has it.
std::vector<TensorMap> states_after_training(const std::vector<kernels::Device*>& devices,
                                             models::Precision precision) {
  Config config;
  config.classifier.precision = precision;
  config.learning_rate = 0.5;
  SharedResources shared;
  BaseModel base;
  base.directory = base_directory;
  const Replicas replicas = load_replicas(base, config.classifier, devices, shared).value();
  privacy::Charge charge{.job = "job",
                         .round = 1,
                         .data_set = "data",
                         .declared_records = record_count,
                         .target_delta = 1e-3,
                         .mechanism = {privacy::MechanismKind::poisson_subsampled_gaussian, 1.0, 0.5, 1.0, steps}};
  const auto ledger =
      privacy::Ledger::in_memory({{.data_set = "data", .epsilon = 1e300, .delta = 1e-3}}, system_clock()).value();
  auto session = privacy::PrivacySession::open(*ledger, charge, true, RandomKey::from_seed(3), system_clock()).value();
  const privacy::RecordStore<models::TokenizedText> store(records());
  Trainer trainer(replicas, config, 24, micro_batch);
  for (std::int64_t step = 0; step < steps; ++step) {
    const privacy::StepReport report = trainer.submit(session, store).value().report().value();
    EXPECT_EQ(report.sample_count, record_count);
    EXPECT_EQ(report.micro_batch, micro_batch);
  }
  std::vector<TensorMap> states;
  for (const auto& model : replicas.models) states.push_back(model->classifier->state());
  return states;
}

void expect_the_same(const std::vector<kernels::Device*>& one, const std::vector<kernels::Device*>& several,
                     models::Precision precision) {
  const TensorMap expected = states_after_training(one, precision).front();
  const std::vector<TensorMap> states = states_after_training(several, precision);
  ASSERT_EQ(states.size(), several.size());
  for (const TensorMap& state : states) EXPECT_EQ(state, expected);
  // And the steps have moved the model, differently from seed to seed of the noise: not all zeros, not all equal.
  double norm = 0.0;
  for (const auto& [name, tensor] : expected) {
    if (!name.ends_with(".lora_B")) continue;
    for (const float value : tensor.as<float>()) norm += static_cast<double>(value) * value;
  }
  EXPECT_GT(norm, 1e-6);
}

TEST(SeveralDevices, TrainTheRealModelToTheBitsOfOne) {
  kernels::ForwardingDevice first("first"), second("second"), third("third");
  expect_the_same({&kernels::cpu_device()}, {&first, &second}, models::Precision::fp32);
  expect_the_same({&kernels::cpu_device()}, {&first, &second, &third}, models::Precision::bf16);
}

TEST(SeveralGpus, TrainTheRealModelToTheBitsOfOne) {
  const auto gpus = kernels::open_devices("cuda:all");
  if (!gpus || gpus->size() < 2) GTEST_SKIP() << "needs two GPUs";
  expect_the_same({gpus->front()}, {(*gpus)[0], (*gpus)[1]}, models::Precision::fp32);
  expect_the_same({gpus->front()}, {(*gpus)[0], (*gpus)[1]}, models::Precision::bf16);
  expect_the_same({gpus->front()}, *gpus, models::Precision::bf16);
}

}  // namespace
}  // namespace trib::tasks::lora_text
