#include "tasks/lora_text/benchmark.h"

#include <spdlog/fmt/fmt.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <new>
#include <optional>
#include <utility>

#include "common/files.h"
#include "common/random.h"
#include "kernels/activation.h"
#include "kernels/gemm.h"
#include "models/random_checkpoint.h"
#include "models/roberta_checkpoint.h"
#include "privacy/ledger.h"
#include "tasks/lora_text/base_model.h"
#include "tasks/lora_text/records.h"
#include "tasks/lora_text/trainer.h"

namespace trib::tasks::lora_text {
namespace {

using models::TokenizedText;
using privacy::RecordStore;

constexpr std::size_t batch_count = 4;  // that take turns, so that no batch is served from a cache
// Before steps are timed. Where work is recorded, that of a batch's shapes is when the batch comes for the second time.
constexpr std::size_t warm_steps = 2, warm_steps_recording = 2 * batch_count;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// The job whose model, adapter and training sections the request's settings speak of.
Result<JobSpec> job_of(const BenchmarkRequest& request) {
  const std::string text = fmt::format(
      "[job]\nname = \"benchmark\"\ntask = \"lora_text\"\nrounds = 1\n"
      "[model]\nbase = \"benchmark\"\nlabels = [\"a\", \"b\"]\nmax_tokens = {}\n"
      "[training]\nbatch_size = {}\nlearning_rate = 1e-4\n",
      request.max_tokens, request.batch);
  std::vector<std::string> overrides = {"model.precision=\"" + request.precision + "\""};
  overrides.insert(overrides.end(), request.settings.begin(), request.settings.end());
  TRIB_ASSIGN(const ConfigReader config, ConfigReader::from_text(text, "the benchmark's settings", overrides));
  return read_job_text(config.to_toml(), "the benchmark's settings");
}

// batch_count · batch records with the lengths that were asked for.
Result<std::vector<TokenizedText>> make_records(const BenchmarkRequest& request, const models::RobertaConfig& roberta,
                                                std::int64_t label_count) {
  const auto wanted = batch_count * static_cast<std::size_t>(request.batch);
  std::vector<TokenizedText> records;
  if (!request.data.empty()) {
    if (request.base.empty())
      return Error{
          Errc::invalid_argument,
          "records of a file need a model with a tokenizer: name it with --base, or give lengths with --tokens"};
    TRIB_ASSIGN(const models::Tokenizer tokenizer, models::Tokenizer::load(request.base));
    const TableFormat format{.format = request.format, .text_column = request.text_column, .label_column = ""};
    TRIB_ASSIGN(const data::TextTable table, read_table(request.data, format));
    TRIB_ASSIGN(records, tokenize(table, {}, tokenizer, request.max_tokens));
    for (std::size_t i = 0; records.size() < wanted; ++i) records.push_back(records[i]);
    records.resize(wanted);
  } else {
    if (request.lengths.empty()) return Error{Errc::invalid_argument, "no length of a record is given"};
    ChaCha20Random random(RandomKey::from_seed(1));
    for (std::size_t i = 0; i < wanted; ++i) {
      const std::int64_t length = request.lengths[i % request.lengths.size()];
      if (length < 1 || length > roberta.longest_record())
        return Error{Errc::invalid_argument,
                     fmt::format("records of {} tokens: the model takes 1 to {}", length, roberta.longest_record())};
      TokenizedText& record = records.emplace_back();
      for (std::int64_t t = 0; t < length; ++t)
        record.tokens.push_back(
            static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(roberta.vocabulary_size))));
    }
  }
  for (std::size_t i = 0; i < records.size(); ++i)
    records[i].label = static_cast<std::int32_t>(i % static_cast<std::size_t>(label_count));
  return records;
}

// Operations of the frozen products for one batch, forward and back to the adapters' inputs; a multiplication and an
// addition are two. The last layer's queries, and all behind its attention, are computed for one token a record; the
// first layer's gradient ends at its projections (docs/performance.md, "Counted first").
double frozen_operations(const models::RobertaConfig& roberta, double tokens, double records) {
  const auto d = static_cast<double>(roberta.hidden_size), f = static_cast<double>(roberta.intermediate_size);
  const auto layers = static_cast<double>(roberta.layers);
  const double layer = 2.0 * (4.0 * d * d + 2.0 * d * f), keys_values = 2.0 * 2.0 * d * d;
  const double first_backward = 2.0 * (d * d + 2.0 * d * f), one_token = layer - keys_values;
  double a_token = (layers - 1.0) * layer + keys_values;
  if (layers > 1.0) a_token += (layers - 2.0) * layer + keys_values + first_backward;
  return a_token * tokens + 2.0 * one_token * records;
}

