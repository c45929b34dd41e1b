// Frozen bases in FP8 and in 8 and 4 bits: close to fp32, the same on every device, and per-sample all the same.
#include "kernels/gemm.h"
#include "tests/models/classifier_fixture.h"

namespace trib::models {
namespace {

using kernels::PerSampleGradients;

struct Base {
  const char* name;
  Precision precision;
  std::int64_t bits;
  // The mean relative error of a record's gradients against fp32, and of a GPU's against the CPU's: bounds.
  double error, device_error;
};
constexpr Base bases[] = {{"fp8", Precision::fp8, 16, 0.2, 0.1},
                          {"eight_bits", Precision::bf16, 8, 0.04, 0.04},
                          {"four_bits", Precision::bf16, 4, 0.4, 0.06}};

ClassifierConfig config_of(const Base& base) {
  ClassifierConfig config = golden_config();
  config.precision = base.precision;
  config.base_bits = base.bits;
  return config;
}

// All of a record's gradients one after the other.
std::vector<std::vector<float>> gradients(TextClassifier& model, const std::vector<TokenizedText>& records) {
  PerSampleGradients all;
  model.per_sample_gradients(pointers(records), all);
  std::vector<std::vector<float>> result(records.size());
  for (std::size_t i = 0; i < records.size(); ++i)
    for (const auto& gradient : all.tensors) {
      const auto part = sample_gradient(model.stream(), gradient, static_cast<std::int64_t>(i));
      result[i].insert(result[i].end(), part.begin(), part.end());
    }
  return result;
}

double mean_error(const std::vector<std::vector<float>>& actual, const std::vector<std::vector<float>>& expected) {
  double total = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    double difference = 0, size = 0;
    for (std::size_t j = 0; j < expected[i].size(); ++j) {
      difference += std::pow(static_cast<double>(actual[i][j]) - expected[i][j], 2);
      size += std::pow(static_cast<double>(expected[i][j]), 2);
    }
    total += std::sqrt(difference / size) / static_cast<double>(expected.size());
  }
  return total;
}

class NarrowBase : public testing::TestWithParam<Base> {
 protected:
  void SetUp() override {
    if (GetParam().precision != Precision::bf16) return;
    const Status supported = kernels::supports_compute(kernels::cpu_device(), DType::bf16);
    if (!supported.ok()) GTEST_SKIP() << supported.error().message;
  }
  std::vector<TokenizedText> records = random_records({7, 2, 16, 24, 33, 3, 12, 48, 5}, 512, 3, 7);
};

TEST_P(NarrowBase, GivesGradientsCloseToThoseOfFp32ButNotTheSame) {
  const auto exact = load_golden(), narrow = load_golden(config_of(GetParam()));
  const TensorMap state = random_state(*exact, 3);
  exact->set_state(state).value();
  narrow->set_state(state).value();
  const double error = mean_error(gradients(*narrow, records), gradients(*exact, records));
  EXPECT_LT(error, GetParam().error);
  EXPECT_GT(error, 1e-3);
}

TEST_P(NarrowBase, GivesARecordTheSameGradientAloneAsInABatch) {
  const auto model = load_golden(config_of(GetParam()));
  model->set_state(random_state(*model, 3)).value();
  const auto together = gradients(*model, records);
  std::vector<std::vector<float>> alone;
  for (const TokenizedText& record : records) alone.push_back(gradients(*model, {record}).front());
  // Not bit for bit: a product's order of sums depends on its rows, and may tip a rounding.
  EXPECT_LT(mean_error(alone, together), 0.01);
}

TEST_P(NarrowBase, GivesTheSameGradientsOnAGpu) {
  const auto gpu = kernels::open_device("cuda");
  if (!gpu) GTEST_SKIP() << gpu.error().message;
  auto on_gpu = TextClassifier::load(**gpu, golden_directory(), config_of(GetParam()));
  if (!on_gpu) GTEST_SKIP() << on_gpu.error().message;
  const auto on_cpu = load_golden(config_of(GetParam()));
  const TensorMap state = random_state(*on_cpu, 3);
  on_cpu->set_state(state).value();
  (*on_gpu)->set_state(state).value();
  EXPECT_LT(mean_error(gradients(**on_gpu, records), gradients(*on_cpu, records)), GetParam().device_error);
}

INSTANTIATE_TEST_SUITE_P(Classifier, NarrowBase, testing::ValuesIn(bases),
                         [](const auto& info) { return std::string(info.param.name); });

// Every place that an adapter may have, so every form that an activation may be needed in beside FP8.
class Fp8Adapters : public EachDevice {};

TEST_P(Fp8Adapters, OfEveryKindHavePerSampleGradientsThatAddUpToTheSummedOnes) {
  const std::vector<std::vector<std::string>> kinds = {
      {"query", "value"},
      {"key"},
      {"attention.output.dense"},
      {"intermediate.dense"},
      {"output.dense"},
      {"query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"}};
  const auto records = random_records({7, 2, 16, 24, 33}, 512, 3, 7);
  for (const auto& targets : kinds)
    for (const bool train_a : {false, true}) {
      ClassifierConfig config = golden_config();
      config.precision = Precision::fp8;
      config.adapter.targets = targets;
      config.adapter.train_a = train_a;
      auto loaded = TextClassifier::load(*device, golden_directory(), config);
      if (!loaded) GTEST_SKIP() << loaded.error().message;
      TextClassifier& model = **loaded;
      model.set_state(random_state(model, 3)).value();
      PerSampleGradients per_sample;
      model.per_sample_gradients(pointers(records), per_sample);
      std::vector<kernels::Tensor> sums;
      for (const auto& parameter : model.parameters())
        sums.push_back(kernels::Tensor::zeros(model.stream(), DType::f32, parameter.shape()));
      std::vector<std::vector<float>> totals;
      for (const auto& gradient : per_sample.tensors) {
        totals.emplace_back();
        for (std::int64_t i = 0; i < per_sample.sample_count; ++i) {
          const auto row = sample_gradient(model.stream(), gradient, i);
          totals.back().resize(row.size());
          for (std::size_t j = 0; j < row.size(); ++j) totals.back()[j] += row[j];
        }
      }
      model.summed_gradients(pointers(records), sums);
      for (std::size_t t = 0; t < sums.size(); ++t) {
        const HostTensor sum = sums[t].to_host(model.stream());
        EXPECT_LT(relative_error(totals[t], sum.as<float>()), 0.02) << targets.front() << model.parameter_names()[t];
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Classifier, Fp8Adapters, testing::Values("cpu", "cuda"), device_name);

TEST(BaseBits, AreRefusedWithTheRemedyWhereTheyCannotBe) {
  const auto refusal = [](std::int64_t bits, Precision precision) {
    ClassifierConfig config = golden_config();
    config.base_bits = bits;
    config.precision = precision;
    return TextClassifier::load(kernels::cpu_device(), golden_directory(), config).error();
  };
  EXPECT_NE(refusal(5, Precision::bf16).message.find("accepted are 16, 8 and 4"), std::string::npos);
  for (const Precision precision : {Precision::fp32, Precision::fp8, Precision::tf32}) {
    EXPECT_EQ(refusal(8, precision).code, Errc::invalid_argument);
    EXPECT_NE(refusal(4, precision).message.find("needs the precision bf16"), std::string::npos);
  }
}

}  // namespace
}  // namespace trib::models
