#include "tasks/analytic_cil/server_half.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "kernels/ridge.h"
#include "tasks/analytic_cil/model_files.h"
#include "tasks/analytic_cil/statistics.h"
#include "tasks/class_stream/center.h"
#include "tasks/class_stream/classifier.h"
#include "tasks/class_stream/history.h"
#include "tasks/class_stream/pin.h"

namespace trib::tasks::analytic_cil {
namespace {

using class_stream::ItemFeatures;
using class_stream::Judgement;
using class_stream::LabelledFeatures;
using class_stream::PublicSet;

constexpr double noise_probability = 1e-6;  // that the noise of a round's sums has a larger norm than gamma's bound

HostTensor integer(std::int64_t value) {
  HostTensor tensor(DType::i64, {1});
  tensor.as<std::int64_t>()[0] = value;
  return tensor;
}

std::int64_t integer_at(const TensorMap& state, std::string_view name) {
  return state.at(name).as<std::int64_t>()[0];
}

// Errc::corrupt unless the state has a sum of that name and shape.
Status add(const std::string& name, const HostTensor& values, TensorMap& state) {
  if (!state.contains(name) || state[name].dtype() != values.dtype() || state[name].shape() != values.shape()) {
    return Error{Errc::corrupt, fmt::format("the job's state has no \"{}\" of the shape that the sites send", name)};
  }
  const auto sum = state[name].as<double>();
  std::ranges::transform(sum, values.as<double>(), sum.begin(), std::plus());
  return {};
}

class ServerHalf final : public ServerTask {
 public:
  ServerHalf(const JobSpec& job, Config config, std::shared_ptr<ItemFeatures> items,
             std::unique_ptr<kernels::Stream> stream, Buffer buffer, TensorMap constants, double noise_stddev,
             std::shared_ptr<Progress> progress)
      : config_(std::move(config)),
        is_private_(job.privacy.enabled),
        clip_norm_(job.privacy.clip_norm),
        clipping_(job.privacy.clipping),
        noise_stddev_(noise_stddev),
        items_(std::move(items)),
        stream_(std::move(stream)),
        buffer_(std::move(buffer)),
        constants_(std::move(constants)),
        progress_(std::move(progress)) {}

  void set_test_set(PublicSet set) { test_set_ = std::move(set); }
  void set_validation_set(PublicSet set) { validation_set_ = std::move(set); }

  Result<TensorMap> initial_state() override {
    TensorMap state;
    const TensorSchema sums = contribution_schema();
    for (const TensorSpec& spec : sums.specs()) state[spec.name] = HostTensor(spec.dtype, spec.shape);
    const std::int64_t classes = config_.class_count();
    state["weights"] = HostTensor(DType::f64, {classes, buffer_.width()});
    state["gamma"] = HostTensor(DType::f64, {1});
    state["rank"] = integer(0);
    state["round"] = integer(0);
    state["contributions"] = integer(0);
    class_stream::begin_history(state, classes);
    return state;
  }

  Result<TensorMap> next_state(const TensorMap& state, const Sum& sum) override {
    TensorMap next = state;
    double arrived = 0.0;
    for (const auto& [name, values] : sum.total()) {
      TRIB_TRY(add(name, values, next));
      if (name == counts_name)
        for (const double count : values.as<double>()) arrived += count;
    }
    const std::int64_t round = integer_at(state, "round") + 1;
    next["round"] = integer(round);
    next["contributions"] = integer(integer_at(state, "contributions") + sum.contributions());
    const std::vector<bool> exposed = exposed_classes(next);
    TRIB_TRY(solve(next, exposed));
    TRIB_TRY(judge(next, round, exposed, arrived));
    return next;
  }

  const TensorMap& constants() const override { return constants_; }
  Result<TensorMap> broadcast(const TensorMap&) const override { return TensorMap(); }
  TensorSchema broadcast_schema() const override { return TensorSchema(); }
  TensorSchema contribution_schema() const override {
    return statistics_schema(buffer_.width(), config_.class_count(), is_private_);
  }

