#include "tasks/linear_probe/halves.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "kernels/gemm.h"
#include "kernels/per_sample.h"
#include "tasks/class_stream/buffer.h"
#include "tasks/class_stream/center.h"
#include "tasks/class_stream/classifier.h"
#include "tasks/class_stream/history.h"
#include "tasks/class_stream/items.h"
#include "tasks/class_stream/records.h"
#include "tasks/dp_sgd_round.h"
#include "tasks/halves.h"
#include "tasks/linear_probe/config.h"

namespace trib::tasks::linear_probe {
namespace {

using class_stream::Buffer;
using class_stream::ItemFeatures;
using class_stream::Record;
using Batch = std::span<const Record* const>;

constexpr const char* weights_name = "weights";
constexpr const char* seen_name = "seen";  // how many records of each label were trained on for the first time

TensorSchema weights_schema(std::int64_t classes, std::int64_t width) {
  return TensorSchema({{weights_name, DType::f32, {classes, width}}});
}

TensorSchema contribution_schema_of(std::int64_t classes, std::int64_t width, bool is_private) {
  std::vector<TensorSpec> specs{{weights_name, DType::f32, {classes, width}}, {"records", DType::f64, {1}}};
  if (!is_private) specs.push_back({seen_name, DType::f64, {classes}});
  return TensorSchema(std::move(specs));
}

class ClientHalf final : public ClientTask {
 public:
  ClientHalf(JobSpec job, Config config, SiteContext site, privacy::Mechanism mechanism,
             std::unique_ptr<kernels::Stream> stream, Buffer buffer, std::vector<Record> records)
      : job_(std::move(job)),
        config_(std::move(config)),
        site_(std::move(site)),
        mechanism_(mechanism),
        stream_(std::move(stream)),
        buffer_(std::move(buffer)) {
    // How many records arrive in which phase, and of what: for jobs without privacy alone.
    for (const Record& record : records) {
      std::vector<double>& of_phase = arrivals_[config_.stream.phase_of(record.step)];
      of_phase.resize(config_.stream.labels.size(), 0.0);
      of_phase[static_cast<std::size_t>(record.label)] += 1.0;
    }
    records_ = std::make_unique<privacy::RecordStore<Record>>(std::move(records));
  }

  Result<privacy::Charge> charge(const RoundPlan& plan) const override {
    return round_charge(job_, site_, plan, mechanism_);
  }
  Status set_constants(const TensorMap& constants) override {
    return class_stream::take_center(*stream_, config_.stream, constants, buffer_);
  }

  Result<privacy::Contribution> train(const TensorMap& broadcast, const RoundPlan& plan,
                                      privacy::PrivacySession& privacy, Progress& progress) override {
    const std::int64_t classes = config_.stream.class_count(), width = buffer_.width();
    TRIB_TRY(broadcast.check_schema(weights_schema(classes, width)));
    TRIB_TRY(broadcast.check_finite());
    TRIB_TRY(class_stream::check_center(config_.stream, buffer_));
    const std::vector<kernels::Tensor> parameters{kernels::Tensor::from_host(*stream_, broadcast.at(weights_name))};
    phase_ = config_.stream.phase_of(plan.round);

    double arrived = static_cast<double>(site_.declared_records);
    HostTensor seen(DType::f64, {classes});
    if (!privacy.is_private()) {
      arrived = 0.0;
      // Nobody has seen the phase's records at this site before.
      const bool begins = plan.last_counted == 0 || phase_ > config_.stream.phase_of(plan.last_counted);
      if (const auto of_phase = arrivals_.find(phase_); of_phase != arrivals_.end()) {
        arrived = std::accumulate(of_phase->second.begin(), of_phase->second.end(), 0.0);
        if (begins) std::ranges::copy(of_phase->second, seen.as<double>().begin());
      }
    }

    const privacy::GradientFunctions<Record> functions = gradients(parameters.front());
    const auto update = [&](const std::vector<kernels::Tensor>& mean) {
      if (config_.weight_decay > 0.0)
        kernels::scale(*stream_, 1.0 - config_.learning_rate * config_.weight_decay, parameters.front());
      kernels::axpy(*stream_, -config_.learning_rate, mean.front(), parameters.front());
    };
    for (std::int64_t step = 1; step <= config_.local_steps; ++step) {
      if (progress.cancelled()) return Error{Errc::cancelled, "training was cancelled"};
      TRIB_ASSIGN(const privacy::StepReport report,
                  privacy.dp_sgd_step(*stream_, *records_, parameters, functions, update));
      progress.step(step, config_.local_steps, report.mean_loss);
    }

    const HostTensor trained = parameters.front().to_host(*stream_);
    TensorMap sent;
    sent[weights_name] = HostTensor(DType::f32, trained.shape());
    std::ranges::transform(trained.as<float>(), sent[weights_name].as<float>().begin(),
                           [&](float weight) { return static_cast<float>(arrived * static_cast<double>(weight)); });
    sent["records"] = HostTensor::from_f64({1}, std::vector<double>{arrived});
    if (!privacy.is_private()) sent[seen_name] = std::move(seen);
    return privacy.contribute(std::move(sent), 1.0);
  }

