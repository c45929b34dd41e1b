// Parity with Hugging Face Transformers and PEFT, through a tiny random model that they wrote and evaluated.
#include "tests/models/classifier_fixture.h"

namespace trib::models {
namespace {

constexpr double fp32_tolerance = 1e-5;
constexpr double tf32_tolerance = 5e-4;  // half a step of 10 bits is 4.9e-4
constexpr double bf16_tolerance = 1e-2;

using GoldenClassifier = EachDevice;
INSTANTIATE_TEST_SUITE_P(On, GoldenClassifier, testing::Values("cpu", "cuda"), device_name);

TEST_P(GoldenClassifier, GivesTheLogitsAndLossOfTransformersWithoutAnAdapter) {
  const TensorMap expected = read_safetensors(golden_directory() / "expected.safetensors").value().tensors;
  auto model = load();
  const auto records = golden_records();
  EXPECT_LT(relative_error(model->logits(pointers(records)).as<float>(), expected.at("logits").as<float>()),
            fp32_tolerance);
  kernels::PerSampleGradients gradients;
  const double mean_loss = per_sample_loss(*model, pointers(records), gradients) / static_cast<double>(records.size());
  EXPECT_NEAR(mean_loss, expected.at("loss").as<float>()[0], fp32_tolerance * mean_loss);
}

TEST_P(GoldenClassifier, GivesTheLogitsOfPeftWithAnAdapter) {
  const TensorMap expected = read_safetensors(golden_directory() / "expected_lora.safetensors").value().tensors;
  auto model = load();
  model->set_state(golden_adapter_state()).value();
  const auto records = golden_records();
  EXPECT_LT(relative_error(model->logits(pointers(records)).as<float>(), expected.at("logits").as<float>()),
            fp32_tolerance);
}

TEST_P(GoldenClassifier, GivesTheMeanOfTheLastHiddenStatesOfTransformers) {
  const TensorMap expected = read_safetensors(golden_directory() / "expected.safetensors").value().tensors;
  const HostTensor& hidden = expected.at("last_hidden");
  const std::span<const std::int32_t> mask = expected.at("attention_mask").as<std::int32_t>();
  const auto n = static_cast<std::size_t>(hidden.shape()[0]), length = static_cast<std::size_t>(hidden.shape()[1]),
             d = static_cast<std::size_t>(hidden.shape()[2]);
  std::vector<float> means(n * d);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < d; ++j) {
      double sum = 0, count = 0;
      for (std::size_t t = 0; t < length; ++t) {
        if (mask[i * length + t] == 0) continue;
        sum += hidden.as<float>()[(i * length + t) * d + j];
        ++count;
      }
      means[i * d + j] = static_cast<float>(sum / count);
    }
  ClassifierConfig without_adapters = golden_config();
  without_adapters.adapter.targets.clear();
  for (const ClassifierConfig& config : {golden_config(), without_adapters}) {
    auto model = load(config);
    EXPECT_EQ(model->hidden_size(), static_cast<std::int64_t>(d));
    const auto records = golden_records();
    EXPECT_LT(relative_error(model->mean_states(pointers(records)).as<float>(), means), fp32_tolerance);
  }
}

// Every per-sample gradient of PEFT; the largest relative error of one sample's tensor.
double worst_gradient(TextClassifier& model) {
  const TensorMap expected = read_safetensors(golden_directory() / "expected_lora.safetensors").value().tensors;
  model.set_state(golden_adapter_state()).value();
  const auto records = golden_records();
  kernels::PerSampleGradients gradients;
  model.per_sample_gradients(pointers(records), gradients);

  std::size_t compared = 0;
  double worst = 0;
  for (const kernels::PerSampleGradient& gradient : gradients.tensors) {
    // "….lora_B" is "….lora_B.default.weight" there, and "classifier.…" is "classifier.modules_to_save.default.…".
    std::string name = gradient.name;
    if (name.ends_with(".lora_B")) name += ".default.weight";
    if (name.starts_with("classifier.")) name.insert(std::string("classifier.").size(), "modules_to_save.default.");
    const HostTensor& reference = expected.at("per_sample_grad/" + name);
    const auto size = static_cast<std::size_t>(element_count(gradient.shape));
    for (std::size_t i = 0; i < records.size(); ++i) {
      const auto row = reference.as<float>().subspan(i * size, size);
      worst =
          std::max(worst, relative_error(sample_gradient(model.stream(), gradient, static_cast<std::int64_t>(i)), row));
      ++compared;
    }
  }
  // 2 adapters in each of 3 layers and 4 tensors of the head, for 6 samples.
  EXPECT_EQ(compared, std::size_t{10 * 6});
  return worst;
}

TEST_P(GoldenClassifier, GivesEveryPerSampleGradientOfPeft) {
  EXPECT_LT(worst_gradient(*load()), fp32_tolerance);
}

// On a CPU tf32 is fp32, bit for bit; on a GPU it is not, and stays within its tolerance.
TEST_P(GoldenClassifier, StaysCloseToPeftInTf32) {
  const TensorMap expected = read_safetensors(golden_directory() / "expected_lora.safetensors").value().tensors;
  ClassifierConfig config = golden_config();
  config.precision = Precision::tf32;
  const auto model = load(config), exact = load();
  for (TextClassifier* each : {model.get(), exact.get()}) each->set_state(golden_adapter_state()).value();
  const auto records = golden_records();
  const HostTensor logits = model->logits(pointers(records));
  EXPECT_LT(relative_error(logits.as<float>(), expected.at("logits").as<float>()), tf32_tolerance);
  EXPECT_EQ(logits == exact->logits(pointers(records)), device->kind() == kernels::DeviceKind::cpu);
  EXPECT_LT(worst_gradient(*model), 3 * tf32_tolerance);
}

TEST_P(GoldenClassifier, StaysCloseToPeftInBf16) {
  const TensorMap expected = read_safetensors(golden_directory() / "expected_lora.safetensors").value().tensors;
  ClassifierConfig config = golden_config();
  config.precision = Precision::bf16;
  auto loaded = TextClassifier::load(*device, golden_directory(), config);
  if (!loaded && loaded.error().code == Errc::unsupported) GTEST_SKIP() << loaded.error().message;
  TextClassifier& model = **loaded;
  model.set_state(golden_adapter_state()).value();
  const auto records = golden_records();
  EXPECT_LT(relative_error(model.logits(pointers(records)).as<float>(), expected.at("logits").as<float>()),
            bf16_tolerance);

  kernels::PerSampleGradients gradients;
  model.per_sample_gradients(pointers(records), gradients);
  // The direction of each gradient, which is what a step follows: its angle to the reference.
  for (const kernels::PerSampleGradient& gradient : gradients.tensors) {
    if (!gradient.name.ends_with(".lora_B")) continue;
    const auto size = static_cast<std::size_t>(element_count(gradient.shape));
    const HostTensor& reference = expected.at("per_sample_grad/" + gradient.name + ".default.weight");
    for (std::size_t i = 0; i < records.size(); ++i) {
      const auto row = reference.as<float>().subspan(i * size, size);
      const std::vector<float> actual = sample_gradient(model.stream(), gradient, static_cast<std::int64_t>(i));
      double aa = 0, bb = 0, difference = 0;
      for (std::size_t j = 0; j < size; ++j) {
        aa += static_cast<double>(actual[j]) * actual[j];
        bb += static_cast<double>(row[j]) * row[j];
        difference += std::pow(static_cast<double>(actual[j]) - row[j], 2);
      }
      EXPECT_LT(std::sqrt(difference / bb), 3 * bf16_tolerance) << gradient.name << " of sample " << i;
      EXPECT_GT(aa, 0.0);
    }
  }
}

}  // namespace
}  // namespace trib::models