// Operations a second of a product of (rows, size) with (size, size) in the type of the model's frozen ones.
double product_rate(kernels::Device& device, DType compute, kernels::Float32Products float32_products,
                    std::int64_t rows, std::int64_t size) {
  const auto stream = device.make_stream();
  ChaCha20Random random(RandomKey::from_seed(2));
  const auto random_tensor = [&](Shape shape) {
    HostTensor host(DType::f32, std::move(shape));
    for (float& value : host.as<float>()) value = static_cast<float>(random.next() >> 40) * 0x1p-24f - 0.5f;
    return kernels::Tensor::from_host(*stream, host);
  };
  const kernels::PackedMatrix weights(*stream, random_tensor({size, size}), false, compute, float32_products);
  kernels::Tensor x = random_tensor({rows, size});
  if (compute != DType::f32) {
    const kernels::Tensor narrow(device, compute, x.shape());
    kernels::to_bf16(*stream, x, narrow);
    x = narrow;
  }
  const kernels::Tensor y(device, kernels::activation_types(device, compute).products, {rows, size});
  const int products = device.kind() == kernels::DeviceKind::cpu ? 2 : 10;
  std::vector<double> seconds;
  double total = 0.0;
  for (int run = 0; run < 4 || total < 0.2; ++run) {
    stream->synchronize();
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < products; ++i) kernels::packed_product(*stream, x, weights, {}, false, y);
    stream->synchronize();
    const double took = seconds_since(begin);
    if (run > 0) seconds.push_back(took / products);
    total += took;
  }
  return 2.0 * static_cast<double>(rows) * static_cast<double>(size) * static_cast<double>(size) / median(seconds);
}

// What no step passes: the rate of a product that is large for the device, and smaller where its memory is short.
double product_limit(kernels::Device& device, models::Precision precision) {
  // bfloat16 is what every precision but fp32 and tf32 keeps its activations in.
  const bool is_tf32 = precision == models::Precision::tf32;
  const DType compute = is_tf32 || precision == models::Precision::fp32 ? DType::f32 : DType::bf16;
  const auto products = is_tf32 ? kernels::Float32Products::tf32 : kernels::Float32Products::exact;
  if (device.kind() == kernels::DeviceKind::cpu) return product_rate(device, compute, products, 4096, 1024);
  for (std::int64_t size = 8192;; size /= 2) {
    try {
      return product_rate(device, compute, products, size, size);
    } catch (const std::bad_alloc&) {
      if (size <= 1024) throw;
      device.trim();
    }
  }
}

// A session of so many steps that each take the whole batch. Its ledger is this process's own and forgotten with it.
struct Steps {
  static Result<Steps> open(bool is_private, std::int64_t batch, std::int64_t steps) {
    Steps opened;
    privacy::Charge charge{.job = is_private ? "private" : "plain",
                           .round = 1,
                           .data_set = "benchmark",
                           .declared_records = batch,
                           .target_delta = 0.5 / static_cast<double>(batch),
                           .mechanism = {}};
    charge.mechanism.kind =
        is_private ? privacy::MechanismKind::poisson_subsampled_gaussian : privacy::MechanismKind::none;
    charge.mechanism.sample_rate = 1.0;
    charge.mechanism.noise_multiplier = is_private ? 1.0 : 0.0;
    charge.mechanism.clip_norm = is_private ? 1.0 : 0.0;
    charge.mechanism.steps = steps;
    const privacy::Budget budget{.data_set = "benchmark", .epsilon = 1e300, .delta = charge.target_delta};
    TRIB_ASSIGN(opened.ledger, privacy::Ledger::in_memory({budget}, system_clock()));
    TRIB_ASSIGN(privacy::PrivacySession session,
                privacy::PrivacySession::open(*opened.ledger, charge, true, RandomKey::from_seed(3), system_clock()));
    opened.session = std::make_unique<privacy::PrivacySession>(std::move(session));
    return opened;
  }
  std::unique_ptr<privacy::Ledger> ledger;
  std::unique_ptr<privacy::PrivacySession> session;
};