  Result<Evaluation> evaluate(const TensorMap& state, Progress&) override {
    Evaluation evaluation;
    std::map<std::string, double>& metrics = evaluation.metrics;
    const std::vector<bool> exposed = exposed_classes(state);
    metrics["gamma"] = state.at("gamma").as<double>()[0];
    metrics["rank"] = static_cast<double>(integer_at(state, "rank"));
    metrics["exposed_classes"] = static_cast<double>(std::ranges::count(exposed, true));
    if (!is_private_) {
      double records = 0.0;
      for (const double count : state.at(counts_name).as<double>()) records += count;
      metrics["records"] = records;
    }
    metrics.merge(class_stream::history_metrics(state, config_.labels));
    return evaluation;
  }

  Status export_model(const TensorMap& state, bool, const std::filesystem::path& directory) override {
    return write_model(directory,
                       {.config = config_,
                        .items = items_->identity(),
                        .input_width = items_->width(),
                        .clip_norm = clip_norm_,
                        .clipping = clipping_,
                        .center = constants_.empty() ? std::optional<HostTensor>()
                                                     : std::optional(constants_.at(class_stream::center_name)),
                        .weights = state.at("weights"),
                        .exposed = exposed_classes(state),
                        .gamma = state.at("gamma").as<double>()[0]});
  }

 private:
  std::vector<bool> exposed_classes(const TensorMap& state) const {
    return config_.exposed_classes(is_private_ ? std::span<const double>() : state.at(counts_name).as<double>(),
                                   integer_at(state, "round"));
  }

  // Below it, noise may make eigenvalues negative: what its norm exceeds once in a million rounds, for the noise of all
  // contributions so far. Off the diagonal each has stddev σ/√2 (statistics.h), and on it √2 times that, which moves
  // the bound by nothing: it is the one of the Gaussian orthogonal ensemble.
  double gamma_floor(const TensorMap& state) const {
    if (!is_private_) return 0.0;
    const double contributions = static_cast<double>(integer_at(state, "contributions"));
    const double stddev = noise_stddev_ * std::sqrt(0.5 * contributions);
    return config_.noise_margin * kernels::symmetric_noise_norm(stddev, buffer_.width(), noise_probability);
  }

  // What generalized cross-validation takes for the number of records. With privacy it follows from the noised sums:
  // the trace of XᵀX is Σ‖x‖², at most C² a record, and nearly all features are cut to C.
  double record_count(const TensorMap& state) const {
    double records = 0.0;
    if (!is_private_) {
      for (const double count : state.at(counts_name).as<double>()) records += count;
      return records;
    }
    const auto triangle = state.at(gram_name).as<double>();
    const auto width = static_cast<std::size_t>(buffer_.width());
    for (std::size_t row = 0, place = 0; row < width; place += width - row, ++row) records += triangle[place];
    return std::max(1.0, records / (clip_norm_ * clip_norm_));
  }

  Status solve(TensorMap& state, const std::vector<bool>& exposed) {
    const kernels::Tensor gram = kernels::Tensor::from_host(*stream_, state.at(gram_name));
    const kernels::Tensor class_sums = kernels::Tensor::from_host(*stream_, state.at(class_sums_name));
    const double floor = gamma_floor(state);
    double gamma = std::max(config_.gamma, floor);
    if (config_.selection != GammaSelection::fixed) {
      TRIB_ASSIGN(gamma, select_gamma(state, gram, class_sums, floor, exposed));
    }
    auto solved = kernels::solve_ridge(*stream_, gram, class_sums, gamma);
    if (!solved) return solved.error().with_context(fmt::format("solving with gamma = {:g}", gamma));
    state["weights"] = solved->weights.to_host(*stream_);
    state["gamma"].as<double>()[0] = gamma;
    state["rank"] = integer(solved->rank);
    return {};
  }

