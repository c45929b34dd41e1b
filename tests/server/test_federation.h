// What tests of the round engine share: a task whose sums can be checked by hand, states in memory, a job's options.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/hash.h"
#include "server/coordinator.h"

namespace trib::server::testing {

// A contribution of site i is the i-th unit vector, so that a round's sum says how often each site was counted. The
// state keeps the sum of every round: "counts", (rounds, sites), and how many rounds there were.
class CountingTask final : public tasks::ServerTask {
 public:
  CountingTask(std::int64_t rounds, std::int64_t sites) : rounds_(rounds), sites_(sites) {
    constants_["constant"] = HostTensor::from_f32({1}, std::vector<float>{42.0f});
  }

  Result<TensorMap> initial_state() override {
    TensorMap state;
    state["counts"] = HostTensor(DType::f64, {rounds_, sites_});
    state["round"] = HostTensor(DType::i64, {1});
    return state;
  }
  Result<TensorMap> next_state(const TensorMap& state, const tasks::Sum& sum) override {
    TensorMap next = state;
    const std::int64_t round = next["round"].as<std::int64_t>()[0]++;
    const auto total = sum.total().at("counts").as<double>();
    const auto counts = next["counts"].as<double>();
    for (std::int64_t i = 0; i < sites_; ++i)
      counts[static_cast<std::size_t>(round * sites_ + i)] = total[static_cast<std::size_t>(i)];
    return next;
  }
  const TensorMap& constants() const override { return constants_; }
  Result<TensorMap> broadcast(const TensorMap& state) const override {
    TensorMap broadcast;
    broadcast["round"] = state.at("round");
    return broadcast;
  }
  TensorSchema broadcast_schema() const override { return TensorSchema({{"round", DType::i64, {1}}}); }
  TensorSchema contribution_schema() const override { return TensorSchema({{"counts", DType::f32, {sites_}}}); }
  Result<tasks::Evaluation> evaluate(const TensorMap& state, tasks::Progress&) override {
    const auto round = static_cast<double>(state.at("round").as<std::int64_t>()[0]);
    return tasks::Evaluation{{{"accuracy", round / 10.0}, {"accuracy_average", round / 20.0}}};
  }
  Status export_model(const TensorMap&, bool, const std::filesystem::path&) override {
    return Error{Errc::unsupported, "nothing to export"};
  }

 private:
  std::int64_t rounds_, sites_;
  TensorMap constants_;
};

inline TensorMap unit_contribution(std::int64_t site, std::int64_t sites) {
  std::vector<float> values(static_cast<std::size_t>(sites));
  values.at(static_cast<std::size_t>(site)) = 1.0f;
  TensorMap tensors;
  tensors["counts"] = HostTensor::from_f32({sites}, values);
  return tensors;
}

// Files that a power cut cannot hurt.
class MemoryStateFiles : public StateFiles {
 public:
  Result<std::string> write(const TensorMap& state, std::string_view job, std::int64_t round) override {
    const std::string name = to_hex(sha256(to_hex(state.digest()) + std::string(job) + std::to_string(round)));
    files_[name] = state;
    return name;
  }
  Result<TensorMap> read(std::string_view sha256) override {
    const auto found = files_.find(sha256);
    if (found == files_.end()) return Error{Errc::not_found, "there is no state " + std::string(sha256)};
    return found->second;
  }
  Status remove(std::string_view sha256) override {
    if (const auto found = files_.find(sha256); found != files_.end()) files_.erase(found);
    return {};
  }
  Status sweep(const std::set<std::string>& referenced) override {
    std::erase_if(files_, [&](const auto& file) { return !referenced.contains(file.first); });
    return {};
  }
  std::size_t count() const { return files_.size(); }

 private:
  std::map<std::string, TensorMap, std::less<>> files_;
};

// Options under which every job text is `spec`, and its task the counting one.
inline CoordinatorOptions counting_options(const tasks::JobSpec& spec, std::int64_t sites) {
  static std::map<std::pair<std::int64_t, std::int64_t>, tasks::TaskDefinition> definitions;
  tasks::TaskDefinition& definition = definitions[{spec.rounds, sites}];
  definition.name = "counting";
  definition.make_server = [rounds = spec.rounds, sites](
                               const tasks::JobSpec&,
                               const tasks::AggregatorContext&) -> Result<std::unique_ptr<tasks::ServerTask>> {
    return std::unique_ptr<tasks::ServerTask>(new CountingTask(rounds, sites));
  };
  CoordinatorOptions options;
  options.read_job = [spec](std::string_view text, std::string_view) -> Result<tasks::JobSpec> {
    tasks::JobSpec copy = spec;
    copy.file_text = text;
    return copy;
  };
  options.pin_job = [](const tasks::JobSpec& job, const tasks::AggregatorContext&) -> Result<tasks::JobSpec> {
    return job;
  };
  options.find_task = [&definition](std::string_view) -> Result<const tasks::TaskDefinition*> { return &definition; };
  return options;
}

inline tasks::JobSpec counting_job(std::int64_t rounds) {
  tasks::JobSpec spec;
  spec.name = "Counting";
  spec.task = "counting";
  spec.rounds = rounds;
  spec.selection.round_deadline_ms = 60'000;
  spec.selection.round_retries = 1;
  return spec;
}

}  // namespace trib::server::testing