// Steps one behind the other as a job takes them: where a device works beside the host, a step is submitted before the
// one before it is reported.
class Bench {
 public:
  Bench(const Replicas& replicas, const std::deque<RecordStore<TokenizedText>>& batches, Trainer& trainer)
      : replicas_(replicas), batches_(batches), trainer_(trainer) {}

  // Carries out `count` steps of the session, each with the next batch, and waits for the devices at the end. Gives the
  // seconds of one.
  Result<double> run(privacy::PrivacySession& session, std::size_t count) {
    const auto begin = std::chrono::steady_clock::now();
    std::optional<privacy::PendingStep> last;
    const auto end_last = [&]() -> Status {
      if (!last) return {};
      TRIB_ASSIGN(const privacy::StepReport report, std::exchange(last, std::nullopt)->report());
      micro_batch_ = report.micro_batch;
      return {};
    };
    for (std::size_t i = 0; i < count; ++i) {
      TRIB_ASSIGN(privacy::PendingStep submitted, trainer_.submit(session, batches_[i % batches_.size()]));
      TRIB_TRY(end_last());
      last = std::move(submitted);
      if (last->ready()) TRIB_TRY(end_last());
    }
    TRIB_TRY(end_last());
    for (const auto& model : replicas_.models) model->classifier->stream().synchronize();
    return seconds_since(begin) / static_cast<double>(count);
  }
  // Records at once in the last step that was reported.
  std::int64_t micro_batch() const { return micro_batch_; }

  bool records() const {
    return std::ranges::any_of(replicas_.models,
                               [](const auto& model) { return model->classifier->stream().records(); });
  }
  void trim() {
    for (const auto& model : replicas_.models) model->classifier->stream().device().trim();
  }
  std::uint64_t peak_memory() const {
    std::uint64_t peak = 0;
    for (const auto& model : replicas_.models)
      peak = std::max<std::uint64_t>(peak, model->classifier->stream().device().peak_memory());
    return peak;
  }

 private:
  const Replicas& replicas_;
  const std::deque<RecordStore<TokenizedText>>& batches_;
  Trainer& trainer_;
  std::int64_t micro_batch_ = 0;
};

// A directory that goes away.
struct ScratchDirectory {
  ~ScratchDirectory() {
    std::error_code ignored;
    if (!path.empty()) std::filesystem::remove_all(path, ignored);
  }
  std::filesystem::path path;
};