  // The grid's best, and of equals the largest. Every candidate costs little once the sums are decomposed.
  Result<double> select_gamma(const TensorMap& state, const kernels::Tensor& gram, const kernels::Tensor& class_sums,
                              double floor, const std::vector<bool>& exposed) {
    TRIB_ASSIGN(const kernels::RidgeSweep sweep, kernels::RidgeSweep::decompose(*stream_, gram, class_sums));
    if (config_.selection == GammaSelection::validation)
      TRIB_TRY(validation_set_->prepare(*stream_, *items_, buffer_, clip_norm_, clipping_, progress_.get()));
    const double records = record_count(state);
    std::optional<double> best;
    double best_score = -std::numeric_limits<double>::infinity();
    std::optional<Error> refused;
    const auto cpu_stream = kernels::cpu_device().make_stream();
    std::vector<double> gammas;
    for (const double candidate : gamma_grid(config_)) {
      const double gamma = std::max(candidate, floor);
      if (gammas.empty() || gamma > gammas.back()) gammas.push_back(gamma);
    }
    for (const double gamma : gammas) {
      double score = 0.0;
      if (config_.selection == GammaSelection::gcv) {
        const auto result = sweep.score(gamma, records, records);
        if (!result) refused = result.error();
        if (!result || !std::isfinite(result->gcv)) continue;
        score = -result->gcv;
      } else {
        const auto weights = sweep.weights(gamma);
        if (!weights) {
          refused = weights.error();
          continue;
        }
        const HostTensor host = weights->to_host(*cpu_stream);  // where the sweep is
        score = validation_set_->judge(*stream_, host, exposed).accuracy;
      }
      if (score >= best_score) {
        best_score = score;
        best = gamma;
      }
    }
    if (!best && refused) return refused->with_context("choosing gamma");
    return best.value_or(gammas.back());  // where nothing has arrived yet, no value is better than another
  }

  // What the round's solution gets right on the public test set, added to the history.
  Status judge(TensorMap& state, std::int64_t round, const std::vector<bool>& exposed, double arrived) {
    if (!test_set_) return {};
    TRIB_TRY(test_set_->prepare(*stream_, *items_, buffer_, clip_norm_, clipping_, progress_.get()));
    const Judgement judged = test_set_->judge(*stream_, state.at("weights"), exposed);
    class_stream::add_to_history(state, judged, arrived, config_.ends_phase(round));
    return {};
  }

  Config config_;
  bool is_private_;
  double clip_norm_;
  privacy::Clipping clipping_;
  double noise_stddev_;  // of each entry that a site adds noise to; 0: none
  std::shared_ptr<ItemFeatures> items_;
  std::unique_ptr<kernels::Stream> stream_;
  Buffer buffer_;
  std::optional<LabelledFeatures> test_set_, validation_set_;
  TensorMap constants_;                 // center.h
  std::shared_ptr<Progress> progress_;  // of making features; null: nobody watches
};

}  // namespace

Result<std::unique_ptr<ServerTask>> make_server(const JobSpec& job, const AggregatorContext& context) {
  TRIB_ASSIGN(Config config, config_of(job));
  AggregatorContext own = context;
  if (!own.shared) own.shared = std::make_shared<SharedResources>();
  TRIB_ASSIGN(const std::shared_ptr<ItemFeatures> items, class_stream::open_aggregator_items(config, own));
  auto stream = context.device->make_stream();
  TRIB_ASSIGN(Buffer buffer, class_stream::shared_buffer(*stream, config, items->width(), *own.shared));
  TRIB_TRY(class_stream::check_features(*stream, config, *items, buffer));
  TRIB_ASSIGN(TensorMap constants, class_stream::open_center(*stream, config, context, *items, buffer));
  double noise_stddev = 0.0;
  if (job.privacy.enabled) {
    // The rate is 1 whatever a site declares, and so the noise is the same at all of them.
    TRIB_ASSIGN(const privacy::Mechanism mechanism, round_mechanism(job, 2));
    noise_stddev = mechanism.noise_multiplier * mechanism.clip_norm;
  }
  std::optional<PublicSet> test_set, validation_set;
  if (!config.evaluation_file.empty()) {
    TRIB_ASSIGN(test_set, class_stream::read_public_set(context.data_directory / config.evaluation_file, config,
                                                        config.evaluation_limit));
  }
  if (config.selection == GammaSelection::validation) {
    TRIB_ASSIGN(validation_set,
                class_stream::read_public_set(context.data_directory / config.validation_file, config, 0));
  }
  auto server = std::make_unique<ServerHalf>(job, std::move(config), items, std::move(stream), std::move(buffer),
                                             std::move(constants), noise_stddev, context.progress);
  if (test_set) server->set_test_set(*std::move(test_set));
  if (validation_set) server->set_validation_set(*std::move(validation_set));
  return std::unique_ptr<ServerTask>(std::move(server));
}

Result<std::vector<std::string>> pin_to_aggregator(const JobSpec& job, const AggregatorContext& context) {
  TRIB_ASSIGN(const Config config, config_of(job));
  TRIB_TRY(class_stream::check_public_set(context, "evaluation.validation_file", config.validation_file, config));
  return class_stream::pin_stream(job, config, context);
}

}  // namespace trib::tasks::analytic_cil
