// What sites send: sums over records, from which the aggregator solves the ridge regression.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/hash.h"
#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/ridge.h"
#include "privacy/mechanism.h"
#include "privacy/session.h"
#include "tasks/analytic_cil/config.h"
#include "tasks/class_stream/buffer.h"
#include "tasks/class_stream/records.h"

namespace trib::tasks::analytic_cil {

using class_stream::Buffer;
using class_stream::Record;

// Names of what travels. With d features and C labels: XᵀX as the packed upper triangle (kernels/ridge.h), YᵀX (C, d)
// and, in jobs without privacy, the number of records of each label (C). All float64.
inline constexpr const char* gram_name = "gram";
inline constexpr const char* class_sums_name = "class_sums";
inline constexpr const char* counts_name = "counts";

TensorSchema statistics_schema(std::int64_t width, std::int64_t classes, bool is_private);

// What one record adds under privacy, and why the noise covers it.
//
// A record's features are scaled so that ‖x‖ ≤ C = privacy.clip_norm; y is a unit vector. It adds the pair (xxᵀ, yxᵀ),
// of which ‖xxᵀ‖_F = ‖x‖² ≤ C² and ‖yxᵀ‖_F = ‖x‖ ≤ C, so in the joint L2 norm √(C⁴ + C²): √2 for C = 1. Under
// add/remove-one that is the sensitivity of the pair of sums, and the session's joint clip enforces it.
// With ridge.class_sums_weight = w the pair is (xxᵀ, w·yxᵀ), of sensitivity √(C⁴ + w²C²), and what was released of the
// second is divided by w afterwards. Relative to w = 1 that moves noise from YᵀX, where its stddev is now
// z·√(C⁴/w² + C²) for the noise multiplier z, to XᵀX, where it is z·√(C⁴ + w²C²).
// The noise is added to all d² entries of XᵀX, N(0, σ²) each, in one mechanism with YᵀX: its sensitivity is the
// Frobenius norm of the whole matrix, each off-diagonal product counted twice, as in ‖xxᵀ‖_F. Only then the two halves
// are averaged, (S + Sᵀ)/2, which is post-processing: what is sent is XᵀX + E with a symmetric E of independent
// N(0, σ²) on the diagonal and N(0, σ²/2) beside it. That is the same release as noise N(0, σ²) on the triangle whose
// off-diagonal entries are scaled by √2, the coordinates in which the triangle has the Frobenius norm.
double record_sensitivity(double clip_norm, double class_sums_weight);

// What one round costs: one release over all records. MechanismKind::none if the job is not private.
Result<privacy::Mechanism> round_mechanism(const JobSpec& job, std::int64_t declared_records);

// The statistics of the records that arrive in the rounds first_step to last_step, released by `session` in one call.
// With clip_norm above 0 features are scaled to at most that norm.
Result<TensorMap> release_statistics(kernels::Stream& stream, privacy::PrivacySession& session,
                                     const privacy::RecordStore<Record>& records, const Config& config,
                                     const Buffer& buffer, double clip_norm, privacy::Clipping rule,
                                     std::int64_t first_step, std::int64_t last_step);

}  // namespace trib::tasks::analytic_cil