 private:
  // Softmax minus the unit vector, of the records of the phase, and zero of the others.
  kernels::PerSampleGradient gradient_of(Batch records, const kernels::Tensor& weights, HostTensor& losses) {
    const auto count = static_cast<std::int64_t>(records.size());
    std::vector<float> values;
    for (const Record* record : records) values.insert(values.end(), record->features.begin(), record->features.end());
    const std::int64_t inputs = std::ssize(values) / count, classes = weights.dim(0);
    const kernels::Tensor features =
        buffer_.apply(*stream_, kernels::Tensor::from_host(*stream_, HostTensor::from_f32({count, inputs}, values)));
    const kernels::PackedMatrix packed(*stream_, weights, true, DType::f32);
    const kernels::Tensor scores(stream_->device(), DType::f32, {count, classes});
    kernels::packed_product(*stream_, features, packed, {}, false, scores);

    HostTensor out = scores.to_host(*stream_);
    losses = HostTensor(DType::f32, {count});
    std::vector<double> powers(static_cast<std::size_t>(classes));
    for (std::size_t i = 0; i < records.size(); ++i) {
      const auto row =
          out.as<float>().subspan(i * static_cast<std::size_t>(classes), static_cast<std::size_t>(classes));
      if (config_.stream.phase_of(records[i]->step) != phase_) {
        std::ranges::fill(row, 0.0f);
        continue;
      }
      const double largest = *std::ranges::max_element(row);
      // Less than the smallest float64 is 0, which exp() takes long to find out.
      std::ranges::transform(row, powers.begin(),
                             [&](float score) { return score - largest < -750.0 ? 0.0 : std::exp(score - largest); });
      const double sum = std::accumulate(powers.begin(), powers.end(), 0.0);
      const auto label = static_cast<std::size_t>(records[i]->label);
      losses.as<float>()[i] = static_cast<float>(std::log(sum) + largest - row[label]);
      std::ranges::transform(powers, row.begin(), [&](double power) { return static_cast<float>(power / sum); });
      row[label] -= 1.0f;
    }
    kernels::PerSampleGradient gradient;
    gradient.name = weights_name;
    gradient.shape = {classes, features.dim(1)};
    gradient.output_grads = kernels::Tensor::from_host(*stream_, out);
    gradient.inputs = features;
    return gradient;
  }

