// Private steps over the classifier on each device: repeatable to the bit, recorded or not, and the same on all devices
// but for rounding.
#include "common/random.h"
#include "kernels/gemm.h"
#include "privacy/dp_sgd.h"
#include "tests/models/classifier_fixture.h"

namespace trib::models {
namespace {

using PrivateStep = EachDevice;
INSTANTIATE_TEST_SUITE_P(On, PrivateStep, testing::Values("cpu", "cuda"), device_name);

privacy::Charge charge() {
  privacy::Charge charge{
      .job = "job", .round = 1, .data_set = "data", .declared_records = 100, .target_delta = 1e-5, .mechanism = {}};
  charge.mechanism = {privacy::MechanismKind::poisson_subsampled_gaussian, 0.1, 1.0, 0.5, 12};
  charge.mechanism.noise = privacy::NoiseKind::discrete_gaussian;
  return charge;
}

struct Trained {
  TensorMap state;
  std::vector<double> losses;
  std::vector<std::int64_t> clipped;
};

// Twelve steps over batches of a few sizes that come again and again, in micro-batches of 8 records, with the losses
// and counts read at the very end.
Trained train(kernels::Device& device, const ClassifierConfig& config, std::uint64_t seed) {
  const auto model = load_golden(config, device);
  model->set_state(golden_adapter_state()).value();
  kernels::Stream& stream = model->stream();
  privacy::GradientSum sum(RandomKey::from_seed(seed), charge());
  std::vector<Shape> shapes;
  for (const kernels::Tensor& parameter : model->parameters()) shapes.push_back(parameter.shape());
  std::vector<privacy::StepNumbers> numbers;
  kernels::PerSampleGradients gradients;
  for (unsigned step = 0; step < 12; ++step) {
    // 11 to 13 records: the last micro-batch of each step has 3 to 5.
    std::vector<std::size_t> lengths;
    for (unsigned i = 0; i < 11 + step % 3; ++i) lengths.push_back(3 + (i * 5) % 23);
    const auto records = random_records(lengths, 512, 3, step);
    const auto all = pointers(records);
    sum.reset(stream, shapes);
    for (std::size_t first = 0; first < all.size(); first += 8) {
      model->per_sample_gradients(std::span(all).subspan(first, std::min<std::size_t>(8, all.size() - first)),
                                  gradients);
      sum.add_clipped(stream, gradients);
    }
    sum.finish_mean(stream);
    std::vector<kernels::ScaledAddition> additions;
    for (std::size_t i = 0; i < shapes.size(); ++i)
      additions.push_back({-0.2, sum.tensors()[i], model->parameters()[i]});
    kernels::add_scaled(stream, additions);
    numbers.push_back(sum.numbers(stream));
  }
  Trained trained{model->state(), {}, {}};
  for (const privacy::StepNumbers& step : numbers) {
    trained.losses.push_back(step.loss());
    trained.clipped.push_back(step.clipped_count());
  }
  return trained;
}

TEST_P(PrivateStep, GivesTheSameBitsEachTimeRecordedOrNot) {
  ClassifierConfig config = golden_config();
  struct Base {
    Precision precision;
    std::int64_t bits;
  };
  for (const Base& base : {Base{Precision::fp32, 16},
                           {Precision::tf32, 16},
                           {Precision::bf16, 16},
                           {Precision::fp8, 16},
                           {Precision::bf16, 8},
                           {Precision::bf16, 4}}) {
    config.precision = base.precision;
    config.base_bits = base.bits;
    if (const auto loaded = TextClassifier::load(*device, golden_directory(), config); !loaded) {
      ASSERT_EQ(loaded.error().code, Errc::unsupported) << loaded.error().message;
      continue;
    }
    config.recorded_shapes = 0;
    const Trained eager = train(*device, config, 1);
    for (const std::size_t shapes : {std::size_t{32}, std::size_t{2}}) {
      config.recorded_shapes = shapes;
      const Trained recorded = train(*device, config, 1);
      EXPECT_EQ(recorded.state, eager.state)
          << shapes << " shapes, precision " << static_cast<int>(base.precision) << ", " << base.bits << " bits";
      EXPECT_EQ(recorded.losses, eager.losses);
      EXPECT_EQ(recorded.clipped, eager.clipped);
    }
    EXPECT_NE(train(*device, config, 2).state, eager.state) << "another seed is other noise";
  }
}

TEST_P(PrivateStep, IsTheCpusButForRounding) {
  const Trained expected = train(kernels::cpu_device(), golden_config(), 1),
                actual = train(*device, golden_config(), 1);
  for (const auto& [name, tensor] : expected.state)
    EXPECT_LT(relative_error(actual.state.at(name).as<float>(), tensor.as<float>()), 1e-4) << name;
  EXPECT_EQ(actual.clipped, expected.clipped);
  for (std::size_t i = 0; i < expected.losses.size(); ++i) {
    EXPECT_NEAR(actual.losses[i], expected.losses[i], 1e-4 * expected.losses[i]);
    EXPECT_GT(expected.losses[i], 0.0);
    EXPECT_GT(expected.clipped[i], 0);
  }
}

}  // namespace
}  // namespace trib::models
