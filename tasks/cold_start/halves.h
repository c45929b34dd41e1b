// The two halves of the task, and the data that a simulation deals out.
//
// Broadcast and contribution have the model's parameters by name (ParameterLayout), float32: θ_t down, and up the mean
// gradient that the site's steps stand for, (θ_t − θ_site)/(learning rate · steps). The state has, besides,
// optimizer.m.NAME and optimizer.v.NAME (float32) and optimizer.step ([1] int64) where the aggregator's optimizer is
// Adam. The constants are the catalogue.
#pragma once

#include <memory>
#include <vector>

#include "common/random.h"
#include "common/result.h"
#include "tasks/cold_start/config.h"
#include "tasks/task.h"

namespace trib::tasks::cold_start {

// A record is a user. As for every task: expected batch and declared size give the sampling rate.
Result<privacy::Mechanism> round_mechanism(const JobSpec& job, const Config& config, std::int64_t declared_records);

Result<std::unique_ptr<ClientTask>> make_client(const JobSpec& job, const SiteContext& site);
Result<std::unique_ptr<ServerTask>> make_server(const JobSpec& job, const AggregatorContext& context);

// Users who have something to train on, dealt out to site-1.tsv, site-2.tsv, …: by occupation in Dirichlet proportions,
// or one to each site where the job says so.
Result<std::vector<TaskDefinition::SiteData>> split_data(const JobSpec& job,
                                                         const std::filesystem::path& data_directory,
                                                         std::int64_t sites, RandomSource& random,
                                                         const std::filesystem::path& directory);

// Parameters as tensors, and back: float32, by the layout's names.
TensorMap to_tensors(std::span<const float> parameters, const models::ParameterLayout& layout);
Result<std::vector<float>> from_tensors(const TensorMap& tensors, const models::ParameterLayout& layout);
TensorSchema parameter_schema(const models::ParameterLayout& layout);

// Metrics of `parameters` in every setting of the split that has queries: "warm.recall@20", ….
std::map<std::string, double> evaluate_model(const Recommender<float>& model, std::span<const float> parameters,
                                             const Split& split, const std::vector<UserRecord>& users, Part part);

}  // namespace trib::tasks::cold_start