  privacy::GradientFunctions<Record> gradients(const kernels::Tensor& weights) {
    privacy::GradientFunctions<Record> functions;
    functions.micro_batch = 1024;
    functions.per_sample = [this, weights](Batch records, kernels::PerSampleGradients& out) {
      HostTensor losses;
      out.sample_count = std::ssize(records);
      out.tensors.assign(1, gradient_of(records, weights, losses));
      out.losses = kernels::Tensor::from_host(*stream_, losses);
    };
    functions.summed = [this, weights](Batch records, const std::vector<kernels::Tensor>& sums,
                                       const kernels::Tensor& loss) {
      // Records of other phases add nothing: most of a sample, where there are many phases.
      std::vector<const Record*> arrived;
      std::ranges::copy_if(records, std::back_inserter(arrived),
                           [&](const Record* record) { return config_.stream.phase_of(record->step) == phase_; });
      if (arrived.empty()) return;
      HostTensor losses;
      const kernels::PerSampleGradient gradient = gradient_of(arrived, weights, losses);
      const kernels::Tensor on_device = kernels::Tensor::from_host(*stream_, losses);
      const auto rows = [](const kernels::Tensor& tensor) { return kernels::MatrixView(tensor); };
      kernels::matmul_transposed(*stream_, 1.0f, rows(gradient.output_grads), rows(gradient.inputs), true,
                                 rows(sums.front()));
      kernels::add_sum(*stream_, on_device, loss);
    };
    return functions;
  }

  JobSpec job_;
  Config config_;
  SiteContext site_;
  privacy::Mechanism mechanism_;
  std::unique_ptr<kernels::Stream> stream_;
  Buffer buffer_;
  std::map<std::int64_t, std::vector<double>> arrivals_;  // by phase, then label; a phase without records is not there
  std::unique_ptr<privacy::RecordStore<Record>> records_;
  std::int64_t phase_ = 1;
};

class ServerHalf final : public ServerTask {
 public:
  ServerHalf(const JobSpec& job, Config config, std::shared_ptr<ItemFeatures> items,
             std::unique_ptr<kernels::Stream> stream, Buffer buffer, TensorMap constants,
             std::optional<class_stream::LabelledFeatures> test_set, std::shared_ptr<Progress> progress)
      : config_(std::move(config)),
        is_private_(job.privacy.enabled),
        items_(std::move(items)),
        stream_(std::move(stream)),
        buffer_(std::move(buffer)),
        test_set_(std::move(test_set)),
        constants_(std::move(constants)),
        progress_(std::move(progress)) {}

  Result<TensorMap> initial_state() override {
    TensorMap state;
    state[weights_name] = HostTensor(DType::f32, {config_.stream.class_count(), buffer_.width()});
    state[seen_name] = HostTensor(DType::f64, {config_.stream.class_count()});
    state["round"] = HostTensor(DType::i64, {1});
    class_stream::begin_history(state, config_.stream.class_count());
    return state;
  }

  Result<TensorMap> next_state(const TensorMap& state, const Sum& sum) override {
    TensorMap next = state;
    const std::int64_t round = ++next["round"].as<std::int64_t>()[0];
    const double records = sum.total().at("records").as<double>()[0];
    if (records > 0.0) {
      std::ranges::transform(sum.total().at(weights_name).as<double>(), next[weights_name].as<float>().begin(),
                             [&](double weight) { return static_cast<float>(weight / records); });
    }
    double arrived = 0.0;
    if (!is_private_) {
      const auto seen = next[seen_name].as<double>();
      const auto fresh = sum.total().at(seen_name).as<double>();
      for (std::size_t c = 0; c < seen.size(); ++c) seen[c] += fresh[c];
      arrived = records / static_cast<double>(config_.stream.steps_per_phase);
    }
    if (!test_set_) return next;
    TRIB_TRY(test_set_->prepare(*stream_, *items_, buffer_, 0.0, privacy::Clipping::flat, progress_.get()));
    HostTensor wide(DType::f64, next[weights_name].shape());
    std::ranges::copy(std::as_const(next).at(weights_name).as<float>(), wide.as<double>().begin());
    const std::vector<bool> exposed = config_.stream.exposed_classes(
        is_private_ ? std::span<const double>() : std::as_const(next).at(seen_name).as<double>(), round);
    class_stream::add_to_history(next, test_set_->judge(*stream_, wide, exposed), arrived,
                                 config_.stream.ends_phase(round));
    return next;
  }

