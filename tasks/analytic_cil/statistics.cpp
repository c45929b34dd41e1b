#include "tasks/analytic_cil/statistics.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>

#include "privacy/plan.h"

namespace trib::tasks::analytic_cil {
namespace {

constexpr std::int64_t most_features = 1 << 21;  // of a micro-batch: 8 MiB of float32

using Batch = std::span<const Record* const>;

// What may be summed of a micro-batch.
struct Arrived {
  kernels::Tensor features;  // (n, d) float32; undefined where no record arrives
  std::vector<std::int32_t> labels;
};

Arrived gather(kernels::Stream& stream, Batch records, const Buffer& buffer, std::int64_t first_step,
               std::int64_t last_step) {
  Arrived arrived;
  std::vector<float> values;
  for (const Record* record : records) {
    if (record->step < first_step || record->step > last_step) continue;
    values.insert(values.end(), record->features.begin(), record->features.end());
    arrived.labels.push_back(record->label);
  }
  if (arrived.labels.empty()) return arrived;
  const auto count = static_cast<std::int64_t>(arrived.labels.size());
  const auto width = static_cast<std::int64_t>(values.size()) / count;
  arrived.features =
      buffer.apply(stream, kernels::Tensor::from_host(stream, HostTensor::from_f32({count, width}, values)));
  return arrived;
}

// The pair that each record adds, (xxᵀ, weight·yxᵀ), as outer products: neither of one record is ever written out.
void fill_summands(kernels::Stream& stream, const Arrived& arrived, const kernels::Tensor& features,
                   std::int64_t classes, float weight, kernels::PerSampleGradients& out) {
  const std::int64_t count = features.dim(0), width = features.dim(1);
  HostTensor one_hot(DType::f32, {count, classes});
  for (std::size_t i = 0; i < arrived.labels.size(); ++i)
    one_hot.as<float>()[i * static_cast<std::size_t>(classes) + static_cast<std::size_t>(arrived.labels[i])] = weight;
  out.sample_count = count;
  out.losses = {};
  out.tensors.assign(2, {});
  out.tensors[0].name = gram_name;
  out.tensors[0].shape = {width, width};
  out.tensors[0].output_grads = features;
  out.tensors[0].inputs = features;
  out.tensors[1].name = class_sums_name;
  out.tensors[1].shape = {classes, width};
  out.tensors[1].output_grads = kernels::Tensor::from_host(stream, one_hot);
  out.tensors[1].inputs = features;
}

// The packed triangle of (S + Sᵀ)/2.
HostTensor symmetric_triangle(const HostTensor& square) {
  const std::int64_t d = square.shape()[0];
  HostTensor packed(DType::f64, {kernels::packed_triangle_size(d)});
  const auto from = square.as<double>();
  auto to = packed.as<double>().begin();
  const auto n = static_cast<std::size_t>(d);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = i; j < n; ++j) *to++ = 0.5 * (from[i * n + j] + from[j * n + i]);
  return packed;
}

}  // namespace

TensorSchema statistics_schema(std::int64_t width, std::int64_t classes, bool is_private) {
  std::vector<TensorSpec> specs{{gram_name, DType::f64, {kernels::packed_triangle_size(width)}},
                                {class_sums_name, DType::f64, {classes, width}}};
  if (!is_private) specs.push_back({counts_name, DType::f64, {classes}});
  return TensorSchema(std::move(specs));
}

double record_sensitivity(double clip_norm, double class_sums_weight) {
  return clip_norm * std::hypot(clip_norm, class_sums_weight);
}

Result<privacy::Mechanism> round_mechanism(const JobSpec& job, std::int64_t declared_records) {
  if (declared_records < 1) {
    return Error{Errc::invalid_argument,
                 fmt::format("the site declares {} records; declare the public size of its data set, at least 1",
                             declared_records)};
  }
  if (!job.privacy.enabled) {
    return privacy::Mechanism{
        .kind = privacy::MechanismKind::none,
        .sample_rate = 1.0,
        .noise_multiplier = 0.0,
        .clip_norm = job.privacy.clip_norm > 0.0 ? record_sensitivity(job.privacy.clip_norm, 1.0) : 0.0,
        .steps = 1};
  }
  TRIB_ASSIGN(const privacy::RoundPrivacy plan, privacy::plan_privacy({.epsilon = job.privacy.epsilon,
                                                                       .delta = job.privacy.delta,
                                                                       .declared_records = declared_records,
                                                                       .batch_size = declared_records,
                                                                       .steps_per_round = 1,
                                                                       .max_rounds = job.max_participations(),
                                                                       .accountant = job.privacy.accountant}));
  TRIB_ASSIGN(const Config config, config_of(job));
  // A little above the sensitivity, so that the session's clip, which leaves room for rounding, shortens no record.
  return privacy::round_mechanism(plan,
                                  record_sensitivity(job.privacy.clip_norm, config.class_sums_weight) * (1.0 + 2e-5), 1,
                                  privacy::Clipping::flat, job.privacy.noise);
}

Result<TensorMap> release_statistics(kernels::Stream& stream, privacy::PrivacySession& session,
                                     const privacy::RecordStore<Record>& records, const Config& config,
                                     const Buffer& buffer, double clip_norm, privacy::Clipping rule,
                                     std::int64_t first_step, std::int64_t last_step) {
  const std::int64_t width = buffer.width(), classes = config.class_count();
  privacy::SummandFunctions<Record> functions;
  functions.micro_batch = std::clamp<std::int64_t>(most_features / width, 16, 4096);
  const auto clipped = [&](const kernels::Tensor& features) {
    return clip_norm > 0.0 ? class_stream::clip_rows(stream, features, clip_norm, rule) : features;
  };
  functions.per_record = [&](Batch part, kernels::PerSampleGradients& out) {
    const Arrived arrived = gather(stream, part, buffer, first_step, last_step);
    const kernels::Tensor features =
        arrived.features.defined() ? clipped(arrived.features) : kernels::Tensor::zeros(stream, DType::f32, {1, width});
    fill_summands(stream, arrived, features, classes, static_cast<float>(config.class_sums_weight), out);
  };
  functions.summed = [&](Batch part, const std::vector<kernels::Tensor>& sums) {
    const Arrived arrived = gather(stream, part, buffer, first_step, last_step);
    if (!arrived.features.defined()) return;
    const kernels::Tensor labels = kernels::Tensor::from_host(stream, std::span<const std::int32_t>(arrived.labels));
    kernels::add_ridge_sums(stream, clipped(arrived.features), labels,
                            {.gram = sums[0], .class_sums = sums[1], .counts = sums[2]});
  };

  TensorMap statistics;
  if (session.is_private()) {
    TRIB_ASSIGN(std::vector<HostTensor> sums,
                session.release_sum(stream, records, {{width, width}, {classes, width}}, functions));
    statistics[gram_name] = symmetric_triangle(sums[0]);
    // What was released, in the units of YᵀX.
    for (double& value : sums[1].as<double>()) value /= config.class_sums_weight;
    statistics[class_sums_name] = std::move(sums[1]);
    return statistics;
  }
  const std::vector<Shape> shapes{{kernels::packed_triangle_size(width)}, {classes, width}, {classes}};
  TRIB_ASSIGN(std::vector<HostTensor> sums, session.release_sum(stream, records, shapes, functions));
  statistics[gram_name] = std::move(sums[0]);
  statistics[class_sums_name] = std::move(sums[1]);
  statistics[counts_name] = std::move(sums[2]);
  return statistics;
}

}  // namespace trib::tasks::analytic_cil
