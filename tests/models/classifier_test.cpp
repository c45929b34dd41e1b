// Properties of the text classifier that need no outside oracle: gradients are derivatives, batches are sums of
// records, Block-LoRA is the sum of its blocks, and memory stays within its promise.
#include <cstdlib>
#include <limits>
#include <mutex>
#include <new>

#include "common/random.h"
#include "kernels/lanes.h"
#include "tests/models/classifier_fixture.h"

namespace trib::models {
namespace {

using kernels::PerSampleGradients;
using kernels::Tensor;

std::vector<TokenizedText> some_records() {
  return random_records({7, 1, 16, 24, 33, 3, 12, 48, 5}, 512, 3, 7);
}

std::vector<Tensor> zero_sums(TextClassifier& model) {
  std::vector<Tensor> sums;
  for (const Tensor& parameter : model.parameters())
    sums.push_back(Tensor::zeros(model.stream(), DType::f32, parameter.shape()));
  return sums;
}

std::vector<float> host(TextClassifier& model, const Tensor& tensor) {
  const HostTensor copy = tensor.to_host(model.stream());
  return {copy.as<float>().begin(), copy.as<float>().end()};
}

double loss_of(TextClassifier& model, const std::vector<TokenizedText>& records) {
  auto sums = zero_sums(model);
  return summed_loss(model, pointers(records), sums);
}

// What trains, one line a configuration.
struct Trained {
  const char* name;
  std::vector<std::string> targets;
  bool train_a;
  HeadTraining head;
};

ClassifierConfig config_of(const Trained& trained) {
  ClassifierConfig config = golden_config();
  config.adapter.targets = trained.targets;
  config.adapter.train_a = trained.train_a;
  config.head = trained.head;
  return config;
}

class TrainedTensors : public testing::TestWithParam<std::tuple<const char*, Trained>> {
 protected:
  void SetUp() override {
    Result<kernels::Device*> opened = kernels::open_device(std::get<0>(GetParam()));
    if (!opened) GTEST_SKIP() << opened.error().message;
    device = *opened;
  }
  std::unique_ptr<TextClassifier> load() const { return load_golden(config_of(std::get<1>(GetParam())), *device); }
  kernels::Device* device = nullptr;
};
class TrainedTensorsOnAGpu : public testing::TestWithParam<Trained> {};

// Along the gradient of each tensor the loss changes by its norm: (L(θ + εv) − L(θ − εv))/2ε = ‖∇‖ for v = ∇/‖∇‖.
TEST_P(TrainedTensors, HaveTheGradientThatFiniteDifferencesGive) {
  auto model = load();
  model->set_state(random_state(*model, 3)).value();
  const auto records = some_records();
  auto gradients = zero_sums(*model);
  model->summed_gradients(pointers(records), gradients);
  ASSERT_EQ(model->parameters().size(), model->parameter_names().size());
  for (std::size_t i = 0; i < model->parameters().size(); ++i) {
    const double norm = std::sqrt(kernels::squared_norm(model->stream(), {gradients[i]}));
    ASSERT_GT(norm, 0.0) << model->parameter_names()[i];
    const double step = std::min(0.02, 0.02 / norm);
    const Tensor& parameter = model->parameters()[i];
    const HostTensor before = parameter.to_host(model->stream());
    kernels::axpy(model->stream(), step / norm, gradients[i], parameter);
    const double up = loss_of(*model, records);
    parameter.copy_from_host(model->stream(), before);
    kernels::axpy(model->stream(), -step / norm, gradients[i], parameter);
    const double down = loss_of(*model, records);
    parameter.copy_from_host(model->stream(), before);
    EXPECT_NEAR((up - down) / (2 * step * norm), 1.0, 0.01) << model->parameter_names()[i];
  }
}

TEST_P(TrainedTensors, HavePerSampleGradientsThatAddUpToTheSummedOnes) {
  auto model = load();
  model->set_state(random_state(*model, 3)).value();
  const auto records = some_records();
  PerSampleGradients per_sample;
  auto sums = zero_sums(*model);
  const double loss = per_sample_loss(*model, pointers(records), per_sample);
  const double same_loss = summed_loss(*model, pointers(records), sums);
  EXPECT_NEAR(loss, same_loss, 1e-6 * loss);
  ASSERT_EQ(per_sample.tensors.size(), sums.size());
  for (std::size_t t = 0; t < sums.size(); ++t) {
    EXPECT_EQ(per_sample.tensors[t].name, model->parameter_names()[t]);
    std::vector<float> total(static_cast<std::size_t>(element_count(per_sample.tensors[t].shape)));
    for (std::int64_t i = 0; i < per_sample.sample_count; ++i) {
      const auto row = sample_gradient(model->stream(), per_sample.tensors[t], i);
      for (std::size_t j = 0; j < total.size(); ++j) total[j] += row[j];
    }
    EXPECT_LT(relative_error(host(*model, sums[t]), total), 1e-5) << model->parameter_names()[t];
  }
}

TEST_P(TrainedTensors, GiveARecordTheSameGradientAloneAsInABatch) {
  auto model = load();
  model->set_state(random_state(*model, 3)).value();
  const auto records = some_records();
  PerSampleGradients together, alone;
  model->per_sample_gradients(pointers(records), together);
  std::vector<std::vector<std::vector<float>>> expected(records.size());
  for (std::size_t i = 0; i < records.size(); ++i)
    for (const auto& gradient : together.tensors)
      expected[i].push_back(sample_gradient(model->stream(), gradient, static_cast<std::int64_t>(i)));
  for (std::size_t i = 0; i < records.size(); ++i) {
    const std::vector<const TokenizedText*> one = {&records[i]};
    model->per_sample_gradients(one, alone);
    for (std::size_t t = 0; t < alone.tensors.size(); ++t) {
      // A record of one token has attention weights of exactly 1, and no gradient at all behind queries and keys.
      if (records[i].tokens.size() == 1 && (alone.tensors[t].name.find("query") != std::string::npos ||
                                            alone.tensors[t].name.find("key") != std::string::npos))
        continue;
      EXPECT_LT(relative_error(sample_gradient(model->stream(), alone.tensors[t], 0), expected[i][t]), 1e-5)
          << alone.tensors[t].name << " of sample " << i;
    }
  }
}

TEST_P(TrainedTensorsOnAGpu, HaveTheGradientsOfTheCpu) {
  const auto gpu = kernels::open_device("cuda");
  if (!gpu) GTEST_SKIP() << gpu.error().message;
  const ClassifierConfig config = config_of(GetParam());
  const auto on_cpu = load_golden(config), on_gpu = load_golden(config, **gpu);
  const TensorMap state = random_state(*on_cpu, 3);
  on_cpu->set_state(state).value();
  on_gpu->set_state(state).value();
  const auto records = some_records();
  PerSampleGradients expected, actual;
  const double loss = per_sample_loss(*on_cpu, pointers(records), expected);
  EXPECT_NEAR(per_sample_loss(*on_gpu, pointers(records), actual), loss, 1e-6 * loss);
  ASSERT_EQ(actual.tensors.size(), expected.tensors.size());
  for (std::size_t t = 0; t < expected.tensors.size(); ++t) {
    std::vector<float> all_expected, all_actual;
    for (std::int64_t i = 0; i < expected.sample_count; ++i) {
      const auto row = sample_gradient(on_cpu->stream(), expected.tensors[t], i),
                 same = sample_gradient(on_gpu->stream(), actual.tensors[t], i);
      all_expected.insert(all_expected.end(), row.begin(), row.end());
      all_actual.insert(all_actual.end(), same.begin(), same.end());
    }
    EXPECT_LT(relative_error(all_actual, all_expected), 1e-5) << expected.tensors[t].name;
  }
  auto sums = zero_sums(*on_cpu), gpu_sums = zero_sums(*on_gpu);
  on_cpu->summed_gradients(pointers(records), sums);
  on_gpu->summed_gradients(pointers(records), gpu_sums);
  for (std::size_t t = 0; t < sums.size(); ++t)
    EXPECT_LT(relative_error(host(*on_gpu, gpu_sums[t]), host(*on_cpu, sums[t])), 1e-5) << on_cpu->parameter_names()[t];
}

const std::vector<Trained>& all_trained() {
  static const std::vector<Trained> all = {
      Trained{"query_value", {"query", "value"}, false, HeadTraining::out_proj},
      Trained{"query_value_with_a_and_the_head", {"query", "value"}, true, HeadTraining::all},
      Trained{"keys_alone", {"key"}, false, HeadTraining::frozen},
      Trained{"every_layer_with_a",
              {"query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"},
              true,
              HeadTraining::all},
      Trained{"intermediate_alone", {"intermediate.dense"}, false, HeadTraining::frozen},
      Trained{"outputs_with_a", {"output.dense"}, true, HeadTraining::frozen},
      Trained{"attention_outputs", {"attention.output.dense"}, false, HeadTraining::out_proj},
      Trained{"head_alone", {}, false, HeadTraining::all}};
  return all;
}
INSTANTIATE_TEST_SUITE_P(Classifier, TrainedTensors,
                         testing::Combine(testing::Values("cpu", "cuda"), testing::ValuesIn(all_trained())),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + "_" + std::get<1>(info.param).name;
                         });
INSTANTIATE_TEST_SUITE_P(Classifier, TrainedTensorsOnAGpu, testing::ValuesIn(all_trained()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Classifier, ListsItsAdaptersInForwardOrderWithTheirShapes) {
  ClassifierConfig config = golden_config();
  config.adapter.targets = {"output.dense", "query", "intermediate.dense"};
  auto model = load_golden(config);
  std::vector<std::string> names;
  for (const auto& layer : model->adapted_layers())
    if (layer.name.starts_with("roberta.encoder.layer.1.")) names.push_back(layer.name.substr(24));
  // As in PEFT, "output.dense" names both layers whose path ends so.
  EXPECT_EQ(names, (std::vector<std::string>{"attention.self.query", "attention.output.dense", "intermediate.dense",
                                             "output.dense"}));
  EXPECT_EQ(model->adapted_layers()[2].out_features, 128);
  EXPECT_EQ(model->adapted_layers()[3].in_features, 128);
}

TEST(Classifier, GivesARecordTheSameLogitsAloneAsInABatch) {
  auto model = load_golden();
  model->set_state(random_state(*model, 5)).value();
  const auto records = some_records();
  const HostTensor together = model->logits(pointers(records));
  for (std::size_t i = 0; i < records.size(); ++i) {
    const std::vector<const TokenizedText*> one = {&records[i]};
    EXPECT_LT(relative_error(model->logits(one).as<float>(), together.as<float>().subspan(3 * i, 3)), 1e-5);
  }
}

TEST(Classifier, GivesTheSameNumbersEachTime) {
  auto model = load_golden();
  const auto records = random_records(std::vector<std::size_t>(80, 30), 512, 3, 1);
  auto first = zero_sums(*model), second = zero_sums(*model);
  model->summed_gradients(pointers(records), first);
  model->logits(pointers(records));
  model->summed_gradients(pointers(records), second);
  for (std::size_t i = 0; i < first.size(); ++i) EXPECT_EQ(host(*model, first[i]), host(*model, second[i]));
}

TEST(Classifier, TakesAnEmptyBatch) {
  auto model = load_golden();
  PerSampleGradients gradients;
  EXPECT_EQ(per_sample_loss(*model, {}, gradients), 0.0);
  EXPECT_EQ(gradients.sample_count, 0);
  auto sums = zero_sums(*model);
  EXPECT_EQ(summed_loss(*model, {}, sums), 0.0);
  EXPECT_EQ(kernels::squared_norm(model->stream(), sums), 0.0);
  EXPECT_EQ(model->logits({}).element_count(), 0);
}

TEST(Classifier, SetsAndReturnsItsWholeState) {
  auto model = load_golden();
  const TensorMap state = random_state(*model, 9);
  model->set_state(state).value();
  EXPECT_EQ(model->state(), state);
  EXPECT_TRUE(state.contains("roberta.encoder.layer.2.attention.self.value.lora_A"));
  EXPECT_TRUE(state.contains("classifier.out_proj.bias"));
  TensorMap wrong;
  wrong["classifier.out_proj.bias"] = HostTensor(DType::f32, {3});
  wrong["classifier.out_proj.weight"] = HostTensor(DType::f32, {2, 64});
  const Status refused = model->set_state(wrong);
  EXPECT_EQ(refused.error().code, Errc::invalid_argument);
  EXPECT_NE(refused.error().message.find("classifier.out_proj.weight"), std::string::npos);
  EXPECT_EQ(model->state(), state) << "a refused state must change nothing";
}

TEST(Classifier, DrawsAHeadThatTheBaseLacksFromItsSeed) {
  ClassifierConfig config = golden_config();
  config.label_count = 5;  // the golden model's head has 3 labels
  config.head_seed = 1;
  auto first = load_golden(config), same = load_golden(config);
  config.head_seed = 2;
  auto other = load_golden(config);
  const auto weights = [](TextClassifier& model) { return model.state().at("classifier.out_proj.weight"); };
  EXPECT_EQ(weights(*first), weights(*same));
  EXPECT_NE(weights(*first), weights(*other));
  double squares = 0;
  const HostTensor head = weights(*first);
  for (float value : head.as<float>()) squares += static_cast<double>(value) * value;
  EXPECT_NEAR(std::sqrt(squares / (5 * 64)), 0.02, 0.004);  // initializer_range
  EXPECT_EQ(first->state().at("classifier.dense.weight"), load_golden()->state().at("classifier.dense.weight"));
}

TEST(Classifier, RefusesWhatItCannotDoWithAReason) {
  const auto error = [](auto change) {
    ClassifierConfig config = golden_config();
    change(config);
    return TextClassifier::load(kernels::cpu_device(), golden_directory(), config).error();
  };
  EXPECT_NE(error([](auto& c) { c.adapter.targets = {"quarry"}; }).message.find("\"quarry\""), std::string::npos);
  EXPECT_EQ(error([](auto& c) { c.adapter.rank = 65; }).code, Errc::invalid_argument);
  EXPECT_EQ(error([](auto& c) { c.adapter.rank = 0; }).code, Errc::invalid_argument);
  EXPECT_EQ(error([](auto& c) { c.label_count = 1; }).code, Errc::invalid_argument);
  EXPECT_NE(error([](auto& c) { c.max_tokens = 65; }).message.find("64"), std::string::npos);
  EXPECT_EQ(TextClassifier::load(kernels::cpu_device(), "/nowhere", golden_config()).error().code, Errc::not_found);
}

TEST(Classifier, RefusesRecordsThatTheModelCannotHold) {
  auto model = load_golden();
  auto sums = zero_sums(*model);
  const TokenizedText long_one{std::vector<std::int32_t>(65, 5), 0}, bad_token{{0, 512, 2}, 0}, bad_label{{0, 5, 2}, 3};
  for (const TokenizedText* record : {&long_one, &bad_token, &bad_label}) {
    const std::vector<const TokenizedText*> one = {record};
    EXPECT_THROW(model->summed_gradients(one, sums), std::invalid_argument);
  }
}

// The explicit form: n blocks B_i share A, and y += (alpha/rank)·(Σ B_i)·A·x. As a plain LoRA of rank n·r it has A n
// times below itself and the blocks side by side, with alpha n times larger so that alpha/rank is the same.
TEST(BlockLora, TrainingTheSumEqualsTrainingTheBlocksAtALearningRateNTimesLarger) {
  constexpr std::int64_t n = 3, r = 4;
  ClassifierConfig summed_config = golden_config(), explicit_config = golden_config();
  summed_config.adapter.blocks = n;
  explicit_config.adapter.rank = n * r;
  explicit_config.adapter.alpha = n * summed_config.adapter.alpha;
  auto summed = load_golden(summed_config), blocks = load_golden(explicit_config);

  // The same start: A from the golden adapter, blocks that differ and whose sum the other model has.
  TensorMap summed_state = golden_adapter_state(), blocks_state = summed_state;
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  for (auto& [name, tensor] : blocks_state) {
    if (name.ends_with(".lora_A")) {
      HostTensor stacked(DType::f32, {n * r, tensor.shape()[1]});
      for (std::int64_t i = 0; i < n; ++i)
        std::ranges::copy(tensor.as<float>(), stacked.as<float>().begin() + i * tensor.element_count());
      tensor = stacked;
    } else if (name.ends_with(".lora_B")) {
      HostTensor beside(DType::f32, {tensor.shape()[0], n * r}), sum(DType::f32, tensor.shape());
      for (std::int64_t row = 0; row < tensor.shape()[0]; ++row)
        for (std::int64_t j = 0; j < n * r; ++j) {
          const float value = normal(random);
          beside.as<float>()[static_cast<std::size_t>(row * n * r + j)] = value;
          sum.as<float>()[static_cast<std::size_t>(row * r + j % r)] += value;
        }
      tensor = beside;
      summed_state[name] = sum;
    }
  }
  summed->set_state(summed_state).value();
  blocks->set_state(blocks_state).value();

  const auto records = some_records();
  constexpr double learning_rate = 0.01;
  for (int step = 0; step < 5; ++step) {
    EXPECT_LT(
        relative_error(summed->logits(pointers(records)).as<float>(), blocks->logits(pointers(records)).as<float>()),
        1e-4);
    for (TextClassifier* model : {summed.get(), blocks.get()}) {
      auto gradients = zero_sums(*model);
      model->summed_gradients(pointers(records), gradients);
      for (std::size_t i = 0; i < gradients.size(); ++i) {
        const bool of_the_sum = model == summed.get() && model->parameter_names()[i].ends_with(".lora_B");
        kernels::axpy(model->stream(), -learning_rate * (of_the_sum ? n : 1), gradients[i], model->parameters()[i]);
      }
    }
  }
  const TensorMap trained = blocks->state(), sums = summed->state();
  for (const auto& [name, tensor] : sums) {
    if (!name.ends_with(".lora_B")) continue;
    std::vector<float> total(static_cast<std::size_t>(tensor.element_count()));
    for (std::int64_t row = 0; row < tensor.shape()[0]; ++row)
      for (std::int64_t j = 0; j < n * r; ++j)
        total[static_cast<std::size_t>(row * r + j % r)] +=
            trained.at(name).as<float>()[static_cast<std::size_t>(row * n * r + j)];
    EXPECT_LT(relative_error(tensor.as<float>(), total), 1e-4) << name;
  }
}

std::filesystem::path mini_base() {
  const char* shared = std::getenv("TRIBUTARY_SHARED");
  const std::filesystem::path source(TRIBUTARY_SOURCE_DIR);
  return (shared ? std::filesystem::path(shared) : source.parent_path() / "shared") / "base/roberta-mini-imdb";
}

TEST(ClassifierMemory, OfAPrivateStepIsAtMostFivePercentMoreAt128Tokens) {
  if (!std::filesystem::exists(mini_base() / "config.json")) GTEST_SKIP() << mini_base() << " is not there";
  for (Precision precision : {Precision::fp32, Precision::bf16}) {
    ClassifierConfig config;
    config.precision = precision;
    auto loaded = TextClassifier::load(kernels::cpu_device(), mini_base(), config);
    if (!loaded && loaded.error().code == Errc::unsupported) continue;
    TextClassifier& with_privacy = **loaded;
    auto without = TextClassifier::load(kernels::cpu_device(), mini_base(), config).value();
    const auto count = static_cast<std::size_t>(with_privacy.suggested_micro_batch(128));
    const auto records = random_records(std::vector<std::size_t>(count, 128), 8192, 2, 1);
    PerSampleGradients gradients;
    with_privacy.per_sample_gradients(pointers(records), gradients);
    loss_of(*without, records);
    // What the gradients hold is counted: all samples of the micro-batch.
    EXPECT_GE(with_privacy.peak_workspace_bytes(), count * 12 * 256 * 8 * sizeof(float));
    EXPECT_LE(static_cast<double>(with_privacy.peak_workspace_bytes()),
              1.05 * static_cast<double>(without->peak_workspace_bytes()));
  }
}

TEST(ClassifierMemory, DoesNotGrowWithTheNumberOfRecordsToClassify) {
  auto few = load_golden(), many = load_golden();
  const std::size_t lanes = static_cast<std::size_t>(kernels::lane_count(few->stream()));
  few->logits(pointers(random_records(std::vector<std::size_t>(17 * lanes, 60), 512, 3, 1)));
  many->logits(pointers(random_records(std::vector<std::size_t>(510 * lanes, 60), 512, 3, 1)));
  EXPECT_LT(static_cast<double>(many->peak_workspace_bytes()), 1.1 * static_cast<double>(few->peak_workspace_bytes()));
}

// The CPU with less memory, and with shapes that it wants padded.
class SmallDevice final : public kernels::Device {
 public:
  kernels::DeviceKind kind() const override { return cpu().kind(); }
  std::string name() const override { return "a small device"; }
  std::size_t free_memory() const override { return cpu().free_memory(); }
  std::unique_ptr<kernels::Stream> make_stream() override { return std::make_unique<SmallStream>(*this); }
  void* allocate(std::size_t bytes) override {
    const std::lock_guard lock(mutex_);
    if (in_use + bytes > limit) throw std::bad_alloc();
    void* const pointer = cpu().allocate(bytes);
    in_use += bytes;
    peak = std::max(peak, in_use);
    return pointer;
  }
  void deallocate(void* pointer, std::size_t bytes) override {
    const std::lock_guard lock(mutex_);
    in_use -= bytes;
    cpu().deallocate(pointer, bytes);
  }
  void copy_from_host(kernels::Stream& stream, void* to, const void* from, std::size_t bytes) override {
    cpu().copy_from_host(stream, to, from, bytes);
  }
  void copy_to_host(kernels::Stream& stream, void* to, const void* from, std::size_t bytes) override {
    cpu().copy_to_host(stream, to, from, bytes);
  }
  void copy(kernels::Stream& stream, void* to, const void* from, std::size_t bytes) override {
    cpu().copy(stream, to, from, bytes);
  }
  void fill_zero(kernels::Stream& stream, void* to, std::size_t bytes) override { cpu().fill_zero(stream, to, bytes); }

  std::int64_t row_class(std::int64_t rows) const override { return (rows + class_step - 1) / class_step * class_step; }

  std::size_t limit = std::numeric_limits<std::size_t>::max(), in_use = 0, peak = 0;
  std::int64_t class_step = 1;

 private:
  struct SmallStream final : kernels::Stream {
    explicit SmallStream(kernels::Device& on) : its_device(on) {}
    kernels::Device& device() override { return its_device; }
    void synchronize() override {}
    kernels::Device& its_device;
  };
  static kernels::Device& cpu() { return kernels::cpu_device(); }
  std::mutex mutex_;
};

TEST(ClassifierMemory, ADeviceThatRunsOutGivesTheSameGradientsInSmallerChunks) {
  SmallDevice device;
  PerSampleGradients expected, actual;
  const auto measured = load_golden(golden_config(), device);
  const auto lanes = static_cast<std::size_t>(kernels::lane_count(measured->stream()));
  const auto records = random_records(std::vector<std::size_t>(75 * lanes, 40), 512, 3, 1);
  const auto last = static_cast<std::int64_t>(records.size()) - 1;
  const std::size_t loaded = device.in_use;
  const double loss = per_sample_loss(*measured, pointers(records), expected);
  std::vector<std::vector<float>> rows;
  for (const auto& gradient : expected.tensors) rows.push_back(sample_gradient(measured->stream(), gradient, last));
  auto sums = zero_sums(*measured);
  measured->summed_gradients(pointers(records), sums);
  const std::size_t needed = device.peak - loaded;

  // A second model beside it, with two fifths of what the first one took for itself.
  const auto model = load_golden(golden_config(), device);
  device.limit = device.in_use + needed * 2 / 5;
  EXPECT_NEAR(per_sample_loss(*model, pointers(records), actual), loss, 1e-6 * loss);
  EXPECT_EQ(actual.sample_count, last + 1);
  for (std::size_t t = 0; t < rows.size(); ++t)
    EXPECT_LT(relative_error(sample_gradient(model->stream(), actual.tensors[t], last), rows[t]), 1e-5);
  auto smaller_sums = zero_sums(*model);
  model->summed_gradients(pointers(records), smaller_sums);
  for (std::size_t t = 0; t < sums.size(); ++t)
    EXPECT_LT(relative_error(host(*model, smaller_sums[t]), host(*measured, sums[t])), 1e-5);
  EXPECT_LE(device.in_use, device.limit);

  device.limit = device.in_use;  // nothing at all
  EXPECT_THROW(load_golden(golden_config(), device), std::bad_alloc);
}

// A padded batch has further records, which must change nothing: not the gradients, not the losses, not the logits.
TEST(ClassifierPadding, ChangesNoRecordsNumbers) {
  for (const std::int64_t step : {2, 7, 32, 100}) {
    for (const std::vector<std::size_t>& lengths :
         {std::vector<std::size_t>{7, 1, 16, 24, 33, 3, 12, 48, 5}, {1}, {1, 1, 1}, std::vector<std::size_t>(32, 40)}) {
      SCOPED_TRACE("multiples of " + std::to_string(step) + ", " + std::to_string(lengths.size()) + " records");
      SmallDevice device;
      device.class_step = step;
      ClassifierConfig config = golden_config();
      config.adapter.train_a = true;
      const auto plain = load_golden(config), padded = load_golden(config, device);
      const TensorMap state = random_state(*plain, 3);
      plain->set_state(state).value();
      padded->set_state(state).value();
      const auto records = random_records(lengths, 512, 3, 7);
      PerSampleGradients expected, actual;
      const double loss = per_sample_loss(*plain, pointers(records), expected);
      EXPECT_NEAR(per_sample_loss(*padded, pointers(records), actual), loss, 1e-6 * loss);
      EXPECT_EQ(actual.sample_count, static_cast<std::int64_t>(records.size()));
      for (std::size_t t = 0; t < expected.tensors.size(); ++t)
        for (std::int64_t i = 0; i < expected.sample_count; ++i)
          EXPECT_LT(relative_error(sample_gradient(padded->stream(), actual.tensors[t], i),
                                   sample_gradient(plain->stream(), expected.tensors[t], i)),
                    1e-5)
              << expected.tensors[t].name << " of sample " << i;
      auto sums = zero_sums(*plain), padded_sums = zero_sums(*padded);
      EXPECT_NEAR(summed_loss(*padded, pointers(records), padded_sums), summed_loss(*plain, pointers(records), sums),
                  1e-6 * loss);
      for (std::size_t t = 0; t < sums.size(); ++t)
        EXPECT_LT(relative_error(host(*padded, padded_sums[t]), host(*plain, sums[t])), 1e-5)
            << plain->parameter_names()[t];
      EXPECT_LT(
          relative_error(padded->logits(pointers(records)).as<float>(), plain->logits(pointers(records)).as<float>()),
          1e-5);
    }
  }
}

// A masked-language-model base has no head: it trains from a seeded one. One overfitted batch shows that gradients,
// parameters and update fit together.
TEST(Classifier, LearnsABatchByPlainGradientDescent) {
  if (!std::filesystem::exists(mini_base() / "config.json")) GTEST_SKIP() << mini_base() << " is not there";
  ClassifierConfig config;
  auto model = TextClassifier::load(kernels::cpu_device(), mini_base(), config).value();
  const auto records = random_records(std::vector<std::size_t>(16, 12), 8192, 2, 3);
  const double before = loss_of(*model, records);
  for (int step = 0; step < 30; ++step) {
    auto gradients = zero_sums(*model);
    model->summed_gradients(pointers(records), gradients);
    for (std::size_t i = 0; i < gradients.size(); ++i)
      kernels::axpy(model->stream(), -0.5 / 16, gradients[i], model->parameters()[i]);
  }
  EXPECT_NEAR(before / 16, std::log(2.0), 0.1);
  EXPECT_LT(loss_of(*model, records), 0.5 * before);
}

}  // namespace
}  // namespace trib::models