  const TensorMap& constants() const override { return constants_; }
  Result<TensorMap> broadcast(const TensorMap& state) const override {
    TensorMap sent;
    sent[weights_name] = state.at(weights_name);
    return sent;
  }
  TensorSchema broadcast_schema() const override {
    return weights_schema(config_.stream.class_count(), buffer_.width());
  }
  TensorSchema contribution_schema() const override {
    return contribution_schema_of(config_.stream.class_count(), buffer_.width(), is_private_);
  }
  Result<Evaluation> evaluate(const TensorMap& state, Progress&) override {
    return Evaluation{.metrics = class_stream::history_metrics(state, config_.stream.labels)};
  }
  Status export_model(const TensorMap&, bool, const std::filesystem::path&) override {
    return Error{Errc::unsupported, "linear_probe is there to be compared with and exports no model: use analytic_cil"};
  }

 private:
  Config config_;
  bool is_private_;
  std::shared_ptr<ItemFeatures> items_;
  std::unique_ptr<kernels::Stream> stream_;
  Buffer buffer_;
  std::optional<class_stream::LabelledFeatures> test_set_;
  TensorMap constants_;                 // class_stream/center.h
  std::shared_ptr<Progress> progress_;  // of making features; null: nobody watches
};

}  // namespace

Result<privacy::Mechanism> round_mechanism(const JobSpec& job, std::int64_t declared_records) {
  TRIB_ASSIGN(const Config config, config_of(job));
  return dp_sgd_round(job, config.batch_size, config.local_steps, declared_records);
}

Result<std::unique_ptr<ClientTask>> make_client(const JobSpec& job, const SiteContext& site) {
  TRIB_ASSIGN(Config config, config_of(job));
  SiteContext context = site;
  if (!context.shared) context.shared = std::make_shared<SharedResources>();
  TRIB_ASSIGN(const privacy::Mechanism mechanism, linear_probe::round_mechanism(job, site.declared_records));
  TRIB_ASSIGN(const std::shared_ptr<ItemFeatures> items, class_stream::open_site_items(config.stream, context));
  auto stream = site.devices.front()->make_stream();
  TRIB_ASSIGN(Buffer buffer, shared_buffer(*stream, config.stream, items->width(), *context.shared));
  TRIB_TRY(class_stream::check_features(*stream, config.stream, *items, buffer));
  TRIB_ASSIGN(std::vector<Record> records,
              class_stream::read_records(site.data_file, config.stream, *items, site.progress.get()));
  return std::unique_ptr<ClientTask>(std::make_unique<ClientHalf>(
      job, std::move(config), std::move(context), mechanism, std::move(stream), std::move(buffer), std::move(records)));
}

Result<std::unique_ptr<ServerTask>> make_server(const JobSpec& job, const AggregatorContext& context) {
  TRIB_ASSIGN(Config config, config_of(job));
  AggregatorContext own = context;
  if (!own.shared) own.shared = std::make_shared<SharedResources>();
  TRIB_ASSIGN(const std::shared_ptr<ItemFeatures> items, class_stream::open_aggregator_items(config.stream, own));
  auto stream = context.device->make_stream();
  TRIB_ASSIGN(Buffer buffer, shared_buffer(*stream, config.stream, items->width(), *own.shared));
  TRIB_TRY(class_stream::check_features(*stream, config.stream, *items, buffer));
  TRIB_ASSIGN(TensorMap constants, class_stream::open_center(*stream, config.stream, context, *items, buffer));
  std::optional<class_stream::LabelledFeatures> test_set;
  if (!config.stream.evaluation_file.empty()) {
    TRIB_ASSIGN(class_stream::PublicSet set,
                class_stream::read_public_set(context.data_directory / config.stream.evaluation_file, config.stream,
                                              config.stream.evaluation_limit));
    test_set.emplace(std::move(set));
  }
  return std::unique_ptr<ServerTask>(std::make_unique<ServerHalf>(job, std::move(config), items, std::move(stream),
                                                                  std::move(buffer), std::move(constants),
                                                                  std::move(test_set), context.progress));
}

}  // namespace trib::tasks::linear_probe
