#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>

#include "common/files.h"
#include "common/safetensors.h"
#include "tasks/cold_start/halves.h"
#include "tasks/data/dirichlet_split.h"

namespace trib::tasks::cold_start {
namespace {

constexpr std::string_view first_moment = "optimizer.m.", second_moment = "optimizer.v.";
constexpr const char* optimizer_step = "optimizer.step";

class ServerHalf final : public ServerTask {
 public:
  ServerHalf(const JobSpec& job, Config config, Split split, Catalogue catalogue, std::vector<UserRecord> users)
      : config_(std::move(config)),
        seed_(job.seed),
        split_(std::move(split)),
        catalogue_(std::move(catalogue)),
        users_(std::move(users)),
        model_(config_.model, catalogue_),
        constants_(catalogue_.to_tensors()) {}

  Result<TensorMap> initial_state() override {
    ChaCha20Random random(RandomKey::from_seed(seed_, 3));
    TensorMap state = to_tensors(model_.initial_parameters(random), model_.layout());
    if (config_.optimizer == Config::Optimizer::adam) {
      for (const auto& block : model_.layout().blocks()) {
        state[std::string(first_moment) + block.name] = HostTensor(DType::f32, block.shape);
        state[std::string(second_moment) + block.name] = HostTensor(DType::f32, block.shape);
      }
      state[optimizer_step] = HostTensor(DType::i64, {1});
    }
    return state;
  }

  // The mean is a gradient: Adam (arXiv 1412.6980) or SGD, with decoupled weight decay.
  Result<TensorMap> next_state(const TensorMap& state, const Sum& sum) override {
    TRIB_ASSIGN(const TensorMap mean, sum.mean());
    TensorMap next = state;
    const bool adam = config_.optimizer == Config::Optimizer::adam;
    const double rate = config_.server_learning_rate, keep = 1.0 - rate * config_.weight_decay;
    constexpr double beta_1 = 0.9, beta_2 = 0.999, stability = 1e-8;
    std::int64_t step = 0;
    if (adam) step = ++next[optimizer_step].as<std::int64_t>()[0];
    const double correction_1 = 1.0 - std::pow(beta_1, step), correction_2 = 1.0 - std::pow(beta_2, step);
    for (const auto& block : model_.layout().blocks()) {
      TRIB_ASSIGN(const HostTensor* found, mean.find(block.name));
      const std::span<const double> gradient = found->as<double>();
      const std::span<float> parameters = next[block.name].as<float>();
      if (!adam) {
        for (std::size_t i = 0; i < parameters.size(); ++i)
          parameters[i] = static_cast<float>(keep * parameters[i] - rate * gradient[i]);
        continue;
      }
      const std::span<float> m = next[std::string(first_moment) + block.name].as<float>();
      const std::span<float> v = next[std::string(second_moment) + block.name].as<float>();
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        m[i] = static_cast<float>(beta_1 * m[i] + (1.0 - beta_1) * gradient[i]);
        v[i] = static_cast<float>(beta_2 * v[i] + (1.0 - beta_2) * gradient[i] * gradient[i]);
        const double direction = (m[i] / correction_1) / (std::sqrt(v[i] / correction_2) + stability);
        parameters[i] = static_cast<float>(keep * parameters[i] - rate * direction);
      }
    }
    return next;
  }

  const TensorMap& constants() const override { return constants_; }

  Result<TensorMap> broadcast(const TensorMap& state) const override {
    TensorMap sent;
    for (const auto& block : model_.layout().blocks()) {
      TRIB_ASSIGN(const HostTensor* tensor, state.find(block.name));
      sent[block.name] = *tensor;
    }
    return sent;
  }
  TensorSchema broadcast_schema() const override { return parameter_schema(model_.layout()); }
  TensorSchema contribution_schema() const override { return parameter_schema(model_.layout()); }

  Result<Evaluation> evaluate(const TensorMap& state, Progress& progress) override {
    Evaluation evaluation;
    if (!config_.evaluate) return evaluation;
    if (progress.cancelled()) return Error{Errc::cancelled, "the evaluation was cancelled"};
    TRIB_ASSIGN(const std::vector<float> parameters, from_tensors(state, model_.layout()));
    evaluation.metrics = evaluate_model(model_, parameters, split_, users_, config_.evaluated_part);
    return evaluation;
  }