// Everything but the product's rate, with the model gone again at the end.
Result<TrainingBenchmark> time_steps(const BenchmarkRequest& request, const Config& config, Progress& progress) {
  ScratchDirectory scratch;
  std::filesystem::path base = request.base;
  if (base.empty()) {
    TRIB_ASSIGN(const models::EncoderSize size, models::roberta_size(request.size));
    std::string path = (std::filesystem::temp_directory_path() / "tributary-benchmark-XXXXXX").native();
    if (::mkdtemp(path.data()) == nullptr) return error_from_errno(errno, "creating a temporary directory");
    base = scratch.path = path;
    progress.fraction("writing random weights", 0.0);
    TRIB_TRY(models::write_random_checkpoint(base, size));
  }
  TRIB_ASSIGN(const models::RobertaConfig roberta, models::read_roberta_config(base));
  TRIB_ASSIGN(std::vector<TokenizedText> records, make_records(request, roberta, config.classifier.label_count));

  TrainingBenchmark result;
  result.model = request.base.empty()      ? "RoBERTa-" + request.size + " with random weights"
                 : base.filename().empty() ? base.parent_path().filename().native()
                                           : base.filename().native();
  result.device = kernels::describe(request.devices);
  result.batch = request.batch;
  double tokens = 0.0;
  for (const TokenizedText& record : records) {
    tokens += static_cast<double>(record.tokens.size());
    result.longest_tokens = std::max(result.longest_tokens, static_cast<std::int64_t>(record.tokens.size()));
  }
  result.mean_tokens = tokens / static_cast<double>(records.size());

  progress.fraction("loading the model", 0.0);
  models::ClassifierConfig classifier = config.classifier;
  if (request.recorded_shapes) classifier.recorded_shapes = *request.recorded_shapes;
  Replicas replicas;
  std::vector<kernels::Stream*> streams;
  for (kernels::Device* device : request.devices) {
    auto model = std::make_shared<SharedModel>();
    device->trim();
    const std::size_t free_before = device->free_memory();
    TRIB_ASSIGN(model->classifier, models::TextClassifier::load(*device, base, classifier));
    device->trim();
    if (device->kind() != kernels::DeviceKind::cpu)
      result.model_memory =
          std::max<std::uint64_t>(result.model_memory, free_before - std::min(free_before, device->free_memory()));
    streams.push_back(&model->classifier->stream());
    replicas.models.push_back(std::move(model));
  }
  if (replicas.models.size() > 1) {
    TRIB_ASSIGN(std::unique_ptr<kernels::Collective> collective, kernels::make_collective(streams));
    result.collective = collective->name();
    replicas.collective = std::move(collective);
  }
  std::deque<RecordStore<TokenizedText>> batches;
  for (std::size_t b = 0; b < batch_count; ++b) {
    const auto first = records.begin() + static_cast<std::ptrdiff_t>(b) * request.batch;
    batches.emplace_back(std::vector<TokenizedText>(first, first + request.batch));
  }

  Trainer trainer(replicas, config, result.longest_tokens);
  Bench bench(replicas, batches, trainer);
  const std::size_t warm = bench.records() ? warm_steps_recording : warm_steps;
  // Where steps are submitted ahead, what the host sees as a step's end is its own lateness too, which differs between
  // private steps and others. So blocks of one kind are timed, from a device at rest to a device at rest, and the first
  // of a pair of blocks is private and plain in turn. Both of a pair take the same batches.
  const std::size_t block = bench.records() ? batch_count : 1;
  const std::size_t pairs = (static_cast<std::size_t>(request.steps) + block - 1) / block;
  const auto most_steps = static_cast<std::int64_t>(warm + 1 + block * pairs);
  TRIB_ASSIGN(const Steps with_privacy, Steps::open(true, request.batch, most_steps));
  TRIB_ASSIGN(const Steps without, Steps::open(false, request.batch, most_steps));
  TRIB_TRY(bench.run(*with_privacy.session, warm));
  bench.trim();  // the peak of steps as they are once memory has its size
  TRIB_TRY(bench.run(*with_privacy.session, 1));
  result.micro_batch = bench.micro_batch();
  result.peak_memory = bench.peak_memory();
  result.memory_of_device = result.peak_memory > 0;
  TRIB_TRY(bench.run(*without.session, warm));

  std::vector<double> private_seconds, plain_seconds, ratios;
  for (std::size_t i = 0; i < pairs; ++i) {
    if (progress.cancelled()) return Error{Errc::cancelled, "interrupted"};
    for (const bool is_private : {i % 2 == 0, i % 2 != 0}) {
      TRIB_ASSIGN(const double seconds, bench.run(is_private ? *with_privacy.session : *without.session, block));
      (is_private ? private_seconds : plain_seconds).push_back(seconds);
    }
    ratios.push_back(private_seconds.back() / plain_seconds.back());
    progress.fraction("timing steps", static_cast<double>(i + 1) / static_cast<double>(pairs));
  }
  result.private_seconds = median(private_seconds);
  result.plain_seconds = median(plain_seconds);
  result.overhead = median(ratios);
  const auto batch = static_cast<double>(request.batch);
  result.operations = frozen_operations(roberta, result.mean_tokens * batch, batch) / result.private_seconds;
  if (!result.memory_of_device) {
    struct rusage usage {};
    ::getrusage(RUSAGE_SELF, &usage);
    result.peak_memory = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
  }
  return result;
}

}  // namespace

Result<TrainingBenchmark> benchmark_training(const BenchmarkRequest& request, Progress& progress) {
  TRIB_ASSIGN(const JobSpec job, job_of(request));
  TRIB_ASSIGN(const Config config, config_of(job));
  try {
    TRIB_ASSIGN(TrainingBenchmark result, time_steps(request, config, progress));
    // Beside nothing else, so that its matrices are in no peak and have room.
    for (kernels::Device* device : request.devices) {
      device->trim();
      result.product_limit += product_limit(*device, config.classifier.precision);
    }
    return result;
  } catch (const FatalError& failure) {
    return failure.error();
  } catch (const std::bad_alloc&) {
    return Error{
        Errc::unavailable,
        fmt::format("{} has no memory for this model, not even with one record at once: measure a smaller model "
                    "or shorter records, or free memory that other processes hold",
                    kernels::describe(request.devices))};
  }
}

}  // namespace trib::tasks::lora_text