  // No running average is kept: the last round is what there is. model.safetensors: the parameters, item.vectors
  // (items, d) in the order of items.txt, and the catalogue.
  Status export_model(const TensorMap& state, bool, const std::filesystem::path& directory) override {
    TRIB_ASSIGN(TensorMap model, broadcast(state));
    TRIB_ASSIGN(const std::vector<float> parameters, from_tensors(state, model_.layout()));
    model["item.vectors"] =
        HostTensor::from_f32({catalogue_.item_count(), config_.model.size}, model_.item_vectors(parameters));
    for (const auto& [name, tensor] : constants_) model[name] = tensor;
    TRIB_TRY(make_directories(directory));
    return write_safetensors(directory / "model.safetensors", model);
  }

 private:
  Config config_;
  std::uint64_t seed_;
  Split split_;
  Catalogue catalogue_;
  std::vector<UserRecord> users_;
  Recommender<float> model_;
  TensorMap constants_;
};

}  // namespace

Result<std::unique_ptr<ServerTask>> make_server(const JobSpec& job, const AggregatorContext& context) {
  TRIB_ASSIGN(Config config, config_of(job));
  TRIB_ASSIGN(const Dataset dataset, load_dataset(config, context.data_directory));
  TRIB_ASSIGN(Split split, Split::make(dataset, config.split));
  Catalogue catalogue = Catalogue::from(dataset, split.available(), config.min_word_count);
  std::vector<UserRecord> users = user_records(dataset, split.training());
  return std::unique_ptr<ServerTask>(
      std::make_unique<ServerHalf>(job, std::move(config), std::move(split), std::move(catalogue), std::move(users)));
}

Result<std::vector<TaskDefinition::SiteData>> split_data(const JobSpec& job,
                                                         const std::filesystem::path& data_directory,
                                                         std::int64_t sites, RandomSource& random,
                                                         const std::filesystem::path& directory) {
  TRIB_ASSIGN(const Config config, config_of(job));
  TRIB_ASSIGN(const Dataset dataset, load_dataset(config, data_directory));
  TRIB_ASSIGN(const Split split, Split::make(dataset, config.split));
  std::vector<std::int32_t> users, occupations;
  const auto training = split.training_items();
  for (std::size_t user = 0; user < training.size(); ++user) {
    if (training[user].empty()) continue;
    users.push_back(static_cast<std::int32_t>(user));
    occupations.push_back(dataset.users[user].attributes.occupation);
  }
  std::vector<std::vector<std::size_t>> dealt;
  if (config.one_user_a_site) {
    if (sites > std::ssize(users)) {
      return Error{Errc::invalid_argument,
                   fmt::format("simulate.sites = {}, one user each, but only {} users have interactions to train on",
                               sites, users.size())};
    }
    for (std::size_t i = 0; i < static_cast<std::size_t>(sites); ++i) {
      std::swap(users[i], users[i + random.below(users.size() - i)]);
      dealt.push_back({i});
    }
  } else {
    TRIB_ASSIGN(dealt,
                data::dirichlet_split(occupations, static_cast<std::size_t>(sites), config.dirichlet_alpha, 1, random));
  }
  TRIB_TRY(make_directories(directory));
  std::vector<TaskDefinition::SiteData> result;
  std::vector<std::vector<Interaction>> by_user(dataset.users.size());
  for (const Interaction& pair : split.training()) by_user[static_cast<std::size_t>(pair.user)].push_back(pair);
  for (const std::vector<std::size_t>& members : dealt) {
    std::vector<std::int32_t> own;
    std::vector<Interaction> pairs;
    for (const std::size_t member : members) {
      own.push_back(users[member]);
      const auto& theirs = by_user[static_cast<std::size_t>(users[member])];
      pairs.insert(pairs.end(), theirs.begin(), theirs.end());
    }
    const std::filesystem::path file = directory / fmt::format("site-{}.tsv", result.size() + 1);
    TRIB_TRY(write_site_file(file, dataset, own, pairs));
    result.push_back({.file = file, .records = std::ssize(own)});
  }
  return result;
}

}  // namespace trib::tasks::cold_start
